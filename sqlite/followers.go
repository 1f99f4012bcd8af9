package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"

	"github.com/semel-dev/semel"
)

// Follow implements [semel.Ledger]. Whether a generation is live is said when
// it is created, and by Promote; moving it changes nothing about that.
func (s *session) Follow(ctx context.Context, f semel.Follower, from int64) error {
	return s.ledger(ctx, func() error {
		moved, err := s.c.exec(`UPDATE semel_followers SET position = ? WHERE name = ? AND generation = ? AND position = ?`,
			f.Position, f.Name, int64(f.Generation), from)
		if err == nil && moved == 0 && from == 0 {
			moved, err = s.c.exec(`INSERT OR IGNORE INTO semel_followers (name, generation, position, live) VALUES (?, ?, ?, ?)`,
				f.Name, int64(f.Generation), f.Position, f.Live)
		}
		switch {
		case err != nil:
			return fmt.Errorf("sqlite: moving follower %q (generation %d): %w", f.Name, f.Generation, err)
		case moved == 0:
			return fmt.Errorf("%w: follower %q (generation %d) is not at %d", semel.ErrFenced, f.Name, f.Generation, from)
		}
		return nil
	})
}

// Promote implements [semel.Ledger]. A generation that is not there gives
// [semel.ErrNotFound].
func (s *session) Promote(ctx context.Context, name string, generation int) error {
	return s.ledger(ctx, func() error {
		promoted, err := s.c.exec(`UPDATE semel_followers SET live = 1 WHERE name = ? AND generation = ?`, name, int64(generation))
		if err == nil && promoted == 0 {
			return fmt.Errorf("%w: follower %q has no generation %d", semel.ErrNotFound, name, generation)
		}
		if err == nil {
			_, err = s.c.exec(`DELETE FROM semel_followers WHERE name = ? AND generation <> ?`, name, int64(generation))
		}
		if err != nil {
			return fmt.Errorf("sqlite: promoting follower %q (generation %d): %w", name, generation, err)
		}
		return nil
	})
}

// Followers implements [semel.Store].
func (s *Store) Followers(ctx context.Context) (followers []semel.Follower, err error) {
	err = s.read(ctx, func(c *connection) error {
		return c.query(`SELECT name, generation, position, live FROM semel_followers ORDER BY name, generation`,
			func(v []driver.Value) error {
				followers = append(followers, semel.Follower{
					Name: stringOf(v[0]), Generation: int(intOf(v[1])), Position: intOf(v[2]), Live: intOf(v[3]) != 0,
				})
				return nil
			})
	})
	if err != nil {
		return nil, fmt.Errorf("sqlite: reading followers: %w", err)
	}
	return followers, nil
}
