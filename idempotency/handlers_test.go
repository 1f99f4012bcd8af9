package idempotency_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/idempotency"
	"github.com/semel-dev/semel/sqlite"
)

func (s *shop) handlers() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"/orders":               s.counted(s.takeOrder),
		"POST /status/{status}": s.counted(s.answerStatus),
		"POST /panic":           s.counted(s.panics),
		"POST /text/{size}":     s.counted(s.text),
		"POST /bytes":           s.counted(s.bytes),
		"POST /held/{gate}":     s.counted(s.held),
		"POST /apart":           s.counted(s.apart),
		"POST /whoami":          s.counted(s.whoami),
		"POST /stream":          s.counted(s.stream),
		"POST /event":           s.counted(s.event),
		"POST /nested":          s.counted(s.nested),
		"POST /twice":           idempotency.New(s.engine, &idempotency.Options{Authenticate: authenticate})(s.counted(s.takeOrder)).ServeHTTP,
	}
}

func (s *shop) counted(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		h(w, r)
	}
}

// takeOrder answers like any handler of JSON: with headers of several kinds.
func (s *shop) takeOrder(w http.ResponseWriter, r *http.Request) {
	if _, ok := idempotency.Unit[sqlite.Tx](r.Context()); !ok {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	number, err := order(r, string(body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Location", "/orders/"+strconv.FormatInt(number, 10))
	h.Set("Content-Type", "application/json")
	h.Set("Set-Cookie", "session=secret")
	h.Set("X-Listed", "kept")
	h.Set("X-Request-Id", r.Header.Get("X-Request-Id"))
	w.WriteHeader(http.StatusCreated)
	h.Set("X-Listed", "too late")
	_ = json.NewEncoder(w).Encode(map[string]int64{"number": number})
}

func (s *shop) answerStatus(w http.ResponseWriter, r *http.Request) {
	if _, err := order(r, "whatever"); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	status, _ := strconv.Atoi(r.PathValue("status"))
	w.Header().Set("X-Calls", strconv.FormatInt(s.calls.Load(), 10))
	w.WriteHeader(status)
	fmt.Fprintf(w, "call %d", s.calls.Load())
}

func (s *shop) panics(w http.ResponseWriter, r *http.Request) {
	_, err := order(r, "whatever")
	panic(fmt.Sprint("on purpose; ", err))
}

func (s *shop) text(w http.ResponseWriter, r *http.Request) {
	if _, err := order(r, "whatever"); err != nil {
		panic(err)
	}
	size, _ := strconv.Atoi(r.PathValue("size"))
	w.Header().Set("Content-Length", strconv.Itoa(size))
	_, _ = io.WriteString(w, strings.Repeat("x", size))
}

func (s *shop) bytes(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	for i := range 256 {
		_, _ = w.Write([]byte{byte(i)})
	}
}

func (s *shop) held(w http.ResponseWriter, r *http.Request) {
	number, err := order(r, "held")
	if err != nil {
		panic(err)
	}
	select {
	case <-s.gate(r.PathValue("gate")):
		fmt.Fprintf(w, "order %d", number)
	case <-r.Context().Done():
		http.Error(w, "the context ended", http.StatusInternalServerError)
	}
}

// apart has its effect somewhere else: its calls are what counts.
func (s *shop) apart(w http.ResponseWriter, r *http.Request) {
	s.apartCalls.Add(1)
	fmt.Fprintf(w, "call of %s", r.Header.Get("Idempotency-Key"))
}

func (s *shop) whoami(w http.ResponseWriter, r *http.Request) {
	u, _ := idempotency.Unit[sqlite.Tx](r.Context())
	op := u.Operation()
	c, _ := semel.CorrelationFrom(r.Context())
	fmt.Fprintf(w, "%s/%s %s %s %s", op.Tenant, op.Principal, r.Header.Get("Idempotency-Key"), c.TraceID, r.Header.Get("X-Secret"))
}

func (s *shop) stream(w http.ResponseWriter, r *http.Request) {
	_, flusher := w.(http.Flusher)
	_, hijacker := w.(http.Hijacker)
	_, _, hijack := http.NewResponseController(w).Hijack()
	flush := http.NewResponseController(w).Flush()
	fmt.Fprint(w, flusher, hijacker, errors.Is(hijack, http.ErrNotSupported), errors.Is(flush, http.ErrNotSupported))
}

// nested sends a command to its own engine, which cannot take it now.
func (s *shop) nested(w http.ResponseWriter, r *http.Request) {
	c := semel.Command{Principal: "alice", Name: "nested", Key: "k"}
	_, _, err := semel.Do(r.Context(), s.engine, c, func(context.Context, *semel.Unit[sqlite.Tx]) (int, error) { return 0, nil })
	fmt.Fprint(w, errors.Is(err, semel.ErrInvalid))
}

type Ordered struct {
	Number int64 `json:"number"`
}

func (s *shop) event(w http.ResponseWriter, r *http.Request) {
	number, err := order(r, "with an event")
	if err != nil {
		panic(err)
	}
	u, _ := idempotency.Unit[sqlite.Tx](r.Context())
	u.Emit(Ordered{number})
	w.WriteHeader(http.StatusNoContent)
	if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrBodyNotAllowed) {
		panic(fmt.Sprintf("a body with 204: %v", err))
	}
}
