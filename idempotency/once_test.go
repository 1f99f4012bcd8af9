package idempotency

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// A handler's context has the values of both sides and the end of the
// engine's.
func TestWithin(t *testing.T) {
	t.Parallel()
	type key string
	synctest.Test(t, func(t *testing.T) {
		request, leave := context.WithCancel(context.WithValue(t.Context(), key("request"), 1))
		engine, cancel := context.WithTimeout(context.WithValue(t.Context(), key("engine"), 2), time.Second)
		defer cancel()
		c := &call[int]{request: httptest.NewRequestWithContext(request, "POST", "/", nil)}
		ctx := &within[int]{engine, c}
		below, done := context.WithCancel(ctx)
		defer done()
		leave()
		synctest.Wait()
		if ctx.Err() != nil || below.Err() != nil || ctx.Value(key("request")) != 1 || ctx.Value(key("engine")) != 2 || ctx.Value(key("none")) != nil {
			t.Errorf("after the client left: %v, %v", ctx.Err(), ctx)
		}
		if _, ok := Unit[int](ctx); !ok || !c.taken.Load() {
			t.Error("the context has no unit")
		}
		if _, ok := Unit[string](ctx); ok {
			t.Error("the context has a unit of another store")
		}
		<-below.Done()
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) || !errors.Is(below.Err(), context.DeadlineExceeded) {
			t.Errorf("at the engine's end: %v, %v", ctx.Err(), below.Err())
		}
	})
}
