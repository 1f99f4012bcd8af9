package storetest

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/leak"
	"github.com/semel-dev/semel/sqlite"
)

func TestMain(m *testing.M) { leak.Main(m) }

// A closer is a store that can be closed, as every store can.
type closer interface {
	semel.Store[sqlite.Tx]
	Close() error
}

// harness runs the suite on SQLite stores in dir, each changed by alter.
func harness(dir string, alter func(*sqlite.Store) closer) Harness[sqlite.Tx] {
	return Harness[sqlite.Tx]{
		VirtualTime: true,
		Open: func(ctx context.Context, name string) (semel.Store[sqlite.Tx], func() error, error) {
			store, err := sqlite.Open(ctx, filepath.Join(dir, name), nil)
			if err != nil {
				return nil, nil, err
			}
			altered := alter(store)
			return altered, altered.Close, nil
		},
		Exec: func(ctx context.Context, tx sqlite.Tx, query string, args ...any) (int64, error) {
			result, err := tx.ExecContext(ctx, query, args...)
			if err != nil {
				return 0, err
			}
			return result.RowsAffected()
		},
		QueryInt: func(ctx context.Context, tx sqlite.Tx, query string, args ...any) (n int64, err error) {
			err = tx.QueryRowContext(ctx, query, args...).Scan(&n)
			if errors.Is(err, sql.ErrNoRows) {
				return 0, nil
			}
			return n, err
		},
	}
}

func TestSoundStore(t *testing.T) {
	t.Parallel()
	Run(t, harness(t.TempDir(), func(s *sqlite.Store) closer { return s }))
}

// TestSlowStore has engines run on a store that is sound and answers late.
func TestSlowStore(t *testing.T) {
	t.Parallel()
	h := harness(t.TempDir(), func(s *sqlite.Store) closer {
		return broken{Store: s, wrap: func(s session) session { return slow{s} }}
	})
	for _, c := range slices.Concat(effectChecks[sqlite.Tx](), orderChecks[sqlite.Tx](), ownerChecks[sqlite.Tx](), projectionChecks[sqlite.Tx]()) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if err := hold(t, h, c); err != nil {
				t.Errorf("%s: does not hold: %v", c.promise, err)
			}
		})
	}
}

// TestBrokenStores shows that each promise is missed when it is broken.
func TestBrokenStores(t *testing.T) {
	t.Parallel()
	all := make(map[string]check[sqlite.Tx])
	for _, c := range checks[sqlite.Tx]() {
		all[c.name] = c
	}
	for _, b := range brokenStores {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			h := harness(t.TempDir(), b.alter)
			for _, name := range strings.Fields(b.caught) {
				if all[name].run == nil {
					t.Fatalf("there is no check %q", name)
				}
				err := hold(t, h, all[name])
				if err == nil {
					t.Errorf("check %q does not see that a store %s", name, b.name)
				} else {
					t.Logf("%s: %.300v", name, err)
				}
			}
		})
	}
}
