package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
	"github.com/semel-dev/semel/storetest"
)

func harness(dir string) storetest.Harness[sqlite.Tx] {
	return storetest.Harness[sqlite.Tx]{
		VirtualTime: true,
		Open: func(ctx context.Context, name string) (semel.Store[sqlite.Tx], func() error, error) {
			store, err := sqlite.Open(ctx, filepath.Join(dir, name), nil)
			if err != nil {
				return nil, nil, err
			}
			return store, store.Close, nil
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

func TestConformance(t *testing.T) { storetest.Run(t, harness(t.TempDir())) }

func BenchmarkConformance(b *testing.B) { storetest.Benchmark(b, harness(b.TempDir())) }
