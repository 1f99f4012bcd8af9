package recipes

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/go-chi/chi/v5"
)

// ChiRoute is for [idempotency.Options].Route.
func ChiRoute(r *http.Request) string {
	return r.Method + " " + chi.RouteContext(r.Context()).RoutePattern()
}

// Chi is a router of chi, which takes net/http middleware as it is. It goes
// around the routes, with With or in a Group, and not into Use: there chi has
// not matched yet, and its context would not stand a second call.
func Chi(once Middleware) http.Handler {
	router := chi.NewRouter()
	router.With(once).Post("/orders/{item}", func(w http.ResponseWriter, r *http.Request) {
		order, err := Place(r.Context(), chi.URLParam(r, "item"))
		switch {
		case errors.Is(err, ErrSoldOut):
			http.Error(w, err.Error(), http.StatusConflict)
			return
		case err != nil:
			http.Error(w, "try again", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(order)
	})
	return router
}
