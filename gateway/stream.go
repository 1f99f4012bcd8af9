package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/semel-dev/semel"
)

// A stream writes server-sent events. What is added is sent by flush, under a
// deadline: a reader that takes nothing must not hold a connection for ever.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	pending bytes.Buffer
}

// open begins the answer. Nothing can be refused after it.
func (g *Gateway) open(w http.ResponseWriter) *stream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would keep events back otherwise
	w.WriteHeader(http.StatusOK)
	s := &stream{w: w, control: http.NewResponseController(w), stall: g.options.Stall}
	s.pending.WriteString("retry: 1000\n\n")
	return s
}

// noID leaves the id of an event out: the reader keeps the last one it had.
const noID = -1

// event adds one event. Data is one line.
func (s *stream) event(name string, id int64, data []byte) {
	fmt.Fprintf(&s.pending, "event: %s\n", name)
	if id != noID {
		fmt.Fprintf(&s.pending, "id: %d\n", id)
	}
	fmt.Fprintf(&s.pending, "data: %s\n\n", data)
}

func (s *stream) comment(text string) { fmt.Fprintf(&s.pending, ": %s\n\n", text) }

func (s *stream) flush() error {
	_ = s.control.SetWriteDeadline(time.Now().Add(s.stall)) // where it is not supported, the server's own limit holds
	if _, err := s.w.Write(s.pending.Bytes()); err != nil {
		return err
	}
	s.pending.Reset()
	return s.control.Flush()
}

// finish sends what is pending and lifts the deadline, which would outlive
// this request on a connection that is kept.
func (s *stream) finish() {
	if s.flush() == nil {
		_ = s.control.SetWriteDeadline(time.Time{})
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

// outcomes answers GET /operations/events: every outcome of the caller's
// operations, in the order of the log, from Last-Event-ID or from now.
func (g *Gateway) outcomes(w http.ResponseWriter, r *http.Request, who Identity) error {
	head, err := g.engine.Head(r.Context())
	if err != nil {
		return fmt.Errorf("reading the head of the log: %w", unavailableUnless(err))
	}
	horizon, err := g.engine.Horizon(r.Context())
	if err != nil {
		return fmt.Errorf("reading how far back outcomes are kept: %w", unavailableUnless(err))
	}
	// Watching begins before the first read, so that what ends in between is
	// seen by one or the other.
	watch := g.engine.Watch(who.Tenant, who.Principal)
	defer watch.Close()
	s := g.open(w)
	from := s.begin(lastEventID(r), horizon, head)
	if r.Method == http.MethodHead {
		return nil
	}
	heartbeat := time.NewTicker(g.options.Heartbeat)
	defer heartbeat.Stop()
	for {
		if from, err = g.sendOutcomes(r.Context(), s, who, from); err != nil {
			g.interrupted(r, s, err)
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case _, open := <-watch.C:
			if !open {
				s.comment("the server is about to stop")
				s.finish()
				return nil
			}
		case <-heartbeat.C: // and look into the store again, should a wake-up have been missed
			s.comment("alive")
		}
	}
}

// begin tells the reader where its stream starts, and returns that position.
func (s *stream) begin(last string, horizon, head int64) int64 {
	from, ok := parsePosition(last)
	switch {
	case last == "":
		from = head
	case !ok:
		s.resync(head, fmt.Sprintf("the last event id %s is not a position", shorten(last)))
		return head
	case from > head:
		s.resync(head, fmt.Sprintf("the last event id %d is beyond the end of the log, %d", from, head))
		return head
	case from < horizon:
		// What is still kept follows; the reader has to look up the rest.
		s.resync(from, fmt.Sprintf("outcomes up to position %d are no longer all kept", horizon))
		return from
	}
	s.event("ready", from, position(from))
	return from
}

func (s *stream) resync(head int64, reason string) {
	data, _ := json.Marshal(struct { // a string and a number always encode
		Reason   string  `json:"reason"`
		Position wideInt `json:"position"`
	}{reason, wideInt(head)})
	s.event("resync", head, data)
}

func position(n int64) []byte {
	text, _ := wideInt(n).MarshalJSON()
	return append(append([]byte(`{"position":`), text...), '}')
}

// sendOutcomes sends all outcomes after a position and returns the last one's.
func (g *Gateway) sendOutcomes(ctx context.Context, s *stream, who Identity, from int64) (int64, error) {
	const batch = 100
	for {
		ops, err := g.engine.Operations(ctx, semel.OperationQuery{
			Tenant: who.Tenant, Principal: who.Principal, After: from, Limit: batch,
		})
		if err != nil {
			return from, fmt.Errorf("reading outcomes after %d: %w", from, err)
		}
		for _, op := range ops {
			if err := s.operation(op); err != nil {
				return from, err
			}
			from = op.DonePosition
		}
		if s.pending.Len() > 0 {
			if err := s.flush(); err != nil {
				return from, fmt.Errorf("writing to a stream: %w", err)
			}
		}
		if len(ops) < batch {
			return from, nil
		}
	}
}

func (s *stream) operation(op *semel.Operation) error {
	data, err := encodeOperation(op)
	if err != nil {
		return err
	}
	id := int64(noID)
	if op.State.Done() {
		id = op.DonePosition
	}
	s.event("operation."+string(op.State), id, data)
	return nil
}

// interrupted ends a stream that cannot go on. The reader comes back with its
// last event id and misses nothing.
func (g *Gateway) interrupted(r *http.Request, s *stream, err error) {
	if r.Context().Err() != nil {
		return // the reader left
	}
	g.options.Logger.WarnContext(r.Context(), "stream interrupted",
		slog.String("path", r.URL.EscapedPath()), slog.Any("error", err))
	if s.pending.Len() == 0 { // otherwise it is the reader who did not read
		s.comment("interrupted; come back")
		s.finish()
	}
}

// glance is how often an open operation is looked at beside the wake-ups,
// which tell of outcomes and not of every attempt.
const glance = time.Second

// follow answers GET /operations/{id}/events: how the operation stands, and
// every change until it is done.
func (g *Gateway) follow(w http.ResponseWriter, r *http.Request, who Identity) error {
	id, err := operationID(r)
	if err != nil {
		return err
	}
	watch := g.engine.Watch(who.Tenant, who.Principal)
	defer watch.Close()
	op, err := g.engine.Operation(r.Context(), who.Tenant, who.Principal, id)
	if err != nil {
		return noOperation(err, id)
	}
	if last, ok := parsePosition(lastEventID(r)); ok && op.State.Done() && last >= op.DonePosition {
		w.WriteHeader(http.StatusNoContent) // tells a browser not to come back
		return nil
	}
	s := g.open(w)
	if r.Method == http.MethodHead {
		return nil
	}
	if err := g.followUntilDone(r, s, who, op, watch); err != nil {
		g.interrupted(r, s, err)
	}
	return nil
}

func (g *Gateway) followUntilDone(r *http.Request, s *stream, who Identity, op *semel.Operation, watch *semel.Watch) error {
	heartbeat := time.NewTicker(g.options.Heartbeat)
	defer heartbeat.Stop()
	again := time.NewTicker(glance)
	defer again.Stop()
	if err := s.operation(op); err != nil {
		return err
	}
	for !op.State.Done() {
		if s.pending.Len() > 0 {
			if err := s.flush(); err != nil {
				return fmt.Errorf("writing to a stream: %w", err)
			}
		}
		select {
		case <-r.Context().Done():
			return nil
		case _, open := <-watch.C:
			if !open {
				s.comment("the server is about to stop")
				s.finish()
				return nil
			}
		case <-again.C:
		case <-heartbeat.C:
			s.comment("alive")
		}
		now, err := g.engine.Operation(r.Context(), who.Tenant, who.Principal, op.ID)
		if err != nil {
			return fmt.Errorf("reading operation %s: %w", op.ID, err)
		}
		if now.State != op.State || now.Attempts != op.Attempts {
			if err := s.operation(now); err != nil {
				return err
			}
		}
		op = now
	}
	s.finish()
	return nil
}
