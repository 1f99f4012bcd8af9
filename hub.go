package semel

import (
	"context"
	"sync"
	"time"
)

// hub tells those who wait in this process that operations have changed. It
// carries no truth: a reader subscribes first and then reads the store, so
// that a missed or doubled wake-up costs a read and never an answer.
type hub struct {
	mu       sync.Mutex
	closed   bool
	watched  chan struct{} // signalled when the first watcher comes
	waiters  map[ID]map[chan *Operation]struct{}
	watchers map[scope]map[chan struct{}]struct{}
}

// scope is whose operations they are.
type scope struct{ tenant, principal string }

func newHub() *hub {
	return &hub{
		watched:  make(chan struct{}, 1),
		waiters:  make(map[ID]map[chan *Operation]struct{}),
		watchers: make(map[scope]map[chan struct{}]struct{}),
	}
}

// await subscribes to the outcome of one operation. The channel gets it once,
// and is closed when the engine ends. The caller calls forget.
func (h *hub) await(id ID) (outcome chan *Operation, forget func()) {
	outcome = make(chan *Operation, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(outcome)
		return outcome, func() {}
	}
	subscribe(h.waiters, id, outcome)
	return outcome, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		unsubscribe(h.waiters, id, outcome)
	}
}

func (h *hub) watch(s scope) *Watch {
	wake := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(wake)
		return &Watch{C: wake, forget: func() {}}
	}
	subscribe(h.watchers, s, wake)
	select {
	case h.watched <- struct{}{}:
	default:
	}
	return &Watch{C: wake, forget: func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		unsubscribe(h.watchers, s, wake)
	}}
}

// tell wakes everybody whom a committed change concerns.
func (h *hub) tell(ops []*Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	for _, op := range ops {
		if op.State.Done() {
			for w := range h.waiters[op.ID] {
				w <- op // one buffered place, and each waiter gets one outcome
			}
			delete(h.waiters, op.ID)
		}
		for w := range h.watchers[scope{op.Tenant, op.Principal}] {
			wakeUp(w)
		}
	}
}

func (h *hub) anyWatcher() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers) > 0
}

func wakeUp(w chan struct{}) {
	select {
	case w <- struct{}{}:
	default: // already woken; it will read everything
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, set := range h.waiters {
		for w := range set {
			close(w)
		}
	}
	for _, set := range h.watchers {
		for w := range set {
			close(w)
		}
	}
	h.waiters, h.watchers = nil, nil
}

func subscribe[K comparable, C comparable](sets map[K]map[C]struct{}, key K, c C) {
	if sets[key] == nil {
		sets[key] = make(map[C]struct{})
	}
	sets[key][c] = struct{}{}
}

func unsubscribe[K comparable, C comparable](sets map[K]map[C]struct{}, key K, c C) {
	delete(sets[key], c)
	if len(sets[key]) == 0 {
		delete(sets, key)
	}
}

// How often the log's end is looked at while somebody watches: soon after it
// has moved, seldom when it rests.
const (
	listenFirst = 20 * time.Millisecond
	listenMost  = time.Second
)

// listenUntil tells the watchers of this process of outcomes that others have
// written to the store: another replica, or another engine. What this engine
// commits itself is known, so it mostly costs a look at the log's end.
func (e *Engine[Tx]) listenUntil(ctx context.Context) {
	for wait := listenFirst; ; {
		if !e.hub.anyWatcher() {
			select {
			case <-e.hub.watched:
			case <-ctx.Done():
				return
			}
			if head, err := e.store.Head(ctx); err == nil {
				e.heard.Store(head) // who watches reads what was before
			}
		}
		if pause(ctx, wait) {
			return
		}
		known := e.heard.Load()
		head, err := e.store.Head(ctx)
		if err != nil || head <= known {
			wait = min(2*wait, listenMost)
			continue
		}
		wait = listenFirst
		if e.tellAfter(ctx, known) == nil {
			e.heard.CompareAndSwap(known, head)
		}
	}
}

func (e *Engine[Tx]) tellAfter(ctx context.Context, position int64) error {
	const batch = 500
	for {
		ops, err := e.store.Operations(ctx, OperationQuery{All: true, After: position, Limit: batch})
		if err != nil {
			return err
		}
		e.hub.tell(ops)
		if len(ops) < batch {
			return nil
		}
		position = ops[len(ops)-1].DonePosition
	}
}

// A Watch wakes a reader when operations of one caller have changed. It may
// wake without a change, and once for many: after each wake, read the store.
type Watch struct {
	// C is closed when the engine ends.
	C      <-chan struct{}
	forget func()
}

// Close ends the watch. It is safe to call it twice.
func (w *Watch) Close() { w.forget() }
