package client

import (
	"container/heap"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/semel-dev/semel"
)

// An entry is one intention in memory. Its fields are guarded by the queue's
// mutex, except that who has claimed it may read what was so before.
type entry struct {
	key       string
	name      string // for errors
	number    int64  // in the order of creation
	intention intention
	created   time.Time

	state     PendingState
	stored    bool
	ready     chan struct{} // closed when it is known whether it was stored
	refused   error         // why it was not
	sent      bool          // a request may have left, says the store
	reached   bool          // a request may have reached the server
	claimed   bool          // by a sender, a caller, or a cancellation
	operation string
	tries     int
	failures  int // since the last sign of life
	failed    tally
	due       time.Time
	pause     time.Duration // between polls
	place     int           // in the heap of those that are due; -1 if it is not there

	ended  time.Time
	done   chan struct{} // closed when it is
	result func() (*Reply, error)
}

func (e *entry) kind() int {
	if e.state == PendingAccepted {
		return polls
	}
	return sends
}

func (e *entry) snapshot() *Pending {
	p := &Pending{Key: e.key, Request: e.intention.request(e.key), Created: e.created, State: e.state,
		Operation: e.operation, Tries: e.tries, entry: e}
	switch {
	case e.state.Done():
		_, p.Err = e.result()
	case len(e.failed.distinct) > 0:
		f := e.failed.clone()
		p.Err = f.err("failing", e.failures)
	}
	if !e.claimed && !e.state.Done() {
		p.Due = e.due
	}
	return p
}

// What an entry waits for: to be sent, or to be asked after. They are counted
// apart, so that long operations do not keep new ones from being sent.
const (
	sends = iota
	polls
	kinds
)

// A queue is what a client has pending, in memory, and in the file if there is
// one.
type queue struct {
	file   *PendingFile // nil: in memory only
	budget *Budget
	limit  int // requests at a time, of each kind

	mu      sync.Mutex
	entries map[string]*entry
	number  int64
	due     [kinds]dueHeap
	active  [kinds]int
	down    int       // series of failures to reach the server; 0 if it answers
	probe   time.Time // when the next try may be made while it is down
	lastErr error
	run     *run          // nil while nobody runs it
	wake    chan struct{} // of run
	watches map[chan struct{}]bool
}

func newQueue(file *PendingFile, base string, o *Options) (*queue, error) {
	q := &queue{file: file, budget: o.Budget, limit: o.Senders, entries: make(map[string]*entry),
		wake: make(chan struct{}, 1), watches: make(map[chan struct{}]bool)}
	if file == nil {
		return q, nil
	}
	found, err := file.take(base)
	if err != nil {
		return nil, err
	}
	for i := range found {
		q.restore(&found[i])
	}
	for _, e := range q.entries {
		if !e.state.Done() {
			heap.Push(&q.due[e.kind()], e)
		}
	}
	return q, nil
}

// restore does to the queue what the record says was done.
func (q *queue) restore(r *record) {
	e := q.entries[r.Key]
	if r.Type == typeIntention {
		e = q.add(r.Key, r.Intention, r.At)
		e.stored = true
		close(e.ready)
		e.sent = r.Sending
	}
	if e.state.Done() && r.Type != typeAcknowledged {
		return
	}
	switch r.Type {
	case typeSending:
		e.sent = true
	case typeUnsent:
		e.sent = false
	case typeAccepted:
		e.state, e.operation = PendingAccepted, r.Operation
	case typeOutcome:
		e.end(r.Outcome, r.At, nil)
		return
	case typeAcknowledged:
		delete(q.entries, r.Key)
		return
	}
	if e.reached = e.sent; e.sent && e.state == PendingWaiting {
		e.state = PendingSending
	} else if !e.sent && e.state == PendingSending {
		e.state = PendingWaiting
	}
}

func (q *queue) add(key string, i *intention, created time.Time) *entry {
	q.number++
	e := &entry{key: key, name: i.request(key).name(), number: q.number, intention: *i, created: created,
		state: PendingWaiting, place: -1, ready: make(chan struct{}), done: make(chan struct{})}
	q.entries[key] = e
	return e
}

// end makes the entry final, with the error itself if this process knows it.
func (e *entry) end(o *outcome, at time.Time, err error) {
	e.state, e.ended = o.State, at
	if o.Operation != "" {
		e.operation = o.Operation
	}
	e.result = func() (*Reply, error) {
		if err != nil {
			return nil, err
		}
		return o.result(e.key, e.name)
	}
	close(e.done)
}

// submit stores a request, and begins to send it where there is room for one
// more; or, with mine, leaves it claimed for the caller to send. It returns an
// intention with the same key instead, if there is one and it asks for the
// same; fresh is false then, and the claim is not given.
func (c *Client) submit(r Request, mine bool) (e *entry, fresh bool, err error) {
	i, err := c.intend(&r)
	if err != nil {
		return nil, false, err
	}
	q := c.queue
	q.mu.Lock()
	if e := q.entries[r.Key]; e != nil {
		q.mu.Unlock()
		if <-e.ready; e.refused != nil {
			return nil, false, e.refused
		}
		if !e.intention.same(i) {
			return nil, false, fmt.Errorf("client: the key %q is that of another intention in the pending store: %w", r.Key, semel.ErrKeyReused)
		}
		return e, false, nil
	}
	e = q.add(r.Key, i, time.Now().UTC())
	var now *run
	if now = q.run; mine || now == nil || q.active[sends] >= q.limit || q.down > 0 || q.due[sends].Len() > 0 {
		now = nil // not at once
	}
	if mine || now != nil {
		// One record says both: it costs one fsync instead of two.
		e.claimed, e.sent, e.state = true, true, PendingSending
	}
	if now != nil {
		q.active[sends]++
	}
	q.mu.Unlock()

	err = q.file.append(record{Type: typeIntention, Key: e.key, At: e.created, Intention: i, Sending: e.sent})
	q.mu.Lock()
	defer q.mu.Unlock()
	defer close(e.ready)
	if err != nil {
		delete(q.entries, e.key)
		if now != nil {
			q.active[sends]--
		}
		e.refused = fmt.Errorf("%w: %s with key %q was not sent", err, e.name, e.key)
		return nil, false, e.refused
	}
	e.stored = true
	switch {
	case mine:
	case now != nil && now == q.run:
		now.work.Go(func() { c.work(now.ctx, e, sends) })
	case now != nil: // it ended meanwhile
		q.active[sends]--
		e.claimed = false
		heap.Push(&q.due[sends], e)
	default:
		heap.Push(&q.due[sends], e)
		q.poke()
	}
	q.changed()
	return e, true, nil
}

// claim takes the entry out of the heap. The mutex is held.
func (q *queue) claim(e *entry) {
	e.claimed = true
	if e.place >= 0 {
		heap.Remove(&q.due[e.kind()], e.place)
	}
}

// release gives the entry back, to be taken up when it is due.
func (q *queue) release(e *entry, due time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.claimed, e.due = false, due
	heap.Push(&q.due[e.kind()], e)
	q.poke()
	q.changed()
}

// finish records the outcome and lets those go who wait for it. That it cannot
// be recorded changes nothing about it: after a crash the command is sent
// again, and answered with the same.
func (q *queue) finish(e *entry, o *outcome, err error) {
	if failed := q.file.append(record{Type: typeOutcome, Key: e.key, At: time.Now().UTC(), Outcome: o}); failed != nil {
		q.file.options.Logger.Warn("an outcome could not be recorded", slog.String("key", e.key),
			slog.String("state", string(o.State)), slog.Any("error", failed))
	}
	q.conclude(e, o, err)
}

func (q *queue) conclude(e *entry, o *outcome, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.claimed = false
	e.end(o, time.Now().UTC(), err)
	if q.file == nil {
		delete(q.entries, e.key) // who submitted it holds it
	}
	q.changed()
}

// forget removes an entry that is done.
func (q *queue) forget(e *entry) error {
	if err := q.file.append(record{Type: typeAcknowledged, Key: e.key}); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.entries[e.key] == e {
		delete(q.entries, e.key)
	}
	q.changed()
	return nil
}

func (q *queue) progress() Progress {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := Progress{Err: q.lastErr}
	for _, e := range q.entries {
		switch e.state {
		case PendingWaiting:
			p.Waiting++
		case PendingSending:
			p.Sending++
		case PendingAccepted:
			p.Accepted++
		case PendingCompleted:
			p.Completed++
		case PendingRejected:
			p.Rejected++
		case PendingFailed:
			p.Failed++
		case PendingCanceled:
			p.Canceled++
		}
	}
	return p
}

// poke wakes the run. The mutex is held, here and below.
func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) changed() {
	for w := range q.watches {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// watch returns a channel that has something in it after a change.
func (q *queue) watch() (<-chan struct{}, func()) {
	w := make(chan struct{}, 1)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.watches[w] = true
	return w, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.watches, w)
	}
}

// A dueHeap has the entry on top that is due first.
type dueHeap []*entry

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].number < h[j].number
}
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push is heap.Interface's.
func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.place = len(*h)
	*h = append(*h, e)
}

// Pop is heap.Interface's.
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.place = -1
	return e
}
