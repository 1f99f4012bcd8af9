package semel

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"
)

// Options are the engine's choices; the zero value is fit for production.
type Options struct {
	Logger *slog.Logger // nil means slog.Default()
	// Window is how long a full answer is kept for repeats; 0 means 7 days.
	Window time.Duration
	// Tombstone is how long after that a late repeat is still recognised and
	// refused; 0 means 400 days.
	Tombstone time.Duration
	// Backlog is how many commands may wait for their group before more are
	// refused with [ErrOverloaded]; 0 means 4096.
	Backlog int
	// Group is the most operations in one transaction; 0 means 128.
	Group int
}

// An Engine runs commands against one store. Register every handler and
// projection before [Engine.Run]; all other methods may be called concurrently.
type Engine[Tx any] struct {
	store   Store[Tx]
	options Options

	mu          sync.Mutex
	running     bool
	commands    map[string]*definition[Tx]
	projections []*projection[Tx]
	kinds       map[reflect.Type]eventKind
}

// New returns an engine on a store.
func New[Tx any](store Store[Tx], o *Options) *Engine[Tx] {
	return &Engine[Tx]{store: store}
}

func (e *Engine[Tx]) register(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		panic("semel: handlers, projections and events are registered before the engine runs")
	}
	f()
}

// An Answer is what [Engine.Submit] found.
type Answer struct {
	// Operation is done, or accepted durably and still open.
	Operation *Operation
	// Replayed is set when the command had been sent before.
	Replayed bool
}

// SubmitOptions say how long to wait.
type SubmitOptions struct {
	// Async asks only for durable acceptance.
	Async bool
	// Wait is how long to wait for the outcome; 0 means until ctx ends.
	// When it passes, the operation is returned as it stands.
	Wait time.Duration
}

func (e *Engine[Tx]) Run(ctx context.Context) error { panic("to be written") }
func (e *Engine[Tx]) Ready() <-chan struct{} { panic("to be written") }
func (e *Engine[Tx]) Commands() []string { panic("to be written") }
func (e *Engine[Tx]) Submit(ctx context.Context, c Command, o SubmitOptions) (Answer, error) { panic("to be written") }
func (e *Engine[Tx]) Operation(ctx context.Context, tenant, principal string, id ID) (*Operation, error) { panic("to be written") }
func (e *Engine[Tx]) Operations(ctx context.Context, q OperationQuery) ([]*Operation, error) { panic("to be written") }
func (e *Engine[Tx]) Await(ctx context.Context, tenant, principal string, id ID) (*Operation, error) { panic("to be written") }
func (e *Engine[Tx]) Head(ctx context.Context) (int64, error) { panic("to be written") }

// A Watch wakes its reader.
type Watch struct{ C <-chan struct{} }
func (w *Watch) Close() {}
func (e *Engine[Tx]) Watch(tenant, principal string) *Watch { panic("to be written") }
