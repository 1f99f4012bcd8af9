package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/semel-dev/semel"
)

// A PendingState says how far an intention has come.
type PendingState string

// The states of an intention. Failed ones stay in the store until they are
// acknowledged; see also [PendingOptions.Keep].
const (
	PendingWaiting   PendingState = "waiting"   // stored; the server has seen nothing of it
	PendingSending   PendingState = "sending"   // it may have happened
	PendingAccepted  PendingState = "accepted"  // the server has it; the outcome is open
	PendingCompleted PendingState = "completed" // it has happened
	PendingRejected  PendingState = "rejected"  // the business's no
	PendingFailed    PendingState = "failed"    // it is not tried again; the error says whether it may have happened
	PendingCanceled  PendingState = "canceled"  // before it was sent: it has not happened
)

// Done reports whether the state is final.
func (s PendingState) Done() bool {
	switch s {
	case PendingCompleted, PendingRejected, PendingFailed, PendingCanceled:
		return true
	}
	return false
}

// A Pending is an intention as it was at one moment.
type Pending struct {
	// Key is the idempotency key, and names the intention in the store.
	Key string
	// Request is what is sent, without credentials.
	Request Request
	Created time.Time
	State   PendingState
	// Operation is the operation's id, once the server has named it.
	Operation string
	// Tries counts the requests that this process has sent for it.
	Tries int
	// Due is when it is tried or polled for next; zero if it is done or in
	// somebody's hands.
	Due time.Time
	// Err is what keeps it, or its final error.
	Err error

	entry *entry
}

// ErrMayHaveHappened is returned by [Client.Cancel] for an intention that was
// sent: the outcome will tell.
var ErrMayHaveHappened = errors.New("client: it was sent and may have happened")

// Submit hands the request to the background sender, [Client.Run], and returns
// at once. If the client has a pending store the intention is on disk before
// Submit returns and before anything is sent, so that it survives the end of
// the process; if it cannot be stored, Submit returns an error and nothing is
// sent. Without a store it is kept in memory.
//
// A request with the key of an intention that is in the store, and the same
// command and body, is that intention again. Intentions may arrive in any
// order: wait for the first where the order counts. Request.Async has no
// meaning here.
func (c *Client) Submit(ctx context.Context, r Request) (*Pending, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("client: submitting %s: %w", r.name(), err)
	}
	e, _, err := c.submit(r, false)
	if err != nil {
		return nil, err
	}
	c.queue.mu.Lock()
	defer c.queue.mu.Unlock()
	return e.snapshot(), nil
}

// Await waits for the outcome and returns what [Client.Send] would have. When
// ctx ends before, the intention stays. The outcome is kept in the store until
// [Client.Acknowledge].
func (c *Client) Await(ctx context.Context, p *Pending) (*Reply, error) {
	e := p.entry
	if e == nil {
		c.queue.mu.Lock()
		e = c.queue.entries[p.Key]
		c.queue.mu.Unlock()
	}
	if e == nil {
		return nil, fmt.Errorf("client: no intention with the key %q: %w", p.Key, semel.ErrNotFound)
	}
	return c.await(ctx, e)
}

func (c *Client) await(ctx context.Context, e *entry) (*Reply, error) {
	select {
	case <-e.done:
		return e.result()
	case <-ctx.Done():
	}
	c.queue.mu.Lock()
	defer c.queue.mu.Unlock()
	s := &sending{client: c, caller: ctx, reply: Reply{Key: e.key, command: e.name, Operation: e.operation}}
	failed := series{rules: &c.rules, tries: e.failures, failed: e.failed.clone()}
	ended := s.sign(s.ended())
	failed.failed.add(ended)
	return nil, kept(failed.end(ended.Class))
}

// Cancel takes an intention back that was not sent. Once a request for it may
// have reached the server that is impossible: Cancel returns
// [ErrMayHaveHappened], and the outcome is still found out. For one that is
// done it says so.
func (c *Client) Cancel(key string) error {
	q := c.queue
	q.mu.Lock()
	e := q.entries[key]
	switch {
	case e == nil:
		q.mu.Unlock()
		return fmt.Errorf("client: no intention with the key %q: %w", key, semel.ErrNotFound)
	case e.state == PendingCanceled:
		q.mu.Unlock()
		return nil
	case e.state.Done():
		state := e.state
		q.mu.Unlock()
		return fmt.Errorf("client: %q is %s already", key, state)
	case e.sent || e.claimed:
		q.mu.Unlock()
		return fmt.Errorf("%w: %q", ErrMayHaveHappened, key)
	}
	q.claim(e)
	q.mu.Unlock()
	o := &outcome{State: PendingCanceled}
	err := q.file.append(record{Type: typeOutcome, Key: key, At: time.Now().UTC(), Outcome: o})
	if err != nil {
		q.release(e, time.Now())
		return err
	}
	q.conclude(e, o, nil)
	return nil
}

// Acknowledge says that the application knows the outcome: the intention is
// forgotten. It refuses one that is not done.
func (c *Client) Acknowledge(key string) error {
	q := c.queue
	q.mu.Lock()
	e := q.entries[key]
	if e != nil && !e.state.Done() {
		q.mu.Unlock()
		return fmt.Errorf("client: %q is not done: it is %s", key, e.state)
	}
	q.mu.Unlock()
	if e == nil {
		return nil // an earlier call did it
	}
	return q.forget(e)
}

// List returns all intentions of the store in the order of their creation.
func (c *Client) List() []*Pending {
	c.queue.mu.Lock()
	defer c.queue.mu.Unlock()
	list := make([]*Pending, 0, len(c.queue.entries))
	for _, e := range c.queue.entries {
		if e.stored {
			list = append(list, e.snapshot())
		}
	}
	slices.SortFunc(list, func(a, b *Pending) int { return int(a.entry.number - b.entry.number) })
	return list
}

// A Progress counts intentions by how they stand.
type Progress struct {
	Waiting, Sending, Accepted, Completed, Rejected, Failed, Canceled int
	// Err is what the latest try failed with, if it did.
	Err error
}

// Open is how many are not done.
func (p Progress) Open() int { return p.Waiting + p.Sending + p.Accepted }

// Drain waits until every intention is done, or ctx ends. It calls progress, if
// not nil, in the beginning and after changes; many at once are one call.
// Something has to do the work meanwhile: [Client.Run].
func (c *Client) Drain(ctx context.Context, progress func(Progress)) error {
	q := c.queue
	changed, stop := q.watch()
	defer stop()
	for {
		now := q.progress()
		if progress != nil {
			progress(now)
		}
		if now.Open() == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("client: %d intentions are not done: %w", now.Open(), context.Cause(ctx))
		}
	}
}

// secrets are headers that have no place in a file.
var secrets = []string{"Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "Api-Key", "X-Auth-Token", "X-Access-Token", "X-Csrf-Token"}

func checkSecrets(h http.Header) error {
	for name := range h {
		if slices.Contains(secrets, http.CanonicalHeaderKey(name)) {
			return fmt.Errorf("client: the header %q would be written to the pending file: let Options.Authorize add it", name)
		}
	}
	return nil
}
