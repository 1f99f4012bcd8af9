package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/semel-dev/semel"
)

// Sweep implements [semel.Ledger]. Only operations with a final outcome
// expire: dead letters and unfinished work stay until somebody deals with
// them. Old tombstones go first, so that a new one is seen at least until the
// next sweep.
func (s *session) Sweep(ctx context.Context, w semel.Sweep) (swept semel.Swept, err error) {
	err = s.ledger(ctx, func() error {
		forgotten, err := s.c.exec(`DELETE FROM semel_tombstones WHERE id IN
			(SELECT id FROM semel_tombstones WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)`, micros(w.Now), int64(w.Limit))
		if err != nil {
			return fmt.Errorf("sqlite: forgetting tombstones: %w", err)
		}
		swept.Forgotten = int(forgotten)
		expired, err := s.expired(w, &swept)
		if err != nil {
			return fmt.Errorf("sqlite: looking for expired operations: %w", err)
		}
		if err := s.raise(expired); err != nil {
			return fmt.Errorf("sqlite: moving the horizon: %w", err)
		}
		for _, o := range expired {
			if err := s.bury(o, w.Tombstone); err != nil {
				return fmt.Errorf("sqlite: expiring operation %d: %w", o.seq, err)
			}
		}
		swept.Expired = len(expired)
		return nil
	})
	if err != nil {
		return semel.Swept{}, err
	}
	return swept, nil
}

type expiredOperation struct {
	seq     int64
	id      []byte
	done    int64
	expires time.Time
}

// expired reads the next operations in order of acceptance and keeps those
// whose window has passed.
func (s *session) expired(w semel.Sweep, swept *semel.Swept) (expired []expiredOperation, err error) {
	swept.Last = w.After
	seen := 0
	err = s.c.query(`SELECT seq, id, state, accepted_at, expires_at, done_position FROM semel_operations WHERE seq > ? ORDER BY seq LIMIT ?`,
		func(v []driver.Value) error {
			seen++
			if swept.End = swept.End || moment(v[3]).After(w.Youngest); swept.End {
				return nil
			}
			swept.Last = intOf(v[0])
			state, expires := semel.State(stringOf(v[2])), moment(v[4])
			if state.Done() && state != semel.Failed && !expires.IsZero() && !expires.After(w.Now) {
				expired = append(expired, expiredOperation{swept.Last, bytesOf(v[1]), intOf(v[5]), expires})
			}
			return nil
		}, w.After, int64(w.Limit))
	if seen < w.Limit {
		swept.End = true
	}
	return expired, err
}

// raise moves the horizon past the outcomes that are about to go.
func (s *session) raise(expired []expiredOperation) error {
	horizon := int64(0)
	for _, o := range expired {
		horizon = max(horizon, o.done)
	}
	if horizon == 0 {
		return nil
	}
	_, err := s.c.exec(`INSERT INTO semel_counters (name, value) VALUES ('horizon', ?1)
		ON CONFLICT (name) DO UPDATE SET value = max(value, ?1)`, horizon)
	return err
}

// Horizon implements [semel.Store].
func (s *Store) Horizon(ctx context.Context) (position int64, err error) {
	err = s.read(ctx, func(c *connection) (err error) {
		position, err = c.integer(`SELECT value FROM semel_counters WHERE name = 'horizon'`)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("sqlite: reading the horizon: %w", err)
	}
	return position, nil
}

func (s *session) bury(o expiredOperation, keep time.Duration) error {
	if o.seq == s.seq { // the next one must not get its number after a restart
		_, err := s.c.exec(`INSERT INTO semel_counters (name, value) VALUES ('seq', ?1) ON CONFLICT (name) DO UPDATE SET value = ?1`, o.seq)
		if err != nil {
			return err
		}
	}
	_, err := s.c.exec(`INSERT OR REPLACE INTO semel_tombstones (id, expires_at) VALUES (?, ?)`, o.id, micros(o.expires.Add(keep)))
	if err != nil {
		return err
	}
	_, err = s.c.exec(`DELETE FROM semel_operations WHERE seq = ?`, o.seq)
	return err
}
