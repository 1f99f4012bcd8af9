package client

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptrace"
	"strconv"
	"sync"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/crashpoint"
)

// A run is one call of Run.
type run struct {
	ctx  context.Context
	work sync.WaitGroup
}

// forgetEvery is how often outcomes are looked for that were kept long enough.
const forgetEvery = time.Hour

// Run sends what is pending until ctx ends, then lets go of what it is doing
// and returns nil: what is open stays in the store, and the next run takes it
// up, in this process or another. It is the part of a client that waits for
// hours: failures that may pass are tried again for as long as the intention
// has no outcome and its Deadline has not passed, and so are failures that
// somebody else may mend, [ClassTLS] and [ClassUnauthorized]. While the server
// cannot be reached, one try at a time is made to find out whether it is back.
func (c *Client) Run(ctx context.Context) error {
	q := c.queue
	r := &run{ctx: ctx}
	q.mu.Lock()
	if q.run != nil {
		q.mu.Unlock()
		return errors.New("client: Run is running already")
	}
	q.run = r
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		q.run = nil
		q.mu.Unlock()
		r.work.Wait()
	}()
	forget := time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		if !now.Before(forget) {
			q.forgetOld(now)
			forget = now.Add(forgetEvery)
		}
		q.mu.Lock()
		e, wait := q.pick(now)
		if e != nil {
			kind := e.kind()
			q.claim(e)
			q.active[kind]++
			r.work.Go(func() { c.work(ctx, e, kind) })
		}
		q.mu.Unlock()
		if e == nil {
			q.sleep(ctx, min(wait, forget.Sub(now)))
		}
	}
	return nil
}

func (q *queue) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(max(d, time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C:
	case <-q.wake:
	case <-ctx.Done():
	}
}

// pick returns what is to be done now, or how long there is nothing.
func (q *queue) pick(now time.Time) (*entry, time.Duration) {
	wait := forgetEvery
	if q.down > 0 {
		switch {
		case q.active[sends]+q.active[polls] > 0:
			return nil, wait // its end wakes us
		case now.Before(q.probe):
			return nil, q.probe.Sub(now)
		}
	}
	for kind := range kinds {
		if q.due[kind].Len() == 0 || q.active[kind] >= q.limit {
			continue
		}
		e := q.due[kind][0]
		if now.Before(e.due) {
			wait = min(wait, e.due.Sub(now))
			continue
		}
		if e.failures > 0 && !q.budget.spend() {
			wait = min(wait, q.budget.wait())
			continue
		}
		if e.failures == 0 && kind == sends {
			q.budget.earn()
		}
		return e, 0
	}
	return nil, wait
}

// forgetOld drops outcomes that nobody has acknowledged for long. Failures are
// not dropped unseen.
func (q *queue) forgetOld(now time.Time) {
	if q.file == nil {
		return
	}
	var old []*entry
	q.mu.Lock()
	for _, e := range q.entries {
		if e.state.Done() && e.state != PendingFailed && now.Sub(e.ended) > q.file.options.Keep {
			old = append(old, e)
		}
	}
	q.mu.Unlock()
	for _, e := range old {
		if err := q.forget(e); err != nil {
			q.file.options.Logger.Warn("an old outcome could not be forgotten", slog.String("key", e.key), slog.Any("error", err))
			return
		}
	}
}

// work makes one try for a claimed entry.
func (c *Client) work(ctx context.Context, e *entry, kind int) {
	defer func() {
		c.queue.mu.Lock()
		defer c.queue.mu.Unlock()
		c.queue.active[kind]--
		c.queue.poke()
	}()
	s, q, err := c.prepare(ctx, e.intention.request(e.key))
	if err != nil { // it was sound when it was stored, by an older version maybe
		c.settle(e, s, err)
		return
	}
	if kind == polls {
		id, err := semel.ParseID(e.operation)
		if err != nil {
			c.settle(e, s, &Error{Class: ClassInvalid, Command: e.name, Key: e.key, Message: "the stored operation: " + err.Error(), Count: 1})
			return
		}
		s.id, s.reply.Operation = id, e.operation
		c.settle(e, s, s.try(s.tracked(ctx), c.poll(id), s.readOperation))
		return
	}
	if d := e.intention.Deadline; !d.IsZero() && time.Now().After(d) {
		c.settle(e, s, s.sign(pastDeadline(e.reached)))
		return
	}
	if err := c.mark(e); err != nil {
		// Not a sign of the server, but as pointless to hurry with others.
		c.queue.hold(e, s.sign(&Error{Class: ClassConnection, Message: clean(err.Error()), Err: err}), c.rules.policy(ClassConnection))
		return
	}
	if e.failures > 0 {
		q.header.Set("X-Retry-Count", strconv.Itoa(e.failures))
	}
	c.settle(e, s, s.try(s.tracked(ctx), q, s.readReply))
}

func pastDeadline(reached bool) *Error {
	message := "not sent before its deadline"
	if reached {
		message = "no outcome before its deadline; it may have happened"
	}
	return &Error{Class: ClassDeadline, Message: message, Count: 1, Err: context.DeadlineExceeded}
}

// mark notes durably that from here on the command may have happened.
func (c *Client) mark(e *entry) error {
	if !e.sent {
		if err := c.queue.file.append(record{Type: typeSending, Key: e.key}); err != nil {
			return err
		}
		c.queue.mu.Lock()
		e.sent, e.state = true, PendingSending
		c.queue.changed()
		c.queue.mu.Unlock()
	}
	crashpoint.Here(pointBeforeSend)
	return nil
}

// tracked notices whether a request may reach the server. A transport that is
// not the standard library's may have ways of its own.
func (s *sending) tracked(ctx context.Context) context.Context {
	if !s.client.traceable {
		s.reached.Store(true)
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { s.reached.Store(true) },
	})
}

// settle decides what a try, or a caller's whole series, comes to: an outcome,
// or that it is tried again.
func (c *Client) settle(e *entry, s *sending, err error) {
	q := c.queue
	crashpoint.Here(pointAfterAnswer)
	if s != nil {
		q.mu.Lock()
		e.tries += s.reply.Tries
		e.reached = e.reached || s.reached.Load()
		q.mu.Unlock()
	}
	var e1 *Error
	if err != nil {
		e1 = lastError(err)
		e1.Command, e1.Key, e1.Count = e.name, e.key, max(e1.Count, 1)
	}
	switch {
	case err == nil && s.reply.Done:
		q.alive()
		q.finish(e, outcomeOfReply(&s.reply), nil)
		crashpoint.Here(pointAfterOutcome)
	case err == nil:
		q.alive()
		q.accepted(e, s)
	case !c.holds(err, e1):
		q.alive()
		q.finish(e, outcomeOfError(err), c.whole(e, err, e1))
		crashpoint.Here(pointAfterOutcome)
	case e1.Class == ClassCanceled:
		q.unsend(e)
		q.release(e, time.Now())
	default:
		q.unsend(e)
		q.hold(e, s.sign(e1), c.rules.policy(e1.Class))
	}
}

// whole is the final error with the failures before it.
func (c *Client) whole(e *entry, err error, last *Error) error {
	if _, outcome := errors.AsType[*Rejected](err); outcome || last.Class == ClassFailed {
		return err
	}
	if _, several := errors.AsType[*Errors](err); several || len(e.failed.distinct) == 0 {
		return err
	}
	all := series{rules: &c.rules, tries: e.failures + 1, failed: e.failed.clone()}
	all.failed.add(last)
	return all.end(last.Class)
}

// holds reports whether an intention that failed so is kept and tried again.
func (c *Client) holds(err error, last *Error) bool {
	if _, no := errors.AsType[*Rejected](err); no || last.final && last.Class != ClassTimeout {
		return false
	}
	if p, named := c.rules.byClass[last.Class]; named && p.Tries == 1 {
		return false
	}
	switch last.Class {
	case ClassTLS, ClassUnauthorized, ClassCanceled, ClassBudget:
		return true
	}
	return c.rules.passes(last.Class)
}

// kept says in the error that its intention is held.
func kept(err error) error {
	if several, ok := errors.AsType[*Errors](err); ok {
		for _, d := range several.Distinct {
			d.Kept = true
		}
		return err
	}
	if e, ok := errors.AsType[*Error](err); ok {
		e.Kept = true
	}
	return err
}

// alive notes that the server answers.
func (q *queue) alive() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.down, q.lastErr = 0, nil
}

// accepted notes that the server has the command, and when to ask for the
// outcome: at first soon, later once a minute.
func (q *queue) accepted(e *entry, s *sending) {
	if e.state != PendingAccepted {
		if err := q.file.append(record{Type: typeAccepted, Key: e.key, Operation: s.reply.Operation}); err != nil {
			q.file.options.Logger.Warn("an acceptance could not be recorded", slog.String("key", e.key), slog.Any("error", err))
		}
	}
	q.mu.Lock()
	e.state, e.operation, e.failures, e.failed = PendingAccepted, s.reply.Operation, 0, tally{}
	e.pause = min(max(2*e.pause, pollGap), time.Minute)
	wait := max(e.pause, s.after)
	q.mu.Unlock()
	q.release(e, time.Now().Add(wait))
}

// hold gives a failed entry back for a later try.
func (q *queue) hold(e *entry, failed *Error, p Policy) {
	now := time.Now()
	again := *failed // the caller may have been given the other
	q.mu.Lock()
	e.failures++
	e.failed.add(&again)
	q.lastErr = failed
	wait := p.Wait(e.failures) + failed.after
	switch failed.Class {
	case ClassRefused, ClassDNS, ClassTLS, ClassConnection:
		q.down++
		q.probe = now.Add(p.Wait(q.down) + failed.after)
	default:
		q.down = 0
	}
	q.mu.Unlock()
	q.release(e, now.Add(wait))
}

// unsend takes the mark of [Client.mark] back where no request has reached the
// server: until the next try it can be canceled with certainty.
func (q *queue) unsend(e *entry) {
	if e.reached || !e.sent {
		return
	}
	if q.file.append(record{Type: typeUnsent, Key: e.key}) != nil {
		return // it then says that it may have happened, which is the safe side
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	e.sent, e.state = false, PendingWaiting
}

// sendKept is Send for a client with a pending store.
func (c *Client) sendKept(ctx context.Context, r Request) (*Reply, error) {
	e, fresh, err := c.submit(r, true)
	if err != nil {
		return nil, err
	}
	if !fresh && !c.queue.claimFor(e) {
		return c.await(ctx, e)
	}
	same := e.intention.request(e.key)
	same.Async = r.Async
	s, q, err := c.prepare(ctx, same)
	if err == nil {
		s.async = r.Async
		if err = c.mark(e); err != nil {
			c.queue.release(e, time.Now().Add(c.rules.wait.Wait(1)))
			return nil, err
		}
		err = c.perform(s.tracked(ctx), s, q)
	}
	switch {
	case err == nil && !s.reply.Done: // as much as was asked for; the outcome is for Run and Await
		c.settle(e, s, nil)
		return &s.reply, nil
	case err == nil || !c.holds(err, lastError(err)):
		return c.tell(e, s, err)
	}
	c.settle(e, s, kept(err))
	return nil, err
}

// tell hands an outcome to the caller, and forgets it: whoever is told in
// person need not look it up.
func (c *Client) tell(e *entry, s *sending, err error) (*Reply, error) {
	crashpoint.Here(pointAfterAnswer)
	var o *outcome
	if err != nil {
		o = outcomeOfError(err)
	} else {
		o = outcomeOfReply(&s.reply)
	}
	c.queue.alive()
	if failed := c.queue.forget(e); failed != nil {
		c.queue.file.options.Logger.Warn("an outcome could not be recorded", slog.String("key", e.key), slog.Any("error", failed))
	}
	c.queue.conclude(e, o, err)
	if err != nil {
		return nil, err
	}
	return &s.reply, nil
}

// claimFor claims the entry for a caller, unless somebody else has it or it is
// done.
func (q *queue) claimFor(e *entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.claimed || e.state.Done() {
		return false
	}
	q.claim(e)
	return true
}
