package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/semel-dev/semel"
)

var errNo = errors.New("no")

func TestRunKnowsWhoWrote(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		statement string
		spoils    bool
	}{
		"nothing":          {`SELECT 1`, false},
		"no row matched":   {`UPDATE t SET x = 1 WHERE x = 99`, false},
		"conflict ignored": {`INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING`, false},
		"failed statement": {`INSERT INTO t VALUES (1)`, false},
		"failed later row": {`INSERT INTO t VALUES (7), (1)`, false},
		"kept first row":   {`INSERT OR FAIL INTO t VALUES (7), (1)`, true},
		"insert":           {`INSERT INTO t VALUES (7)`, true},
		"update":           {`UPDATE t SET x = x`, true},
		"update returning": {`UPDATE t SET x = 5 RETURNING x`, true},
		"delete all":       {`DELETE FROM t`, true},
		"cascade":          {`WITH a AS (SELECT 1 AS x) DELETE FROM t WHERE x IN a`, true},
		"through a view":   {`INSERT INTO v VALUES (7)`, true},
		"create":           {`CREATE TABLE u (x)`, true},
		"drop":             {`DROP TABLE t`, true},
		"pragma":           {`PRAGMA user_version = 7`, true},
		"script":           {`SELECT 1; INSERT INTO t VALUES (7)`, true},
	} {
		for _, door := range []string{"exec", "query"} {
			t.Run(name+"/"+door, func(t *testing.T) {
				t.Parallel()
				s := open(t)
				exec1(t, s, `CREATE TABLE t (x INTEGER PRIMARY KEY); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT x FROM t;
					CREATE TRIGGER i INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.x); END`)
				calls := 0
				members := []semel.Member[Tx]{
					handler(func(ctx context.Context, tx Tx) error { calls++; return nil }),
					handler(func(ctx context.Context, tx Tx) error {
						calls++
						if door == "exec" {
							_, _ = tx.ExecContext(ctx, test.statement)
						} else if rows, err := tx.QueryContext(ctx, test.statement); err == nil {
							rows.Next() // and left open
						}
						return errNo
					}),
					handler(func(ctx context.Context, tx Tx) error { calls++; return errNo }),
				}
				l := begin(t, s)
				spoiled, err := l.Run(t.Context(), members)
				must(t, err)
				if want := map[bool]int{true: 1, false: -1}[test.spoils]; spoiled != want {
					t.Errorf("spoiled %d, want %d", spoiled, want)
				}
				if want := map[bool]int{true: 2, false: 3}[test.spoils]; calls != want {
					t.Errorf("%d calls, want %d", calls, want)
				}
			})
		}
	}
}

// TestLostTransaction makes SQLite itself roll back in the middle of a group.
func TestLostTransaction(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"insert or rollback": `INSERT OR ROLLBACK INTO t VALUES (1)`,
		"raise":              `DELETE FROM t`,
		"full":               `INSERT INTO big VALUES (zeroblob(10000000))`,
		"in rows":            `INSERT OR ROLLBACK INTO t VALUES (1) RETURNING x`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			exec1(t, s, `CREATE TABLE t (x INTEGER PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE big (x);
				CREATE TRIGGER r BEFORE DELETE ON t BEGIN SELECT RAISE(ROLLBACK, 'never delete'); END`)
			exec1(t, s, `PRAGMA max_page_count = 300`)
			ctx := t.Context()
			l := begin(t, s)
			must(t, l.Append(ctx, []*semel.Event{{Name: "e", Data: []byte(`1`)}}))
			var first, second error
			spoiled, err := l.Run(ctx, []semel.Member[Tx]{
				handler(func(ctx context.Context, tx Tx) error {
					_, err := tx.ExecContext(ctx, `INSERT INTO t VALUES (2)`)
					return err
				}),
				handler(func(ctx context.Context, tx Tx) error {
					if name == "in rows" {
						var x int
						first = tx.QueryRowContext(ctx, statement).Scan(&x)
					} else {
						_, first = tx.ExecContext(ctx, statement)
					}
					_, second = tx.ExecContext(ctx, `INSERT INTO t VALUES (3)`)
					return nil // swallowed
				}),
			})
			if first == nil || second == nil || err == nil {
				t.Errorf("the statement: %v; the next one: %v; Run: %d, %v", first, second, spoiled, err)
			}
			if err := l.Insert(ctx, []*semel.Operation{operation("k")}); err == nil {
				t.Error("Insert worked in a lost transaction")
			}
			if err := l.Commit(ctx); err == nil {
				t.Error("a lost transaction was committed")
			}
			l.Rollback()
			if n := number(t, s, `SELECT count(*) FROM t`); n != 1 {
				t.Errorf("%d rows, want 1", n)
			}
			e := &semel.Event{Name: "e", Data: []byte(`1`)}
			in(t, s, func(l semel.Session[Tx]) { must(t, l.Append(ctx, []*semel.Event{e})) })
			if e.Position != 1 {
				t.Errorf("position %d after the loss, want 1", e.Position)
			}
		})
	}
}

func TestAFailingStatementKeepsTheTransaction(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `CREATE TABLE t (x INTEGER PRIMARY KEY)`)
	must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) error {
		for _, query := range []string{`INSERT INTO t VALUES (1)`, `INSERT INTO t VALUES (1)`, `SELEC`, `INSERT INTO t VALUES (2)`} {
			_, _ = tx.ExecContext(ctx, query)
		}
		return nil
	}))
	if n := number(t, s, `SELECT count(*) FROM t`); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}

func TestCommitFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `CREATE TABLE p (x INTEGER PRIMARY KEY); CREATE TABLE c (x REFERENCES p DEFERRABLE INITIALLY DEFERRED)`)
	l := begin(t, s)
	must(t, l.Append(t.Context(), []*semel.Event{{Name: "e"}}))
	_, err := l.Tx().ExecContext(t.Context(), `INSERT INTO c VALUES (1)`)
	must(t, err)
	if err := l.Commit(t.Context()); err == nil {
		t.Fatal("a violated foreign key was committed")
	}
	e := &semel.Event{Name: "e"}
	in(t, s, func(l semel.Session[Tx]) { must(t, l.Append(t.Context(), []*semel.Event{e})) })
	if n := number(t, s, `SELECT count(*) FROM semel_events`); n != 1 || e.Position != 1 {
		t.Errorf("%d events, the last at %d; want 1 at 1", n, e.Position)
	}
}

func TestNumbersAreDenseAfterRollback(t *testing.T) {
	t.Parallel()
	s := open(t)
	for i := range 3 {
		l := begin(t, s)
		must(t, l.Append(t.Context(), []*semel.Event{{Name: "lost"}, {Name: "lost"}}))
		must(t, l.Insert(t.Context(), []*semel.Operation{operation(fmt.Sprint("lost", i))}))
		l.Rollback()
		l.Rollback()
		o, e := operation(fmt.Sprint(i)), &semel.Event{Name: "kept"}
		in(t, s, func(l semel.Session[Tx]) {
			must(t, l.Append(t.Context(), []*semel.Event{e}))
			must(t, l.Insert(t.Context(), []*semel.Operation{o}))
		})
		if e.Position != int64(i+1) || o.Seq != int64(i+1) {
			t.Errorf("round %d: position %d, seq %d", i, e.Position, o.Seq)
		}
	}
	head, err := s.Head(t.Context())
	must(t, err)
	if head != 3 {
		t.Errorf("head %d, want 3", head)
	}
}

func TestTheRightToWrite(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `CREATE TABLE t (x)`)
	solo, err := s.Begin(t.Context(), true)
	must(t, err)
	defer solo.Rollback()
	group := begin(t, s) // the solo session has not taken it
	brief, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	go func() {
		_, err := s.Begin(brief, false)
		waiting <- err
	}()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("Begin while another writes: %v", err)
	}
	if _, err := solo.Tx().ExecContext(brief, `INSERT INTO t VALUES (1)`); !errors.Is(err, context.Canceled) {
		t.Errorf("solo statement while another writes: %v", err)
	}
	var x int
	if err := solo.Tx().QueryRowContext(brief, `SELECT 1`).Scan(&x); !errors.Is(err, context.Canceled) {
		t.Errorf("solo row while another writes: %v", err)
	}
	must(t, group.Commit(t.Context()))
	_, err = solo.Tx().ExecContext(t.Context(), `INSERT INTO t VALUES (1)`)
	must(t, err)
	must(t, solo.Commit(t.Context()))
	if err := solo.Commit(t.Context()); err == nil {
		t.Error("committed twice")
	}
	untouched, err := s.Begin(t.Context(), true)
	must(t, err)
	must(t, untouched.Commit(t.Context()))
	if n := number(t, s, `SELECT count(*) FROM t`); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func TestManyWritersAndReaders(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `CREATE TABLE t (x INTEGER)`)
	var stop atomic.Bool
	done := make(chan error)
	const writers, rounds = 4, 25
	for w := range writers {
		go func() {
			for i := range rounds {
				err := s.Update(context.Background(), func(ctx context.Context, tx Tx) error {
					_, err := tx.ExecContext(ctx, `INSERT INTO t VALUES (?)`, w*rounds+i)
					return err
				})
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	go func() {
		for !stop.Load() {
			if _, err := s.Operations(context.Background(), semel.OperationQuery{All: true}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range writers {
		must(t, <-done)
	}
	stop.Store(true)
	must(t, <-done)
	if n := number(t, s, `SELECT count(DISTINCT x) FROM t`); n != writers*rounds {
		t.Errorf("%d rows, want %d", n, writers*rounds)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := s.Reader().ExecContext(t.Context(), `CREATE TABLE t (x)`); err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("a reader wrote: %v", err)
	}
	tx, err := s.Reader().BeginTx(t.Context(), nil)
	must(t, err)
	var n int
	must(t, tx.QueryRowContext(t.Context(), `SELECT count(*) FROM semel_operations`).Scan(&n))
	must(t, tx.Commit())
}

func TestAPanicEndsTheMember(t *testing.T) {
	t.Parallel()
	s := open(t)
	l := begin(t, s)
	var kept Tx
	func() {
		defer func() { _ = recover() }()
		_, _ = l.Run(t.Context(), []semel.Member[Tx]{handler(func(ctx context.Context, tx Tx) error {
			kept = tx
			panic("a bug")
		})})
	}()
	if _, err := kept.ExecContext(t.Context(), `CREATE TABLE t (x)`); !errors.Is(err, errOver) {
		t.Errorf("after a panic: %v", err)
	}
}
