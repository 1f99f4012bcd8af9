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

type correlationKey struct{}

// CorrelationFrom returns the correlation of the operation whose handler or
// projection was called with ctx.
func CorrelationFrom(ctx context.Context) (Correlation, bool) {
	c, ok := ctx.Value(correlationKey{}).(Correlation)
	return c, ok
}

func withCorrelation(ctx context.Context, c Correlation) context.Context {
	return context.WithValue(ctx, correlationKey{}, c)
}
