package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/semel-dev/semel"
)

func handler(f func(ctx context.Context, tx Tx) error) semel.Member[Tx] {
	return semel.Member[Tx]{Call: f}
}

func begin(t *testing.T, s *Store) semel.Session[Tx] {
	t.Helper()
	l, err := s.Begin(t.Context(), false)
	must(t, err)
	t.Cleanup(l.Rollback)
	return l
}

// TestFastPathIsTheSame compares statements run directly with the same run
// through database/sql, which is what any argument of an uncommon type causes.
func TestFastPathIsTheSame(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `CREATE TABLE t (fast, slow)`)
	for _, v := range []any{
		int(7), int64(-7), 1.5, true, false, "text", "", "a\x00b", []byte("blob"), []byte{}, []byte(nil), nil,
		time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("x", 3600)),
	} {
		must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) error {
			fast, err := tx.ExecContext(ctx, `INSERT INTO t (fast, slow) VALUES (?, NULL)`, v)
			if err != nil {
				return err
			}
			slow, err := tx.ExecContext(ctx, `UPDATE t SET slow = ? WHERE rowid = ?`, v, uint(number1(fast.LastInsertId())))
			if err != nil {
				return err
			}
			if n := number1(slow.RowsAffected()); n != 1 {
				t.Errorf("%T %v: %d rows updated", v, v, n)
			}
			return nil
		}))
	}
	if n := number(t, s, `SELECT count(*) FROM t WHERE fast IS NOT slow OR typeof(fast) <> typeof(slow)`); n != 0 {
		t.Errorf("%d values differ", n)
	}
	if n := number(t, s, `SELECT count(*) FROM t WHERE fast LIKE '2026-01-02 03:04:05.000006+01:00'`); n != 1 {
		t.Error("times are not stored in a form that sorts")
	}
}

func number1(n int64, err error) int64 {
	if err != nil {
		panic(err)
	}
	return n
}

func TestTxDoors(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `CREATE TABLE t (x INTEGER, at TIMESTAMP); INSERT INTO t VALUES (1, NULL), (2, NULL), (3, NULL)`)
	must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) error {
		const query = `SELECT x FROM t WHERE x > ? ORDER BY x`
		outer, err := tx.QueryContext(ctx, query, 0)
		must(t, err)
		defer outer.Close()
		var seen []int
		for outer.Next() { // the same text again while its rows are read
			var x int
			must(t, outer.Scan(&x))
			inner, err := tx.QueryContext(ctx, query, x)
			must(t, err)
			for inner.Next() {
				var y int
				must(t, inner.Scan(&y))
				seen = append(seen, 10*x+y)
			}
			must(t, inner.Err())
		}
		must(t, outer.Err())
		if got := fmt.Sprint(seen); got != "[12 13 23]" {
			t.Errorf("nested queries read %s", got)
		}
		st, err := tx.PrepareContext(ctx, `INSERT INTO t (x) VALUES (:x) RETURNING x`)
		must(t, err)
		var x int
		must(t, st.QueryRowContext(ctx, sql.Named("x", 42)).Scan(&x))
		if x != 42 {
			t.Errorf("prepared statement returned %d", x)
		}
		if _, err := tx.PrepareContext(ctx, `SELEC`); err == nil {
			t.Error("a syntax error was prepared")
		}
		if _, err := tx.ExecContext(ctx, `SELECT ?`, struct{}{}); err == nil {
			t.Error("an argument of type struct{} was taken")
		}
		if err := tx.QueryRowContext(ctx, `SELECT x FROM t WHERE x = 99`).Scan(&x); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("no row: %v", err)
		}
		for _, refused := range []string{"COMMIT", "SELECT 1; ROLLBACK", "SAVEPOINT a"} {
			if _, err := tx.ExecContext(ctx, refused); err == nil || !strings.Contains(err.Error(), "shared") {
				t.Errorf("%s: %v", refused, err)
			}
			if err := tx.QueryRowContext(ctx, refused).Scan(&x); err == nil {
				t.Errorf("query %s: no error", refused)
			}
			if _, err := tx.PrepareContext(ctx, refused); err == nil {
				t.Errorf("prepare %s: no error", refused)
			}
		}
		return nil
	}))
	if n := number(t, s, `SELECT count(*) FROM t`); n != 4 {
		t.Errorf("%d rows, want 4", n)
	}
}

func TestManyStatementsAreEvicted(t *testing.T) {
	t.Parallel()
	s := open(t)
	must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) error {
		var open []*sql.Rows
		for i := range 3 * cached {
			rows, err := tx.QueryContext(ctx, fmt.Sprintf(`SELECT %d UNION ALL SELECT 1`, i))
			must(t, err)
			if open = append(open, rows); i%3 == 0 {
				continue
			}
			must(t, rows.Close())
		}
		for i, rows := range open {
			if i%3 != 0 {
				continue
			}
			var x int
			if !rows.Next() || rows.Scan(&x) != nil || x != i {
				t.Fatalf("rows %d: read %d, %v", i, x, rows.Err())
			}
		}
		return nil
	}))
	if n := len(s.writer.users); n > cached {
		t.Errorf("%d statements are kept, want at most %d", n, cached)
	}
}

func TestTxIsDeadAfterItsCall(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `CREATE TABLE t (x)`)
	ctx := t.Context()
	l := begin(t, s)
	var kept Tx
	var rows, idle *sql.Rows
	var st *sql.Stmt
	spoiled, err := l.Run(ctx, []semel.Member[Tx]{handler(func(ctx context.Context, tx Tx) (err error) {
		kept = tx
		if rows, err = tx.QueryContext(ctx, `SELECT 1 UNION SELECT 2`); err != nil {
			return err
		}
		if idle, err = tx.QueryContext(ctx, `SELECT 1 UNION SELECT 3`); err != nil {
			return err
		}
		rows.Next()
		st, err = tx.PrepareContext(ctx, `INSERT INTO t VALUES (1)`)
		return err
	})})
	if spoiled != -1 || err != nil {
		t.Fatal(spoiled, err)
	}
	check := func(when string) {
		t.Helper()
		if _, err := kept.ExecContext(ctx, `INSERT INTO t VALUES (1)`); err == nil {
			t.Errorf("%s: ExecContext worked", when)
		}
		if _, err := kept.ExecContext(ctx, `INSERT INTO t VALUES (?)`, uint8(1)); err == nil {
			t.Errorf("%s: ExecContext through database/sql worked", when)
		}
		if _, err := kept.QueryContext(ctx, `SELECT 1`); err == nil {
			t.Errorf("%s: QueryContext worked", when)
		}
		if _, err := kept.PrepareContext(ctx, `SELECT 1`); err == nil {
			t.Errorf("%s: PrepareContext worked", when)
		}
		var x int
		if err := kept.QueryRowContext(ctx, `SELECT 1`).Scan(&x); err == nil {
			t.Errorf("%s: QueryRowContext worked", when)
		}
		if _, err := st.ExecContext(ctx); err == nil {
			t.Errorf("%s: a prepared statement worked", when)
		}
	}
	check("in the open session")
	if _, err := idle.ColumnTypes(); err != nil {
		t.Error(err)
	}
	if rows.Next() || rows.Err() == nil {
		t.Error("rows of a dead Tx were read on")
	}
	must(t, l.Commit(ctx))
	check("after commit")
	if n := number(t, s, `SELECT count(*) FROM t`); n != 0 {
		t.Errorf("%d rows written by a dead Tx", n)
	}
	must(t, s.Close()) // although idle was never closed
	check("after the store's end")
}

func TestCancelDoesNotEndTheTransaction(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `CREATE TABLE t (x)`)
	must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO t VALUES (1)`)
		must(t, err)
		canceled, cancel := context.WithCancel(ctx)
		rows, err := tx.QueryContext(canceled, `SELECT 1 UNION SELECT 2`)
		must(t, err)
		cancel()
		if rows.Next() || !errors.Is(rows.Err(), context.Canceled) {
			t.Errorf("rows after the context's end: %v", rows.Err())
		}
		if _, err := tx.ExecContext(canceled, `INSERT INTO t VALUES (2)`); !errors.Is(err, context.Canceled) {
			t.Errorf("statement after the context's end: %v", err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO t VALUES (3)`)
		return err
	}))
	if n := number(t, s, `SELECT sum(x) FROM t`); n != 4 {
		t.Errorf("sum %d, want 4", n)
	}
}
