package storetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/semel-dev/semel"
)

// deposit is the suite's command. Its mode says what the handler does besides.
type deposit struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
	Mode    string `json:"mode,omitempty"`
}

// Subject makes deposits to one account follow each other.
func (d deposit) Subject() string { return d.Account }

type deposited struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
	Balance int64  `json:"balance"`
}

type receipt struct {
	Balance int64  `json:"balance"`
	Text    string `json:"text,omitempty"`
}

// Modes of a deposit.
const (
	plain    = ""
	creates  = "creates"  // answers 201 with a resource
	quiet    = "quiet"    // emits nothing
	refuses  = "refuses"  // rejects before it has written
	rejects  = "rejects"  // rejects after it has written
	fails    = "fails"    // fails after it has written
	flaky    = "flaky"    // fails at the first call, after it has written
	shaky    = "shaky"    // fails at the first call, before it has written
	twice    = "twice"    // fails at the first two calls
	conflict = "conflict" // loses a version conflict at the first two calls
	hopeless = "hopeless" // fails terminally
	panics   = "panics"   // panics after it has written
	ill      = "ill"      // fails until the stage is healed
	gated    = "gated"    // waits at the gate first
	pausing  = "pausing"  // as gated at the first call, and does not notice that its lease has ended
)

var errIll = errors.New("ill")

// called counts a handler's call.
func (s *stage[Tx]) called(key string) (n int, healed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[key]++
	return s.calls[key], s.healed
}

// callsOf returns how often the handler was called for a key.
func (s *stage[Tx]) callsOf(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[key]
}

// deposit is the handler.
func (s *stage[Tx]) deposit(ctx context.Context, u *semel.Unit[Tx], d deposit) (receipt, error) {
	op := u.Operation()
	call, healed := s.called(op.Key)
	if d.Mode == gated || d.Mode == pausing && call == 1 {
		if err := s.waitAtGate(ctx, d.Mode == pausing); err != nil {
			return receipt{}, err
		}
		ctx = context.WithoutCancel(ctx)
	}
	if d.Mode == refuses {
		return receipt{}, semel.Reject("refused", "%s takes nothing", d.Account)
	}
	if d.Mode == shaky && call == 1 {
		return receipt{}, errIll
	}
	if err := s.add(ctx, u.Tx, op.ID.String(), d); err != nil {
		return receipt{}, err
	}
	if err := d.trouble(call, healed); err != nil {
		return receipt{}, err
	}
	balance, err := s.QueryInt(ctx, u.Tx, `SELECT cents FROM accounts WHERE id = ?`, d.Account)
	if err != nil {
		return receipt{}, err
	}
	if d.Mode == creates {
		u.Created("accounts/" + d.Account)
	}
	if d.Mode != quiet && d.Mode != pausing { // the latter's context has ended
		u.Emit(deposited{Account: d.Account, Cents: d.Cents, Balance: balance})
	}
	return receipt{Balance: balance, Text: "naïve <日本> & \u2028"}, nil
}

func (s *stage[Tx]) waitAtGate(ctx context.Context, deaf bool) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	s.paused <- struct{}{}
	if deaf {
		<-gate
		return nil
	}
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stage[Tx]) add(ctx context.Context, tx Tx, operation string, d deposit) error {
	n, err := s.Exec(ctx, tx, `UPDATE accounts SET cents = cents + ? WHERE id = ?`, d.Cents, d.Account)
	if err != nil {
		return fmt.Errorf("updating an account: %w", err)
	}
	if n == 0 {
		if _, err := s.Exec(ctx, tx, `INSERT INTO accounts (id, cents) VALUES (?, ?)`, d.Account, d.Cents); err != nil {
			return fmt.Errorf("inserting an account: %w", err)
		}
	}
	if _, err := s.Exec(ctx, tx, `INSERT INTO ledger (operation, account, cents) VALUES (?, ?, ?)`, operation, d.Account, d.Cents); err != nil {
		return fmt.Errorf("inserting into the ledger: %w", err)
	}
	return nil
}

// trouble is what the mode asks for after the writes.
func (d deposit) trouble(call int, healed bool) error {
	switch {
	case d.Mode == rejects:
		return semel.Reject("rejected", "%s takes nothing after all", d.Account)
	case d.Mode == fails, d.Mode == flaky && call == 1, d.Mode == twice && call <= 2, d.Mode == ill && !healed:
		return errIll
	case d.Mode == conflict && call <= 2:
		return semel.ErrVersionConflict
	case d.Mode == hopeless:
		return semel.TerminalError(errIll)
	case d.Mode == panics:
		panic("the handler panics on purpose")
	}
	return nil
}
