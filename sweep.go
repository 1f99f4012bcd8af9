package semel

import (
	"context"
	"log/slog"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// sweepBatch bounds one clean-up transaction, so that nobody waits long for it.
const sweepBatch = 500

// sweepEvery is how often clean-up makes a pass.
func (e *Engine[Tx]) sweepEvery() time.Duration {
	return min(max(e.shortestWindow()/10, time.Second), time.Minute)
}

func (e *Engine[Tx]) shortestWindow() time.Duration {
	shortest := e.options.Window
	for _, d := range e.commands {
		if d.Window > 0 {
			shortest = min(shortest, d.Window)
		}
	}
	return shortest
}

// sweepUntil turns operations whose window has passed into tombstones, in
// small batches, until ctx ends. Unfinished operations and dead letters stay.
func (e *Engine[Tx]) sweepUntil(ctx context.Context) {
	ticker := time.NewTicker(e.sweepEvery())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := e.sweep(ctx); err != nil && ctx.Err() == nil {
			e.log.Error("cleaning up", slog.Any("error", err))
		}
	}
}

// sweep makes one pass.
func (e *Engine[Tx]) sweep(ctx context.Context) error {
	after := int64(0)
	for ctx.Err() == nil {
		swept, err := e.sweepOnce(ctx, after)
		if err != nil {
			return err
		}
		after = swept.Last
		if swept.End && swept.Forgotten < sweepBatch {
			return nil
		}
	}
	return nil
}

func (e *Engine[Tx]) sweepOnce(ctx context.Context, after int64) (Swept, error) {
	session, err := e.store.Begin(ctx, false)
	if err != nil {
		return Swept{}, err
	}
	defer session.Rollback()
	now := session.Now()
	swept, err := session.Sweep(ctx, Sweep{
		Now: now, After: after, Limit: sweepBatch, Youngest: now.Add(-e.shortestWindow()),
		Tombstone: teethTombstone(e.options.Tombstone),
	})
	if err != nil || swept.Expired+swept.Forgotten == 0 {
		return swept, err
	}
	crashpoint.Here(crashpoint.BeforeSweep)
	if err := session.Commit(context.WithoutCancel(ctx)); err != nil {
		return swept, err
	}
	crashpoint.Here(crashpoint.AfterSweep)
	e.stats.commits.Add(1)
	return swept, nil
}
