package semel

import (
	"context"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// The functions in this file do a step wrong on purpose, in a binary built
// with the tag "broken" only: the crash tests must catch each of them. In any
// other build crashpoint.Broken is the constant false, and nothing of them is
// left.

// teethAfterHandlers commits the effect apart from its record.
func (a *attempt[Tx]) teethAfterHandlers() (err error) {
	if !crashpoint.Broken("effect-apart") {
		return nil
	}
	if err := a.session.Commit(a.ctx); err != nil {
		return err
	}
	crashpoint.Here(crashpoint.AfterHandlers)
	a.session, err = a.store.Begin(a.ctx, false)
	return err
}

// teethApart commits a projection's rows apart from its position.
func (e *Engine[Tx]) teethApart(ctx context.Context, session Session[Tx]) (Session[Tx], error) {
	if !crashpoint.Broken("position-apart") {
		return session, nil
	}
	if err := session.Commit(ctx); err != nil {
		return session, err
	}
	crashpoint.Here(crashpoint.AfterProjection)
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
		lost.DueAt = op.DueAt.AddDate(100, 0, 0)
		changes[i] = Change{Operation: &lost, State: Running, Epoch: op.Epoch}
	}
	_, err := session.Update(ctx, changes)
	return err
}
