package storetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/semel-dev/semel"
)

func sessionChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"session/commit", "a commit that has returned is seen by every reader, and after a restart", checkCommit[Tx]},
		{"session/rollback", "a rollback leaves nothing behind, and may be called again", checkRollback[Tx]},
		{"session/isolation", "readers see what is committed and nothing else", checkIsolation[Tx]},
		{"session/ended", "a session that has ended refuses to be used", checkEnded[Tx]},
		{"session/begin", "beginning waits for the right to write, at most until its context ends", checkBegin[Tx]},
		{"session/solo", "a solo session keeps nobody waiting before its first statement", checkSolo[Tx]},
		{"session/run", "a member that fails after a write spoils the session; one that fails before does not", checkRun[Tx]},
		{"session/dead", "a member's Tx is dead when its function has returned", checkDeadTx[Tx]},
		{"tables", "a view shows the table it is pointed to; a checksum tells rows apart whatever their order", checkTables[Tx]},
	}
}

// writeAll writes one of everything.
func (s *stage[Tx]) writeAll(ctx context.Context, session semel.Session[Tx], key string) error {
	op := s.operation(key, "a")
	if err := session.Insert(ctx, []*semel.Operation{op}); err != nil {
		return fmt.Errorf("inserting: %w", err)
	}
	if err := session.Append(ctx, []*semel.Event{s.event(op, 0)}); err != nil {
		return fmt.Errorf("appending: %w", err)
	}
	if err := session.Follow(ctx, semel.Follower{Name: "f", Generation: 1, Position: 1, Live: true}, 0); err != nil {
		return fmt.Errorf("following: %w", err)
	}
	_, err := s.Exec(ctx, session.Tx(), `INSERT INTO ledger (operation, account, cents) VALUES (?, ?, ?)`, key, "a", int64(1))
	return err
}

// seen compares what every reader shows of [stage.writeAll].
func (s *stage[Tx]) seen(ctx context.Context, key string, want int) error {
	ops, err := s.store.Operations(ctx, semel.OperationQuery{All: true, ByAcceptance: true})
	if err != nil {
		return err
	}
	_, err = s.store.Operation(ctx, command(key, deposit{}).ID())
	if found := err == nil; err != nil && !errors.Is(err, semel.ErrNotFound) || found != (want == 1) || len(ops) != want {
		return fmt.Errorf("operation found: %t (error: %v), %d listed, want %d", found, err, len(ops), want)
	}
	if err := s.until(ctx, "the event has a position", func() (bool, error) {
		events, err := s.store.Events(ctx, 0, 10)
		if len(events) > want {
			err = fmt.Errorf("the log has %d events, want %d", len(events), want)
		}
		late := !s.store.Capabilities().PositionsAtCommit
		if err == nil && len(events) < want && !late {
			err = fmt.Errorf("the log has %d events, want %d", len(events), want)
		}
		return len(events) == want, err
	}); err != nil {
		return err
	}
	head, err := s.store.Head(ctx)
	if err != nil || head != int64(want) {
		return fmt.Errorf("the log's head is %d (error: %v), want %d", head, err, want)
	}
	followers, err := s.store.Followers(ctx)
	if err != nil || len(followers) != want {
		return fmt.Errorf("%d followers (error: %v), want %d", len(followers), err, want)
	}
	due, err := s.store.NextDue(ctx)
	if err != nil || due.IsZero() != (want == 0) {
		return fmt.Errorf("next due at %s (error: %v), with %d operations", due, err, want)
	}
	return nil
}

func checkCommit[Tx any](ctx context.Context, s *stage[Tx]) error {
	if err := s.commit(ctx, func(session semel.Session[Tx]) error { return s.writeAll(ctx, session, "k") }); err != nil {
		return err
	}
	if err := s.seen(ctx, "k", 1); err != nil {
		return fmt.Errorf("right after the commit: %w", err)
	}
	if err := s.reopen(ctx); err != nil {
		return err
	}
	if err := s.seen(ctx, "k", 1); err != nil {
		return fmt.Errorf("after a restart: %w", err)
	}
	return s.same(ctx, 1, `SELECT count(*) FROM ledger`)
}

func checkRollback[Tx any](ctx context.Context, s *stage[Tx]) error {
	session, err := s.store.Begin(ctx, false)
	if err != nil {
		return err
	}
	err = s.writeAll(ctx, session, "k")
	session.Rollback()
	session.Rollback()
	if err != nil {
		return err
	}
	if err := s.seen(ctx, "k", 0); err != nil {
		return err
	}
	if err := s.same(ctx, 0, `SELECT count(*) FROM ledger`); err != nil {
		return err
	}
	// The positions that were given are given again.
	if err := s.commit(ctx, func(session semel.Session[Tx]) error { return s.writeAll(ctx, session, "again") }); err != nil {
		return err
	}
	return s.seen(ctx, "again", 1)
}

func checkIsolation[Tx any](ctx context.Context, s *stage[Tx]) error {
	return s.session(ctx, func(session semel.Session[Tx]) error {
		if err := s.writeAll(ctx, session, "k"); err != nil {
			return err
		}
		if err := s.seen(ctx, "k", 0); err != nil {
			return fmt.Errorf("before the commit: %w", err)
		}
		known, err := session.Lookup(ctx, []semel.Lookup{{ID: command("k", deposit{}).ID()}})
		if err != nil || known[0].Operation == nil {
			return fmt.Errorf("the session does not see its own operation (error: %v)", err)
		}
		if err := session.Commit(ctx); err != nil {
			return err
		}
		return s.seen(ctx, "k", 1)
	})
}

func checkEnded[Tx any](ctx context.Context, s *stage[Tx]) error {
	for _, end := range []struct {
		name string
		call func(semel.Session[Tx]) error
	}{
		{"Commit", func(session semel.Session[Tx]) error { return session.Commit(ctx) }},
		{"Rollback", func(session semel.Session[Tx]) error { session.Rollback(); return nil }},
	} {
		err := s.session(ctx, func(session semel.Session[Tx]) error {
			tx := session.Tx()
			if err := end.call(session); err != nil {
				return err
			}
			return s.refused(ctx, session, tx)
		})
		if err != nil {
			return fmt.Errorf("after %s: %w", end.name, err)
		}
	}
	return nil
}

// refused makes every call on a session that has ended.
func (s *stage[Tx]) refused(ctx context.Context, session semel.Session[Tx], tx Tx) error {
	op := s.operation("late", "a")
	calls := map[string]func() error{
		"Commit":  func() error { return session.Commit(ctx) },
		"Insert":  func() error { return session.Insert(ctx, []*semel.Operation{op}) },
		"Append":  func() error { return session.Append(ctx, []*semel.Event{s.event(op, 0)}) },
		"Follow":  func() error { return session.Follow(ctx, semel.Follower{Name: "late", Generation: 1}, 0) },
		"Promote": func() error { return session.Promote(ctx, "late", 1) },
		"Lookup":  func() error { _, err := session.Lookup(ctx, []semel.Lookup{{ID: op.ID}}); return err },
		"Update": func() error {
			_, err := session.Update(ctx, []semel.Change{{Operation: op, State: semel.Accepted}})
			return err
		},
		"Claim": func() error { _, err := session.Claim(ctx, s.claim(1)); return err },
		"Sweep": func() error { _, err := session.Sweep(ctx, semel.Sweep{Limit: 1}); return err },
		"Exec": func() error {
			_, err := s.Exec(ctx, tx, `INSERT INTO ledger (operation, account, cents) VALUES (?, ?, ?)`, "late", "a", int64(1))
			return err
		},
	}
	for name, call := range calls {
		if call() == nil {
			return fmt.Errorf("%s succeeds", name)
		}
	}
	return s.seen(ctx, "late", 0)
}

func checkBegin[Tx any](ctx context.Context, s *stage[Tx]) error {
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if session, err := s.store.Begin(gone, false); err == nil {
		session.Rollback()
		return errors.New("a session begins although its context has ended")
	} else if !errors.Is(err, context.Canceled) {
		return fmt.Errorf("the error does not say that the context was canceled: %w", err)
	}
	first, err := s.store.Begin(ctx, false)
	if err != nil {
		return err
	}
	defer first.Rollback()
	if err := s.writeAll(ctx, first, "k"); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, s.lease)
	defer cancel()
	// A store with several writers may begin at once.
	if second, err := s.store.Begin(short, false); err == nil {
		second.Rollback()
	} else if !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the error does not say that the deadline has passed: %w", err)
	}
	begun := make(chan error, 1)
	go func() {
		begun <- s.commit(ctx, func(semel.Session[Tx]) error { return nil })
	}()
	if err := pause(ctx, s.tick); err != nil {
		return err
	}
	first.Rollback()
	if err := <-begun; err != nil {
		return fmt.Errorf("the next in turn: %w", err)
	}
	return s.seen(ctx, "k", 0)
}

func checkSolo[Tx any](ctx context.Context, s *stage[Tx]) error {
	solo, err := s.store.Begin(ctx, true)
	if err != nil {
		return err
	}
	defer solo.Rollback()
	short, cancel := context.WithTimeout(ctx, s.lease)
	defer cancel()
	group, err := s.store.Begin(short, false)
	if err != nil {
		return fmt.Errorf("a group beside a solo session without a statement: %w", err)
	}
	defer group.Rollback()
	if err := s.writeAll(ctx, group, "k"); err != nil {
		return err
	}
	if err := group.Commit(ctx); err != nil {
		return err
	}
	spoiled, err := solo.Run(ctx, []semel.Member[Tx]{{Call: func(ctx context.Context, tx Tx) error {
		_, err := s.Exec(ctx, tx, `INSERT INTO ledger (operation, account, cents) VALUES (?, ?, ?)`, "solo", "a", int64(1))
		return err
	}}})
	if err != nil || spoiled >= 0 {
		return fmt.Errorf("running in the solo session: spoiled %d: %v", spoiled, err)
	}
	if err := solo.Commit(ctx); err != nil {
		return err
	}
	if err := s.same(ctx, 2, `SELECT count(*) FROM ledger`); err != nil {
		return err
	}
	empty, err := s.store.Begin(ctx, true)
	if err != nil {
		return err
	}
	defer empty.Rollback()
	if err := empty.Commit(ctx); err != nil {
		return fmt.Errorf("committing a solo session without a statement: %w", err)
	}
	return nil
}

// member returns a member that writes, reads, or neither, and then fails or not.
func (s *stage[Tx]) member(name string, writes bool, fail error) semel.Member[Tx] {
	return semel.Member[Tx]{Subjects: []string{name}, Call: func(ctx context.Context, tx Tx) error {
		if _, err := s.QueryInt(ctx, tx, `SELECT count(*) FROM ledger`); err != nil {
			return err
		}
		if writes {
			_, err := s.Exec(ctx, tx, `INSERT INTO ledger (operation, account, cents) VALUES (?, ?, ?)`, name, name, int64(1))
			return errors.Join(err, fail)
		}
		return fail
	}}
}

func checkRun[Tx any](ctx context.Context, s *stage[Tx]) error {
	for _, tt := range []struct {
		name    string
		members []semel.Member[Tx]
		spoiled int
		rows    int64
	}{
		{"all succeed", []semel.Member[Tx]{s.member("a", true, nil), s.member("b", true, nil)}, -1, 2},
		{"nobody", nil, -1, 0},
		{"one fails before it writes", []semel.Member[Tx]{s.member("a", true, nil), s.member("b", false, errIll), s.member("c", true, nil)}, -1, 2},
		{"one fails after it has written", []semel.Member[Tx]{s.member("a", true, nil), s.member("b", true, errIll), s.member("c", true, nil)}, 1, 0},
		{"one alone fails", []semel.Member[Tx]{s.member("a", true, errIll)}, 0, 0},
	} {
		err := s.session(ctx, func(session semel.Session[Tx]) error {
			spoiled, err := session.Run(ctx, tt.members)
			if err != nil {
				return err
			}
			if spoiled != tt.spoiled {
				return fmt.Errorf("spoiled is %d, want %d", spoiled, tt.spoiled)
			}
			if spoiled >= 0 {
				return nil
			}
			return session.Commit(ctx)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", tt.name, err)
		}
		if err := s.same(ctx, tt.rows, `SELECT count(*) FROM ledger`); err != nil {
			return fmt.Errorf("%s: %w", tt.name, err)
		}
		if err := s.write(ctx, func(tx Tx) error { _, err := s.Exec(ctx, tx, `DELETE FROM ledger`); return err }); err != nil {
			return err
		}
	}
	return nil
}

func checkDeadTx[Tx any](ctx context.Context, s *stage[Tx]) error {
	return s.session(ctx, func(session semel.Session[Tx]) error {
		var kept Tx
		keep := semel.Member[Tx]{Call: func(_ context.Context, tx Tx) error { kept = tx; return nil }}
		if _, err := session.Run(ctx, []semel.Member[Tx]{keep}); err != nil {
			return err
		}
		if _, err := s.Exec(ctx, kept, `DELETE FROM ledger`); err == nil {
			return errors.New("a Tx that was kept still writes")
		}
		return nil
	})
}

func checkTables[Tx any](ctx context.Context, s *stage[Tx]) error {
	tables, ok := s.store.(semel.Tables[Tx])
	if !ok {
		return nil // checked by projection/rebuild, which must then be refused
	}
	return s.session(ctx, func(session semel.Session[Tx]) error {
		tx := session.Tx()
		for _, statement := range []string{
			`CREATE TABLE t_1 (id VARCHAR(255) NOT NULL, n BIGINT)`, `CREATE TABLE t_2 (id VARCHAR(255) NOT NULL, n BIGINT)`,
			`INSERT INTO t_1 VALUES ('a', 1), ('b', 2), ('b', 2), ('c', NULL)`, `INSERT INTO t_2 VALUES ('b', 2), ('c', NULL), ('a', 1), ('b', 2)`,
		} {
			if _, err := s.Exec(ctx, tx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		sum := func(table string) (string, int64) {
			sum, rows, err := tables.Checksum(ctx, tx, table)
			return fmt.Sprint(sum, err), rows
		}
		first, rows := sum("t_1")
		if second, _ := sum("t_2"); first != second || rows != 4 {
			return fmt.Errorf("the same four rows in another order: %s and %s, %d rows", first, second, rows)
		}
		for _, change := range []string{
			`UPDATE t_2 SET n = 3 WHERE id = 'a'`, `UPDATE t_2 SET n = 0 WHERE n IS NULL`, `INSERT INTO t_2 VALUES ('d', 3), ('d', 3)`,
		} {
			before, _ := sum("t_2")
			if _, err := s.Exec(ctx, tx, change); err != nil {
				return fmt.Errorf("%s: %w", change, err)
			}
			if after, _ := sum("t_2"); after == before {
				return fmt.Errorf("the checksum does not see %s", change)
			}
		}
		for table, want := range map[string]int64{"t_1": 4, "t_2": 6} {
			if err := tables.Point(ctx, tx, "t", table); err != nil {
				return err
			}
			if n, err := s.QueryInt(ctx, tx, `SELECT count(*) FROM t`); err != nil || n != want {
				return fmt.Errorf("the view on %s shows %d rows (error: %v), want %d", table, n, err, want)
			}
		}
		if err := tables.Point(ctx, tx, "t", "t_1"); err != nil {
			return err
		}
		if err := tables.Drop(ctx, tx, "t_2"); err != nil {
			return err
		}
		if _, err := s.Exec(ctx, tx, `CREATE TABLE t_2 (id BIGINT)`); err != nil {
			return fmt.Errorf("a dropped table's name is still taken: %w", err)
		}
		return nil
	})
}
