package semel

import (
	"context"
	"time"
)

// A Correlation is the context that travels, unchanged, with a command, its
// operation and every event after it. It is a value: a copy handed to a
// handler cannot change what is stored. The gateway fills it from the request;
// fields that nobody knows stay empty.
type Correlation struct {
	ID          string    `json:"id,omitempty"`          // of the whole flow; the first operation's id unless the caller sent one
	UserID      string    `json:"userId,omitempty"`      // the principal
	ResourceID  string    `json:"resourceId,omitempty"`  // what is to be created or changed, where the caller knows
	TraceID     string    `json:"traceId,omitempty"`     // W3C trace id, 32 hexadecimal digits
	SpanContext string    `json:"spanContext,omitempty"` // W3C traceparent as received
	Connection  string    `json:"connectionId,omitempty"`
	Name        string    `json:"name,omitempty"`     // the command's name
	Origin      string    `json:"origin,omitempty"`   // where the request came in, such as a URL path
	Resource    string    `json:"resource,omitempty"` // kind of resource
	Culture     string    `json:"culture,omitempty"`  // BCP 47 language tag
	Retries     int       `json:"retries,omitempty"`  // how often the client had sent it before
	CreatedAt   time.Time `json:"createdAt,omitzero"`
}

// handling is what a handler's or a projection's context carries.
type handling struct {
	correlation Correlation
	engine      any // whose transaction it is
}

type handlingKey struct{}

// CorrelationFrom returns the correlation of the operation whose handler was
// called with ctx.
func CorrelationFrom(ctx context.Context) (Correlation, bool) {
	h, ok := ctx.Value(handlingKey{}).(*handling)
	if !ok {
		return Correlation{}, false
	}
	return h.correlation, true
}

func withHandling(ctx context.Context, h *handling) context.Context {
	return context.WithValue(ctx, handlingKey{}, h)
}

// within reports whether ctx is that of a handler in one of the engine's own
// transactions.
func within(ctx context.Context, engine any) bool {
	h, ok := ctx.Value(handlingKey{}).(*handling)
	return ok && h.engine == engine
}
