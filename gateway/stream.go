package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/semel-dev/semel"
)

// A stream writes server-sent events.
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

func (s *stream) alive() { s.comment("alive") }

func (s *stream) ready(position int64) {
	s.event("ready", position, encodeMark(mark{Position: wideInt(position)}))
}

func (s *stream) resync(position int64, reason string) {
	s.event("resync", position, encodeMark(mark{Reason: reason, Position: wideInt(position)}))
}

// A mark tells a reader where its feed starts, and why it is not where the
// reader wanted to.
type mark struct {
	Type     string  `json:"type,omitempty"`
	Reason   string  `json:"reason,omitempty"`
	Position wideInt `json:"position"`
}

func encodeMark(m mark) []byte {
	data, _ := json.Marshal(m) // strings and a number always encode
	return data
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

func (s *stream) flush() error {
	if s.pending.Len() == 0 {
		return nil
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(s.stall)) // where it is not supported, the server's own limit holds
	_, err := s.w.Write(s.pending.Bytes())
	if err == nil {
		err = s.control.Flush()
	}
	if err != nil {
		return fmt.Errorf("writing to a stream: %w", err)
	}
	s.pending.Reset()
	return nil
}

// end also lifts the deadline, which would outlive this request on a
// connection that is kept.
func (s *stream) end(why error) {
	var refused *refusedError
	switch {
	case why == nil:
	case errors.Is(why, errDraining):
		s.comment(why.Error())
	case s.pending.Len() > 0: // it is the reader who did not read
		return
	case errors.As(why, &refused): // coming back tells more
		s.comment("no longer authorized")
	default:
		s.comment("interrupted; come back")
	}
	if s.flush() == nil {
		_ = s.control.SetWriteDeadline(time.Time{})
	}
}

// outcomes answers GET /operations/events: every outcome of the caller's
// operations, in the order of the log, from Last-Event-ID or from now.
func (g *Gateway) outcomes(w http.ResponseWriter, r *http.Request, who Identity) error {
	b, err := g.bounds(r.Context())
	if err != nil {
		return err
	}
	watch := g.engine.Watch(who.Tenant, who.Principal)
	defer watch.Close()
	f := &feed{g: g, r: r, who: who, watch: watch, sink: g.open(w)}
	f.begin(lastEventID(r), b)
	if r.Method == http.MethodHead {
		return nil
	}
	f.end(f.loop(r.Context(), f.outcomes))
	return nil
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
	f := &feed{g: g, r: r, who: who, watch: watch, sink: g.open(w), again: glance}
	if r.Method == http.MethodHead {
		return nil
	}
	f.end(f.loop(r.Context(), f.changes(op)))
	return nil
}

// changes returns the step that sends an operation whenever it has changed.
func (f *feed) changes(op *semel.Operation) func(context.Context) (bool, error) {
	var told *semel.Operation
	return func(ctx context.Context) (done bool, err error) {
		if told != nil {
			if op, err = f.g.engine.Operation(ctx, f.who.Tenant, f.who.Principal, told.ID); err != nil {
				return false, fmt.Errorf("reading operation %s: %w", told.ID, err)
			}
		}
		if told == nil || op.State != told.State || op.Attempts != told.Attempts {
			err = f.sink.operation(op)
		}
		told = op
		return op.State.Done(), err
	}
}
