package recipes

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v5"
)

// OnceEcho makes middleware for a route of echo. It is not echo.WrapMiddleware,
// which turns errors into answers only outside: here an answer that is not
// seen would be stored as an empty 200.
func OnceEcho(once Middleware) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			request, response := c.Request(), c.Response()
			defer func() { c.SetRequest(request); c.SetResponse(response) }()
			matched := *request
			matched.Pattern = request.Method + " " + c.Path()
			once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c.SetRequest(r)
				c.SetResponse(echo.NewResponse(w, c.Echo().Logger))
				if err := next(c); err != nil {
					c.Echo().HTTPErrorHandler(c, err)
				}
			})).ServeHTTP(response, &matched)
			return nil
		}
	}
}

// Echo is a router of echo with the middleware on one route.
func Echo(once Middleware) http.Handler {
	router := echo.New()
	router.POST("/orders/:item", func(c *echo.Context) error {
		order, err := Place(c.Request().Context(), c.Param("item"))
		if errors.Is(err, ErrSoldOut) {
			return echo.NewHTTPError(http.StatusConflict, err.Error())
		}
		if err != nil {
			return err
		}
		return c.JSON(http.StatusCreated, order)
	}, OnceEcho(once))
	return router
}
