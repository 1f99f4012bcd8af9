package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/wire"
)

// A sink is where a feed writes: server-sent events or a socket. What is added
// is sent by flush, under a deadline: a reader that takes nothing must not
// hold a connection for ever.
type sink interface {
	ready(position int64)
	resync(position int64, reason string)
	operation(op *semel.Operation) error
	alive()
	flush() error
	// end says why nothing more comes, as far as the reader can be told; nil
	// is for an end that was expected.
	end(why error)
}

// A feed keeps one reader informed for as long as it stays connected. Truth is
// in the store alone: a feed subscribes first and then reads, so that what
// happens in between is seen by one or the other.
type feed struct {
	g     *Gateway
	r     *http.Request
	who   Identity
	watch *semel.Watch
	sink  sink
	from  int64         // outcomes up to this position are told
	moves <-chan move   // where the reader wants to go on; nil if it cannot say
	again time.Duration // between looks beside the wake-ups; 0 for heartbeats only
}

// A move is a reader's wish to go on from elsewhere, or what was wrong with it.
type move struct {
	after string
	err   error
}

// errDraining ends every feed when the engine ends.
var errDraining = errors.New("the server is about to stop")

// loop runs step at every wake-up until it is done, the reader leaves, or the
// reader may not stay. It returns nil for the first two.
func (f *feed) loop(ctx context.Context, step func(context.Context) (done bool, err error)) error {
	heartbeat := time.NewTicker(f.g.options.Heartbeat)
	defer heartbeat.Stop()
	again, stopAgain := tick(f.again)
	defer stopAgain()
	recheck, stopRecheck := tick(f.g.options.Reauthorize)
	defer stopRecheck()
	for {
		var done bool
		err := apart(func() (err error) {
			if done, err = step(ctx); err == nil {
				err = f.sink.flush()
			}
			return err
		})
		if done || err != nil {
			return leftOr(ctx, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-f.watch.C:
			if !open {
				return errDraining
			}
		case <-again:
		case <-heartbeat.C: // and look into the store again, should a wake-up have been missed
			f.sink.alive()
		case m := <-f.moves:
			if err := f.move(ctx, m); err != nil {
				return leftOr(ctx, err)
			}
		case <-recheck:
			if err := f.g.recheck(f.r, f.who); err != nil {
				return leftOr(ctx, err)
			}
		}
	}
}

// apart calls a function on a stack of its own: what reads a store and writes
// JSON takes a deep one, and whoever waits for hours afterwards would keep it.
func apart(call func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if cause := recover(); cause != nil { // as net/http does for its own goroutines
				done <- fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
			}
		}()
		done <- call()
	}()
	return <-done
}

// leftOr forgets an error that only says that the reader has left.
func leftOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// tick is a ticker that a duration of 0 or less keeps silent.
func tick(every time.Duration) (c <-chan time.Time, stop func()) {
	if every <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(every)
	return t.C, t.Stop
}

// end tells the reader why its feed is over, and the log if it should not be.
// The reader comes back with its last position and misses nothing.
func (f *feed) end(why error) {
	var refused *refusedError
	switch {
	case why == nil, errors.Is(why, errDraining):
	case errors.As(why, &refused):
		f.g.options.Logger.DebugContext(f.r.Context(), "stream refused", slog.Any("error", why))
	default:
		f.g.options.Logger.WarnContext(f.r.Context(), "stream interrupted",
			slog.String("path", f.r.URL.EscapedPath()), slog.Any("error", why))
	}
	f.sink.end(why)
}

// bounds are between what a reader can resume.
type bounds struct{ horizon, head int64 }

func (g *Gateway) bounds(ctx context.Context) (b bounds, err error) {
	err = apart(func() (err error) {
		b, err = g.readBounds(ctx)
		return err
	})
	return b, err
}

func (g *Gateway) readBounds(ctx context.Context) (b bounds, err error) {
	if b.head, err = g.engine.Head(ctx); err != nil {
		return b, fmt.Errorf("reading the head of the log: %w", unavailableUnless(err))
	}
	if b.horizon, err = g.engine.Horizon(ctx); err != nil {
		return b, fmt.Errorf("reading how far back outcomes are kept: %w", unavailableUnless(err))
	}
	return b, nil
}

// begin tells the reader where its feed starts.
func (f *feed) begin(last string, b bounds) {
	from, ok := parsePosition(last)
	f.from = b.head
	switch {
	case last == "":
		f.sink.ready(b.head)
	case !ok:
		f.sink.resync(b.head, fmt.Sprintf("the last event id %s is not a position", wire.Shorten(last)))
	case from > b.head:
		f.sink.resync(b.head, fmt.Sprintf("the last event id %d is beyond the end of the log, %d", from, b.head))
	case from < b.horizon:
		// What is still kept follows; the reader has to look up the rest.
		f.from = from
		f.sink.resync(from, fmt.Sprintf("outcomes up to position %d are no longer all kept", b.horizon))
	default:
		f.from = from
		f.sink.ready(from)
	}
}

func (f *feed) move(ctx context.Context, m move) error {
	if m.err != nil {
		return m.err
	}
	b, err := f.g.bounds(ctx)
	if err != nil {
		return err
	}
	f.begin(m.after, b)
	return nil
}

// outcomes sends all outcomes that are not told yet. It is never done.
func (f *feed) outcomes(ctx context.Context) (done bool, err error) {
	const batch = 100
	for {
		ops, err := f.g.engine.Operations(ctx, semel.OperationQuery{
			Tenant: f.who.Tenant, Principal: f.who.Principal, After: f.from, Limit: batch,
		})
		if err != nil {
			return false, fmt.Errorf("reading outcomes after %d: %w", f.from, err)
		}
		for _, op := range ops {
			if err := f.sink.operation(op); err != nil {
				return false, err
			}
			f.from = op.DonePosition
		}
		if err := f.sink.flush(); err != nil {
			return false, err
		}
		if len(ops) < batch {
			return false, nil
		}
	}
}

// lastEventID returns where the reader wants to go on: the header that a
// browser sends when it comes back, or the query that it can begin with.
func lastEventID(r *http.Request) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	return r.URL.Query().Get("after")
}

// recheck asks again whether a reader may stay: its credentials may have ended
// since, or its permission.
func (g *Gateway) recheck(r *http.Request, who Identity) error {
	if !ticketed(r) {
		now, err := g.identify(r)
		if err != nil {
			return err
		}
		if now != who {
			return refusal(unauthorized, "the request's credentials are another caller's by now")
		}
	} else if g.options.Recheck == nil {
		return refusal(unauthorized, "what a ticket opened lasts no longer; come back with a new one")
	}
	return g.mayRead(r, who)
}

// mayRead asks the hook for readers, if there is one.
func (g *Gateway) mayRead(r *http.Request, who Identity) error {
	if g.options.Recheck == nil {
		return nil
	}
	err := g.options.Recheck(r.Context(), who)
	if err == nil || errors.Is(err, semel.ErrUnavailable) {
		return err
	}
	g.options.Logger.DebugContext(r.Context(), "reader refused",
		slog.String("principal", who.Principal), slog.Any("error", err))
	return refusal(forbidden, "the caller may not read outcomes")
}
