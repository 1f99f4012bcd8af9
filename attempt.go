package semel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// run is what one call of a handler left behind in its group.
type run struct {
	decision decision
	events   []*Event
	result   []byte
	status   int
	resource string
}

// decision is how an attempt ended; the zero value is success.
type decision struct {
	rejection   *Rejection
	err         error // technical failure
	wait        time.Duration
	disposition Disposition // set when a failure is final
}

func (d *decision) ok() bool { return d.rejection == nil && d.err == nil }

// attempt is one transaction of a group.
type attempt[Tx any] struct {
	*Engine[Tx]
	ctx     context.Context
	session Session[Tx]
	now     time.Time
	tasks   []*task[Tx]
	solo    bool

	lead    map[ID]int // the first task of each id in this group
	held    map[string]bool
	running []int // indexes of tasks whose handler is called
	replies []reply
	stored  []*Operation // what becomes of each task, nil for a repeat
	log     []*Event     // appended in this transaction, in order
	fused   []*follower[Tx]
	spoiled int
	// committing is set once the transaction's end may be unknown.
	committing bool
}

func (e *Engine[Tx]) newAttempt(ctx context.Context, tasks []*task[Tx], solo bool) *attempt[Tx] {
	return &attempt[Tx]{
		Engine: e, ctx: ctx, tasks: tasks, solo: solo, spoiled: -1,
		replies: make([]reply, len(tasks)), stored: make([]*Operation, len(tasks)),
	}
}

// run returns an error when it is not known whether, or known that not, the
// transaction was committed. With a spoiled member it was not.
func (a *attempt[Tx]) run() (err error) {
	crashpoint.Here(crashpoint.BeforeBegin)
	if a.session, err = a.store.Begin(a.ctx, a.solo); err != nil {
		return fmt.Errorf("beginning: %w", err)
	}
	defer func() { a.session.Rollback(); a.release() }()
	if err := a.sort(); err != nil {
		return err
	}
	if err := a.call(); err != nil || a.spoiled >= 0 {
		return err
	}
	crashpoint.Here(crashpoint.AfterHandlers)
	if err := a.teethApart("effect-apart"); err != nil {
		return err
	}
	if err := a.settle(); err != nil {
		return err
	}
	if fenced, err := a.record(); err != nil || fenced {
		return err
	}
	crashpoint.Here(crashpoint.AfterRecord)
	return a.commit()
}

func (a *attempt[Tx]) commit() error {
	a.teethAnswer()
	crashpoint.Here(crashpoint.BeforeCommit)
	a.committing = true
	if err := a.session.Commit(a.ctx); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	crashpoint.Here(crashpoint.AfterCommit)
	a.stats.commits.Add(1)
	a.stats.executed.Add(int64(len(a.running)))
	if len(a.fused) > 0 {
		first, last := a.log[0].Position, a.log[len(a.log)-1].Position
		for _, f := range a.fused {
			f.advanced(last)
		}
		a.completed.CompareAndSwap(first-1, last)
	}
	if len(a.log) > 0 {
		a.heard.CompareAndSwap(a.log[0].Position-1, a.log[len(a.log)-1].Position)
		for _, f := range a.followers {
			if !slices.Contains(a.fused, f) {
				f.nudge()
			}
		}
	}
	told := a.told()
	if slices.ContainsFunc(told, func(op *Operation) bool { return op.State.Unfinished() }) {
		a.nudge()
	}
	crashpoint.Here(crashpoint.BeforeAnswer)
	a.hub.tell(told)
	a.reply()
	return nil
}

func (a *attempt[Tx]) reply() {
	for i, t := range a.tasks {
		if t.claimed {
			t.finish()
			continue
		}
		select {
		case t.answer <- a.replies[i]:
		default: // answered already, by a step broken on purpose
		}
	}
}

// sort decides for every task whether its handler is called, it is only
// accepted, or it is a repeat.
func (a *attempt[Tx]) sort() error {
	fresh := make([]Lookup, 0, len(a.tasks))
	for _, t := range a.tasks {
		if !t.claimed {
			fresh = append(fresh, Lookup{ID: t.op.ID, Tenant: t.op.Tenant, Subjects: t.op.Subjects})
		}
	}
	var known []Known
	if len(fresh) > 0 {
		var err error
		if known, err = a.session.Lookup(a.ctx, fresh); err != nil {
			return fmt.Errorf("looking up operations: %w", err)
		}
	}
	a.now = a.session.Now()
	a.lead = make(map[ID]int, len(a.tasks))
	for i, t := range a.tasks {
		if t.claimed {
			a.running = append(a.running, i)
			continue
		}
		a.sortOne(i, t, known[0])
		known = known[1:]
	}
	return nil
}

func (a *attempt[Tx]) sortOne(i int, t *task[Tx], k Known) {
	first, again := a.lead[t.op.ID]
	switch {
	case k.Expired:
		a.replies[i] = reply{err: fmt.Errorf("%w: %q", ErrKeyExpired, t.op.Key)}
	case k.Operation != nil:
		a.replies[i] = replay(t, k.Operation)
	case again:
		// Answered by whatever becomes of the first; see settle.
		a.replies[i] = replay(t, a.tasks[first].op)
	default:
		a.lead[t.op.ID] = i
		if a.mustQueue(t, k) && t.decided == nil {
			a.accept(i, t)
			return
		}
		a.running = append(a.running, i)
	}
}

func replay[Tx any](t *task[Tx], op *Operation) reply {
	if op.Fingerprint != t.op.Fingerprint {
		return reply{err: fmt.Errorf("%w: %q was first used with another request", ErrKeyReused, t.op.Key)}
	}
	return reply{op: op, replayed: true}
}

// mustQueue reports whether a new operation has to be accepted first and run
// under a claim: its caller does not wait, it is solo, or it stands behind
// another of its subject.
func (a *attempt[Tx]) mustQueue(t *task[Tx], k Known) bool {
	if t.def.inline {
		return false
	}
	if k.Behind || t.async.Load() || t.def.solo() {
		return true
	}
	return slices.ContainsFunc(t.op.Subjects, func(s string) bool { return a.held[t.op.Tenant+"\x00"+s] })
}

// hold makes later members of this group queue behind t.
func (a *attempt[Tx]) hold(t *task[Tx]) {
	if a.held == nil {
		a.held = make(map[string]bool)
	}
	for _, s := range t.op.Subjects {
		a.held[t.op.Tenant+"\x00"+s] = true
	}
}

func (a *attempt[Tx]) accept(i int, t *task[Tx]) {
	op := *t.op
	op.State, op.AcceptedAt, op.DueAt, op.Holds = Accepted, a.now, a.now, len(op.Subjects) > 0
	a.hold(t)
	a.add(i, &op)
	a.accepted.add(op.Tenant)
}

// add says what becomes of a task.
func (a *attempt[Tx]) add(i int, op *Operation) {
	a.stored[i] = op
	a.replies[i] = reply{op: op}
}

// told returns the changed operations, for those who wait.
func (a *attempt[Tx]) told() []*Operation {
	return slices.DeleteFunc(slices.Clone(a.stored), func(op *Operation) bool { return op == nil })
}

// call runs the handlers of the members that are to run.
func (a *attempt[Tx]) call() error {
	members := make([]Member[Tx], 0, len(a.running))
	index := make([]int, 0, len(a.running))
	for _, i := range a.running {
		t := a.tasks[i]
		t.run = nil
		if t.decided != nil {
			t.run = &run{decision: *t.decided}
			continue
		}
		index = append(index, i)
		members = append(members, Member[Tx]{Subjects: t.op.Subjects, Call: func(ctx context.Context, tx Tx) error {
			ctx, cancel := context.WithTimeout(ctx, t.def.lease())
			defer cancel()
			return a.handle(ctx, t, tx)
		}})
	}
	if len(members) == 0 {
		return nil
	}
	spoiled, err := a.session.Run(a.ctx, members)
	if err != nil {
		return a.blame(err)
	}
	if spoiled >= 0 {
		a.spoiled = index[spoiled]
		return nil
	}
	a.spoiled = a.overtaken()
	return nil
}

// overtaken finds a member that failed technically and that the group cannot keep
// although it left no trace: a later one of its subject has run, which must not
// come first.
func (a *attempt[Tx]) overtaken() int {
	for n, i := range a.running {
		t := a.tasks[i]
		if t.decided != nil || t.run.decision.err == nil {
			continue
		}
		for _, j := range a.running[n+1:] {
			later := a.tasks[j].op
			if later.Tenant == t.op.Tenant && slices.ContainsFunc(later.Subjects, func(s string) bool { return slices.Contains(t.op.Subjects, s) }) {
				return i
			}
		}
	}
	return -1
}

// blame finds the member whose failure cost the group its transaction, such as
// a trigger that rolls back: only that one shall suffer from it.
func (a *attempt[Tx]) blame(lost error) error {
	for _, i := range slices.Backward(a.running) {
		if r := a.tasks[i].run; r != nil && !r.decision.ok() && a.tasks[i].decided == nil {
			a.spoiled = i
			return nil
		}
	}
	return fmt.Errorf("running handlers: %w", lost)
}

// handle calls one handler and appends its events. It returns an error if the
// call must leave no trace.
func (a *attempt[Tx]) handle(ctx context.Context, t *task[Tx], tx Tx) error {
	u := &Unit[Tx]{Tx: tx, engine: a.Engine, session: a.session, op: t.op, correlation: t.context}
	result, err := callSafely(withHandling(ctx, &handling{t.context, a.Engine}), t, u)
	if err == nil {
		err = u.err
	}
	t.run = &run{events: u.events, status: u.status, resource: u.resource}
	if err == nil {
		if t.run.result, err = json.Marshal(result); err != nil {
			err = TerminalError(fmt.Errorf("encoding the result: %w", err))
		}
	}
	if err == nil && len(u.events) > 0 {
		for _, event := range u.events {
			event.At = a.now
		}
		err = a.session.Append(ctx, u.events)
	}
	if err == nil {
		a.log = append(a.log, u.events...)
	}
	t.run.decision = t.decide(err)
	return err
}

func callSafely[Tx any](ctx context.Context, t *task[Tx], u *Unit[Tx]) (result any, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	return t.def.call(ctx, u, t.command)
}

// decide turns a handler's error into what becomes of the operation.
func (t *task[Tx]) decide(err error) decision {
	var rejection *Rejection
	if err == nil {
		return decision{}
	}
	if errors.As(err, &rejection) {
		return decision{rejection: rejection}
	}
	attempt := t.op.Attempts
	if !t.claimed {
		attempt++ // this call was made without a claim
	}
	class := t.def.Retry.classify(err)
	wait, disposition := t.def.Retry.next(class, attempt)
	if t.def.Guarantee == AtMostOnce && disposition == "" {
		disposition = Terminal
		if class == ClassPanic || class == ClassTimeout {
			disposition = Unknown
		}
	}
	return decision{err: err, wait: wait, disposition: disposition}
}

// record projects, where that can be done at once, and stores the operations.
// It reports whether a claim was found lost, in which case nothing may be
// committed and the others run again.
func (a *attempt[Tx]) record() (fenced bool, err error) {
	completed, err := a.fuse()
	if err != nil {
		return false, err
	}
	if err := a.teethApart("record-apart"); err != nil {
		return false, err
	}
	// In the order in which they came: Seq is the order of acceptance, and
	// queues go by it.
	var inserts []*Operation
	var changes []Change
	var owners []*task[Tx]
	for i, op := range a.stored {
		if op == nil {
			continue
		}
		if op.State == Executed && completed {
			if err := a.complete(op); err != nil {
				return false, err
			}
		}
		if t := a.tasks[i]; t.claimed {
			changes = append(changes, Change{Operation: op, State: Running, Epoch: t.op.Epoch})
			owners = append(owners, t)
		} else if !teethForget(op) {
			inserts = append(inserts, op)
		}
	}
	if len(inserts) > 0 {
		if err := a.session.Insert(a.ctx, inserts); err != nil {
			return false, fmt.Errorf("storing operations: %w", err)
		}
	}
	if len(changes) == 0 {
		return false, nil
	}
	stored, err := a.session.Update(a.ctx, changes)
	if err != nil {
		return false, fmt.Errorf("storing outcomes: %w", err)
	}
	return a.dropFenced(owners, stored), nil
}

// complete ends an operation whose own events tell of its outcome.
func (a *attempt[Tx]) complete(op *Operation) error {
	if err := op.move(Completed); err != nil {
		return err
	}
	op.DoneAt, op.DonePosition = a.now, op.Position
	op.ExpiresAt = a.now.Add(a.window(op.Name))
	return nil
}

// dropFenced takes tasks whose lease was lost out of the group. Their new
// owner answers for them.
func (a *attempt[Tx]) dropFenced(owners []*task[Tx], stored []bool) bool {
	lost := make(map[*task[Tx]]bool)
	for i, ok := range stored {
		if !ok {
			lost[owners[i]] = true
			a.options.Logger.Warn("lease lost, attempt dropped", slog.String("operation", owners[i].op.ID.String()))
		}
	}
	if len(lost) == 0 {
		return false
	}
	a.session.Rollback()
	rest := slices.DeleteFunc(slices.Clone(a.tasks), func(t *task[Tx]) bool { return lost[t] })
	for t := range lost {
		t.finish()
	}
	a.release()
	a.runGroup(a.ctx, rest)
	return true
}
