package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/leak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(lockVariable); path != "" {
		os.Exit(tryLock(path))
	}
	leak.Main(m)
}

func open(t *testing.T) *Store {
	t.Helper()
	return reopen(t, filepath.Join(t.TempDir(), "semel.db"))
}

func reopen(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// in runs f in a session and commits.
func in(t *testing.T, s *Store, f func(l semel.Session[Tx])) {
	t.Helper()
	l, err := s.Begin(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Rollback()
	f(l)
	if err := l.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// operation returns one with every field set.
func operation(key string, subjects ...string) *semel.Operation {
	c := semel.Command{Tenant: "shop", Principal: "ann", Name: "withdraw", Key: key}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	return &semel.Operation{
		ID: c.ID(), Tenant: c.Tenant, Principal: c.Principal, Name: c.Name, Key: key, Subjects: subjects,
		Fingerprint: semel.Fingerprint{1, 2, 3}, Body: []byte(`{"a":1}`), Correlation: []byte(`{"id":"x"}`),
		State: semel.Accepted, AcceptedAt: at, DueAt: at,
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exec1(t *testing.T, s *Store, query string, args ...any) {
	t.Helper()
	must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	}))
}

func number(t *testing.T, s *Store, query string, args ...any) (n int64) {
	t.Helper()
	if err := s.Reader().QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func TestOperationKeepsEveryField(t *testing.T) {
	t.Parallel()
	s := open(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	o := operation("k", "account/a")
	o.State, o.Attempts, o.Epoch, o.Status = semel.Failed, 3, 4, 201
	o.Resource, o.Result, o.Code, o.Reason, o.Disposition = "accounts/a", []byte("\x00\xff"), "code", "reason", semel.Poison
	o.Events, o.Position, o.DonePosition = 2, 7, 8
	o.ExecutedAt, o.DoneAt, o.ExpiresAt = at.Add(1000), at.Add(2000), at.Add(3000)
	in(t, s, func(l semel.Session[Tx]) { must(t, l.Insert(t.Context(), []*semel.Operation{o})) })
	got, err := s.Operation(t.Context(), o.ID)
	must(t, err)
	if want, have := fmt.Sprintf("%+v", o), fmt.Sprintf("%+v", got); want != have {
		t.Errorf("stored\n%s\nread\n%s", want, have)
	}
	if o.Seq != 1 {
		t.Errorf("seq %d, want 1", o.Seq)
	}
	if _, err := s.Operation(t.Context(), operation("other").ID); !errors.Is(err, semel.ErrNotFound) {
		t.Errorf("unknown operation: %v", err)
	}
}
