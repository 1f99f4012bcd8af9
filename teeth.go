package semel

import (
	"context"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// The functions in this file do a step wrong on purpose, in a binary built
// with the tag "broken" only: the crash tests must catch each of them. In any
// other build crashpoint.Broken is the constant false, and nothing of them is
// left.

// teethApart commits what was done so far apart from what is still to come:
// the effect without its record.
func (a *attempt[Tx]) teethApart(step string) (err error) {
	if !crashpoint.Broken(step) {
		return nil
	}
	if err := a.session.Commit(a.ctx); err != nil {
		return err
	}
	if step == "effect-apart" {
		crashpoint.Here(crashpoint.AfterHandlers)
	}
	if a.session, err = a.store.Begin(a.ctx, false); err != nil {
		return err
	}
	if step == "record-apart" {
		crashpoint.Here(crashpoint.AfterRecord)
	}
	return nil
}

// teethAnswer answers before the commit, which then takes its time as on a slow
// disk: enough for the answers to leave.
func (a *attempt[Tx]) teethAnswer() {
	if crashpoint.Broken("answer-before-commit") {
		a.reply()
		time.Sleep(50 * time.Millisecond)
	}
}

// teethForget leaves operations out of the store.
func teethForget(op *Operation) bool {
	return crashpoint.Broken("no-record") ||
		crashpoint.Broken("accept-volatile") && op.State == Accepted && op.ID[0]%2 == 0
}

// teethPositionFirst commits a follower's position before its rows.
func (e *Engine[Tx]) teethPositionFirst(ctx context.Context, session Session[Tx], f *follower[Tx], last int64) (Session[Tx], error) {
	if !crashpoint.Broken("position-first") {
		return session, nil
	}
	if err := session.Follow(ctx, f.at(last), f.position); err != nil {
		return session, err
	}
	return e.teethCommit(ctx, session, crashpoint.BeforeProjection)
}

// teethPositionLast commits a follower's rows before its position.
func (e *Engine[Tx]) teethPositionLast(ctx context.Context, session Session[Tx]) (Session[Tx], error) {
	if !crashpoint.Broken("position-last") {
		return session, nil
	}
	return e.teethCommit(ctx, session, crashpoint.AfterProjection)
}

func (e *Engine[Tx]) teethCommit(ctx context.Context, session Session[Tx], point string) (Session[Tx], error) {
	if err := session.Commit(ctx); err != nil {
		return session, err
	}
	crashpoint.Here(point)
	return e.store.Begin(ctx, false)
}

// teethClaim takes claimed operations out for good, as a queue does that
// deletes a message before the work is done.
func (e *Engine[Tx]) teethClaim(ctx context.Context, session Session[Tx], ops []*Operation) error {
	if !crashpoint.Broken("claim-forgets") {
		return nil
	}
	changes := make([]Change, len(ops))
	for i, op := range ops {
		lost := *op
		lost.State, lost.DueAt = Waiting, op.DueAt.AddDate(100, 0, 0)
		changes[i] = Change{Operation: &lost, State: Running, Epoch: op.Epoch}
	}
	_, err := session.Update(ctx, changes)
	return err
}

// teethTombstone makes tombstones that are forgotten at once.
func teethTombstone(kept time.Duration) time.Duration {
	if crashpoint.Broken("no-tombstone") {
		return -time.Hour
	}
	return kept
}
