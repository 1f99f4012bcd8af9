package idempotency

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync/atomic"

	"github.com/semel-dev/semel"
)

// callKey is where a handler's context has its call.
type callKey struct{}

// Unit returns the unit of work that a handler is called with: its Tx is the
// transaction in which the answer is stored, and what is emitted through it
// goes into the log with both. Tx is the type of the store's transactions,
// such as sqlite.Tx. It is false for a request that is not kept: one without a
// key, or with a safe method.
func Unit[Tx any](ctx context.Context) (*semel.Unit[Tx], bool) {
	c, ok := ctx.Value(callKey{}).(*call[Tx])
	if !ok {
		return nil, false
	}
	c.taken.Store(true)
	return c.unit, true
}

// A call is one request on its way through [semel.Do].
type call[Tx any] struct {
	*middleware[Tx]
	next    http.Handler
	request *http.Request
	header  http.Header // of the answer, as the middleware around this one left it
	parcel  parcel

	unit  *semel.Unit[Tx]
	taken atomic.Bool // by the handler
	made  *made       // by the last call of the handler
}

// made is what came of one call of the handler.
type made struct {
	response *response
	err      error
	panicked any
}

// An unkeptError takes an answer that is not stored through [semel.Do]: to
// who sent the request, and to its repeats in the same transaction.
type unkeptError struct{ *made }

func (e *unkeptError) Error() string { return "the answer is not final" }

// rejected is the code of a [semel.Rejection] that stands for an answer of
// 400 to 499, with that as its result.
const rejected = "answered"

// once runs the handler, or finds out what it said the first time.
func (m *middleware[Tx]) once(w http.ResponseWriter, r *http.Request, next http.Handler, p parcel) error {
	c := &call[Tx]{middleware: m, next: next, request: r, header: w.Header().Clone(), parcel: p}
	p.command.Body = p.what.encode()
	kept, replayed, err := semel.Do(r.Context(), m.engine, p.command, c.run)
	if errors.Is(err, semel.ErrInvalid) && p.what.JSON != nil {
		// JSON of which readers differ. It is the handler's matter whether it
		// takes it; as bytes it is as good as any other.
		p.command.Body = p.what.hashed(p.body).encode()
		kept, replayed, err = semel.Do(r.Context(), m.engine, p.command, c.run)
	}
	var unkept *unkeptError
	var rejection *semel.Rejection
	switch {
	case errors.As(err, &unkept) && unkept.panicked != nil:
		panic(unkept.panicked)
	case errors.As(err, &unkept) && unkept.made == c.made:
		unkept.response.send(w)
		return nil
	case errors.As(err, &unkept): // a repeat in the same transaction
		kept, replayed = unkept.response.keep(m.options.Headers), false
	case errors.As(err, &rejection) && rejection.Code == rejected:
		if err := json.Unmarshal(rejection.Result, &kept); err != nil {
			return fmt.Errorf("decoding a stored answer: %w", err)
		}
	case err != nil:
		return err
	}
	switch {
	case replayed:
		w.Header().Set("Idempotent-Replayed", "true")
	case c.made != nil:
		c.made.response.send(w)
		return nil
	}
	kept.send(w)
	return nil
}

// run calls the handler within the engine's transaction. The engine calls it
// again when the transaction was rolled back for another's sake. A handler
// that has not asked for the transaction has lost nothing by that, and what it
// did elsewhere must not be done twice: then its answer stands.
func (c *call[Tx]) run(ctx context.Context, u *semel.Unit[Tx]) (answer, error) {
	if c.made == nil || c.taken.Load() {
		c.made = c.handle(ctx, u)
	}
	switch {
	case c.made.err != nil:
		return answer{}, c.made.err
	case c.made.panicked != nil:
		return answer{}, &unkeptError{c.made}
	}
	status := c.made.response.status
	kept := c.made.response.keep(c.options.Headers)
	switch {
	case status < 400:
		return kept, nil
	case status < 500 && c.options.Final(status):
		result, err := json.Marshal(kept)
		if err != nil {
			return answer{}, fmt.Errorf("encoding an answer: %w", err)
		}
		return answer{}, &semel.Rejection{Code: rejected, Reason: http.StatusText(status), Status: status, Result: result}
	}
	return answer{}, &unkeptError{c.made}
}

func (c *call[Tx]) handle(ctx context.Context, u *semel.Unit[Tx]) (m *made) {
	c.unit = u
	ctx = &within[Tx]{ctx, c}
	r := c.request.Clone(ctx)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(c.parcel.body)), int64(len(c.parcel.body))
	r.TransferEncoding = nil
	w := &recorder{header: c.header.Clone(), most: c.options.MaxAnswer}
	m = &made{}
	defer func() {
		if v := recover(); v != nil {
			m.panicked = v
			if v != http.ErrAbortHandler { // the goroutine that goes on panicking knows no stack of this one
				c.options.Logger.ErrorContext(ctx, "handler panicked", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
			}
			_, _ = w.end()
		}
	}()
	c.next.ServeHTTP(w, r)
	m.response, m.err = w.end()
	return m
}

// within is the handler's context: its end is the engine's, its values are the
// request's and the engine's. A client that leaves does not end it: the answer
// is stored for when it comes back.
type within[Tx any] struct {
	context.Context // the engine's
	call            *call[Tx]
}

func (w *within[Tx]) Value(key any) any {
	if key == (callKey{}) {
		return w.call
	}
	if value := w.Context.Value(key); value != nil {
		return value
	}
	return w.call.request.Context().Value(key)
}
