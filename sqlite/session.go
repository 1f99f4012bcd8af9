package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/semel-dev/semel"
)

var errEnded = errors.New("sqlite: the session has ended")

// A session is one write transaction on the store's one writing connection.
type session struct {
	store *Store
	c     *connection
	tx    *member // for projections

	mu    sync.Mutex // guards begun and ended
	begun bool       // it has the right to write, and the transaction is open
	ended bool

	// lost is set when SQLite itself has ended the transaction. Guarded by
	// the connection's mutex, as are the counters, which become the store's
	// at commit.
	lost                  error
	seq, position, queued int64
	// wrote is set when the engine has written since the member at work began:
	// a handler's events are appended within its call.
	wrote bool
}

// Begin opens a transaction, as [semel.Store] says. There is one right to
// write; who waits for it gets it in turn.
func (s *Store) Begin(ctx context.Context, solo bool) (semel.Session[Tx], error) {
	t := s.newSession()
	if !solo {
		if err := t.start(ctx); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (s *Store) newSession() *session {
	t := &session{store: s, c: s.writer}
	t.tx = &member{s: t}
	return t
}

// start takes the right to write and begins the transaction, unless that has
// been done.
func (s *session) start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return errEnded
	case s.begun:
		return nil
	}
	if err := s.store.acquire(ctx); err != nil {
		return err
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if err := s.open(); err != nil {
		s.store.release()
		return err
	}
	s.begun = true
	return nil
}

func (s *session) open() error {
	if _, err := s.c.exec(`BEGIN IMMEDIATE`); err != nil {
		return fmt.Errorf("sqlite: begin: %w", err)
	}
	if s.store.stale {
		if err := s.store.count(); err != nil {
			_, _ = s.c.exec(`ROLLBACK`)
			return err
		}
	}
	s.seq, s.position, s.queued = s.store.seq, s.store.position, s.store.queued
	return nil
}

// ledger runs one of the engine's own steps.
func (s *session) ledger(ctx context.Context, step func() error) error {
	if err := s.start(ctx); err != nil {
		return err
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.lost != nil {
		return s.lost
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := step()
	if err != nil {
		s.probe(err)
	}
	return err
}

// probe finds out whether SQLite has rolled the transaction back, which it
// does for INSERT OR ROLLBACK, RAISE(ROLLBACK), a full disk and the like. All
// that comes after would be committed statement by statement. BEGIN succeeds
// outside a transaction only.
func (s *session) probe(cause error) {
	if s.lost != nil {
		return
	}
	_, err := s.c.exec(`BEGIN`)
	if err == nil {
		_, err = s.c.exec(`ROLLBACK`)
	} else if code(err) == codeError {
		return // "cannot start a transaction within a transaction"
	}
	s.lost = fmt.Errorf("sqlite: the whole transaction was rolled back: %w", errors.Join(cause, err))
}

// probeUnlessEnd is probe for reading rows, whose end is an error as well.
func (s *session) probeUnlessEnd(err error) {
	if err != io.EOF {
		s.probe(err)
	}
}

// Now returns the time of this process, which is the only one that writes.
func (s *session) Now() time.Time { return now() }

// now has the resolution in which times are stored.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// Tx returns the transaction for projections.
func (s *session) Tx() Tx { return Tx{s.tx} }

// Run calls the members in turn on the shared transaction. If a member loses
// the transaction, its index is returned with the error.
func (s *session) Run(ctx context.Context, members []semel.Member[Tx]) (spoiled int, err error) {
	for i := range members {
		failed, wrote := s.call(ctx, members[i].Call)
		if err := s.lostError(); err != nil {
			return i, err
		}
		if failed && wrote {
			return i, nil
		}
	}
	return -1, nil
}

// call runs one member. Its Tx ends however the function is left.
func (s *session) call(ctx context.Context, f func(context.Context, Tx) error) (failed, wrote bool) {
	m := &member{s: s}
	s.c.mu.Lock()
	s.wrote = false
	s.c.mu.Unlock()
	failed = true
	defer func() { wrote = m.end(failed) }()
	failed = f(ctx, Tx{m}) != nil
	return failed, false
}

func (s *session) lostError() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.lost
}

// Commit returns when the write-ahead log is on disk. It is never interrupted,
// which would leave the outcome unknown for no gain.
func (s *session) Commit(context.Context) error {
	s.tx.end(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errEnded
	}
	if !s.begun { // a solo session without a statement
		s.ended = true
		return nil
	}
	if err := s.commit(); err != nil {
		s.abandon()
		return err
	}
	s.ended = true
	s.store.release()
	return nil
}

func (s *session) commit() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.lost != nil {
		return s.lost
	}
	if _, err := s.c.exec(`COMMIT`); err != nil {
		s.store.stale = true // it may have happened all the same
		return fmt.Errorf("sqlite: commit: %w", err)
	}
	s.store.seq, s.store.position, s.store.queued = s.seq, s.position, s.queued
	return nil
}

// Rollback ends the session without effect; once ended it does nothing.
func (s *session) Rollback() {
	s.tx.end(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandon()
}

func (s *session) abandon() {
	if s.begun && !s.ended {
		s.c.mu.Lock()
		_, _ = s.c.exec(`ROLLBACK`) // fails if SQLite has done it already
		s.c.mu.Unlock()
		s.store.release()
	}
	s.ended = true
}

// Update runs f in a write transaction of its own, for what is not the effect
// of a command: creating the user's tables, loading data. It commits if f
// returns nil, and returns f's error as it is.
func (s *Store) Update(ctx context.Context, f func(ctx context.Context, tx Tx) error) error {
	t := s.newSession()
	defer t.Rollback()
	if err := t.start(ctx); err != nil {
		return err
	}
	if err := f(ctx, t.Tx()); err != nil {
		return err
	}
	return t.Commit(ctx)
}
