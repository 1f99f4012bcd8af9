package sqlite

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/semel-dev/semel"
)

// BenchmarkGroup measures what the store adds for a bank operation: two
// statements of the handler, one event and the operation's row, 64 to a
// transaction.
func BenchmarkGroup(b *testing.B) {
	s, err := Open(b.Context(), b.TempDir()+"/bench.db", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	err = s.Update(b.Context(), func(ctx context.Context, tx Tx) error {
		_, err := tx.ExecContext(ctx, `CREATE TABLE accounts (id TEXT PRIMARY KEY, cents INTEGER NOT NULL);
			CREATE TABLE ledger (id INTEGER PRIMARY KEY, account TEXT NOT NULL, cents INTEGER NOT NULL)`)
		for i := 0; err == nil && i < 1000; i++ {
			_, err = tx.ExecContext(ctx, `INSERT INTO accounts VALUES (?, 1000000000)`, fmt.Sprintf("a%d", i))
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	const size = 64
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := benchmarkGroup(b.Context(), s, size, n); err != nil {
			b.Fatal(err)
		}
		n += size
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/operation")
}

func benchmarkGroup(ctx context.Context, s *Store, size, n int) error {
	l, err := s.Begin(ctx, false)
	if err != nil {
		return err
	}
	defer l.Rollback()
	var keys []semel.Lookup
	var members []semel.Member[Tx]
	var ops []*semel.Operation
	var events []*semel.Event
	for i := range size {
		account := fmt.Sprintf("a%d", (n+i)*7%1000)
		c := semel.Command{Principal: "ann", Name: "withdraw", Key: fmt.Sprint(n + i)}
		id := c.ID()
		keys = append(keys, semel.Lookup{ID: id, Subjects: []string{"account/" + account}})
		members = append(members, semel.Member[Tx]{Call: func(ctx context.Context, tx Tx) error {
			var balance int64
			if err := tx.QueryRowContext(ctx, `UPDATE accounts SET cents = cents - ? WHERE id = ? AND cents >= ? RETURNING cents`, 5, account, 5).Scan(&balance); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO ledger (account, cents) VALUES (?, ?)`, account, -5)
			return err
		}})
		at := time.Now()
		ops = append(ops, &semel.Operation{ID: id, Principal: "ann", Name: "withdraw", Key: c.Key, Subjects: keys[i].Subjects,
			Body: []byte(`{"account":"` + account + `","cents":5}`), State: semel.Completed, Attempts: 1, Status: 200, Result: []byte(`{"balance":12345}`),
			Events: 1, Position: int64(n + i + 1), DonePosition: int64(n + i + 1), AcceptedAt: at, ExecutedAt: at, DoneAt: at, ExpiresAt: at.Add(time.Hour)})
		events = append(events, &semel.Event{Operation: id, Name: "Withdrawn", Subject: keys[i].Subjects[0], Data: []byte(`{"account":"a1","cents":5}`), At: at})
	}
	if _, err := l.Lookup(ctx, keys); err != nil {
		return err
	}
	if spoiled, err := l.Run(ctx, members); spoiled >= 0 || err != nil {
		return fmt.Errorf("member %d: %w", spoiled, err)
	}
	if err := l.Append(ctx, events); err != nil {
		return err
	}
	if err := l.Insert(ctx, ops); err != nil {
		return err
	}
	return l.Commit(ctx)
}
