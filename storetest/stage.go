package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/semel-dev/semel"
)

// A stage is what one check plays on: a database with a few tables, and the
// engines that were started on it.
type stage[Tx any] struct {
	Harness[Tx]
	name  string
	store semel.Store[Tx]
	close func() error
	stops []func() error

	// All waits are multiples of lease, so that they can pass in real time.
	lease    time.Duration
	tick     time.Duration // between two looks at something that is awaited
	patience time.Duration // for one check

	mu     sync.Mutex
	calls  map[string]int // of handlers, by key
	healed bool           // handlers in mode "ill" succeed from now on
	gate   chan struct{}  // handlers in modes "gate" and "pause" wait for it
	paused chan struct{}  // gets one for each handler that waits there
}

func newStage[Tx any](h Harness[Tx], name string) *stage[Tx] {
	s := &stage[Tx]{
		Harness: h, name: name,
		lease: 30 * time.Second, tick: 100 * time.Millisecond, patience: 20 * time.Minute,
		calls: make(map[string]int), gate: make(chan struct{}), paused: make(chan struct{}, 1000),
	}
	if !h.VirtualTime {
		s.lease, s.tick, s.patience = 500*time.Millisecond, 10*time.Millisecond, 30*time.Second
	}
	return s
}

// open opens the database and makes the suite's tables.
func (s *stage[Tx]) open(ctx context.Context) error {
	if err := s.reopen(ctx); err != nil {
		return err
	}
	return s.write(ctx, func(tx Tx) error {
		for _, statement := range []string{
			`CREATE TABLE accounts (id VARCHAR(255) NOT NULL PRIMARY KEY, cents BIGINT NOT NULL)`,
			// No key: a second effect shall show, not fail.
			`CREATE TABLE ledger (operation VARCHAR(255) NOT NULL, account VARCHAR(255) NOT NULL, cents BIGINT NOT NULL)`,
		} {
			if _, err := s.Exec(ctx, tx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	})
}

// reopen ends every engine, closes the database if it is open, and opens it.
func (s *stage[Tx]) reopen(ctx context.Context) (err error) {
	if err := s.end(); err != nil {
		return err
	}
	s.mu.Lock()
	s.gate = make(chan struct{})
	s.mu.Unlock()
	s.store, s.close, err = s.Open(ctx, s.name)
	return err
}

// end stops every engine and closes the database.
func (s *stage[Tx]) end() error {
	s.release()
	var errs []error
	for _, stop := range s.stops {
		errs = append(errs, stop())
	}
	s.stops = nil
	if s.close != nil {
		errs = append(errs, s.close())
		s.close = nil
	}
	return errors.Join(errs...)
}

// release lets every handler go that waits at the gate.
func (s *stage[Tx]) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gate:
	default:
		close(s.gate)
	}
}

func (s *stage[Tx]) heal(well bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.healed = well
}

// setup is what an engine is started with.
type setup[Tx any] struct {
	engine  semel.Options
	deposit semel.HandleOptions
	more    func(e *semel.Engine[Tx]) // registers more
}

// start runs an engine until the check ends or stop is called.
func (s *stage[Tx]) start(ctx context.Context, o setup[Tx]) (e *semel.Engine[Tx], stop func() error, err error) {
	o.engine.Logger = slog.New(slog.DiscardHandler)
	e = semel.New(s.store, &o.engine)
	semel.Handle(e, "deposit", s.deposit, &o.deposit)
	if o.more != nil {
		o.more(e)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- e.Run(running) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	select {
	case <-e.Ready():
		s.stops = append(s.stops, stop)
		return e, stop, nil
	case err := <-ended:
		cancel()
		return nil, nil, fmt.Errorf("running an engine: %w", err)
	}
}

// command makes a deposit of one principal.
func command(key string, d deposit) semel.Command {
	body, _ := json.Marshal(d) // strings and a number always encode
	return semel.Command{Principal: "alice", Name: "deposit", Key: key, Body: body}
}

// send submits a deposit and waits for its outcome.
func send[Tx any](ctx context.Context, e *semel.Engine[Tx], key string, d deposit) (semel.Answer, error) {
	a, err := e.Submit(ctx, command(key, d), semel.SubmitOptions{})
	if err != nil {
		return a, fmt.Errorf("submitting %q: %w", key, err)
	}
	return a, nil
}

// sendAsync asks for acceptance only.
func sendAsync[Tx any](ctx context.Context, e *semel.Engine[Tx], key string, d deposit) (*semel.Operation, error) {
	a, err := e.Submit(ctx, command(key, d), semel.SubmitOptions{Async: true})
	if err != nil {
		return nil, fmt.Errorf("submitting %q: %w", key, err)
	}
	return a.Operation, nil
}

// expect submits a deposit, waits, and compares the state it ends in.
func expect[Tx any](ctx context.Context, e *semel.Engine[Tx], key string, d deposit, want semel.State) (semel.Answer, error) {
	a, err := send(ctx, e, key, d)
	if err == nil && a.Operation.State != want {
		err = fmt.Errorf("%q is %s (%s), want %s", key, a.Operation.State, a.Operation.Reason, want)
	}
	return a, err
}

// await waits for the outcome of a deposit by its key and compares the state.
func await[Tx any](ctx context.Context, e *semel.Engine[Tx], key string, want semel.State) (*semel.Operation, error) {
	op, err := e.Await(ctx, "", "alice", command(key, deposit{}).ID())
	if err != nil {
		return nil, fmt.Errorf("awaiting %q: %w", key, err)
	}
	if op.State != want {
		return nil, fmt.Errorf("%q is %s (%s), want %s", key, op.State, op.Reason, want)
	}
	return op, nil
}

// stored reads an operation from the store and compares its state.
func (s *stage[Tx]) stored(ctx context.Context, key string, want semel.State) (*semel.Operation, error) {
	op, err := s.store.Operation(ctx, command(key, deposit{}).ID())
	if err != nil {
		return nil, fmt.Errorf("reading the operation of %q: %w", key, err)
	}
	if op.State != want {
		return nil, fmt.Errorf("%q is stored as %s (%s), want %s", key, op.State, op.Reason, want)
	}
	return op, nil
}

// until looks again and again until the condition holds.
func (s *stage[Tx]) until(ctx context.Context, what string, condition func() (bool, error)) error {
	for {
		ok, err := condition()
		if err != nil {
			return fmt.Errorf("waiting until %s: %w", what, err)
		}
		if ok {
			return nil
		}
		if err := pause(ctx, s.tick); err != nil {
			return fmt.Errorf("waiting until %s: %w", what, err)
		}
	}
}

// becomes waits until a stored operation is in a state.
func (s *stage[Tx]) becomes(ctx context.Context, key string, want semel.State) error {
	return s.until(ctx, fmt.Sprintf("%q is %s", key, want), func() (bool, error) {
		op, err := s.store.Operation(ctx, command(key, deposit{}).ID())
		if err != nil {
			return false, err
		}
		return op.State == want, nil
	})
}

// session runs f in a session that is rolled back unless f commits.
func (s *stage[Tx]) session(ctx context.Context, f func(semel.Session[Tx]) error) error {
	session, err := s.store.Begin(ctx, false)
	if err != nil {
		return fmt.Errorf("beginning a session: %w", err)
	}
	defer session.Rollback()
	return f(session)
}

// commit runs f in a session and commits it.
func (s *stage[Tx]) commit(ctx context.Context, f func(semel.Session[Tx]) error) error {
	return s.session(ctx, func(session semel.Session[Tx]) error {
		if err := f(session); err != nil {
			return err
		}
		if err := session.Commit(ctx); err != nil {
			return fmt.Errorf("committing: %w", err)
		}
		return nil
	})
}

func (s *stage[Tx]) write(ctx context.Context, f func(Tx) error) error {
	return s.commit(ctx, func(session semel.Session[Tx]) error { return f(session.Tx()) })
}

// number reads one number from the suite's tables, as it is committed.
func (s *stage[Tx]) number(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = s.session(ctx, func(session semel.Session[Tx]) error {
		n, err = s.QueryInt(ctx, session.Tx(), query, args...)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", query, err)
	}
	return n, nil
}

// same compares a number in the suite's tables.
func (s *stage[Tx]) same(ctx context.Context, want int64, query string, args ...any) error {
	got, err := s.number(ctx, query, args...)
	if err == nil && got != want {
		err = fmt.Errorf("%s %q: %d, want %d", query, args, got, want)
	}
	return err
}

// effects compares how often a deposit took effect.
func (s *stage[Tx]) effects(ctx context.Context, key string, want int64) error {
	err := s.same(ctx, want, `SELECT count(*) FROM ledger WHERE operation = ?`, command(key, deposit{}).ID().String())
	if err != nil {
		return fmt.Errorf("effects of %q: %w", key, err)
	}
	return nil
}

// sound has an engine that is not running verify the store.
func (s *stage[Tx]) sound(ctx context.Context, o setup[Tx], drained bool) error {
	o.engine.Logger = slog.New(slog.DiscardHandler)
	e := semel.New(s.store, &o.engine)
	semel.Handle(e, "deposit", s.deposit, &o.deposit)
	if o.more != nil {
		o.more(e)
	}
	report, err := e.Verify(ctx, semel.VerifyOptions{Drained: drained})
	if err != nil {
		return err
	}
	for _, problem := range report.Problems {
		err = errors.Join(err, errors.New(problem))
	}
	return err
}
