// Package bank is a small bank on Semel: accounts, money moved once per
// request, and a statement that is up to date when the answer arrives. It is
// the code behind "semel demo" and "semel serve", and meant to be read.
//
// Follow one withdrawal: [Routes] binds its URL to the command, the handler
// [withdraw] changes the balance and says so in an event, and the projection
// in statement.go turns the event into a line of the account's statement.
// All of it is one transaction. Nothing here mentions keys, retries or
// duplicates: that is what the module is for.
package bank

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

// Open opens an account with nothing in it.
type Open struct {
	Account string `json:"account"`
}

// Deposit puts money into an account.
type Deposit struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
}

// Withdraw takes money out of an account, which is never overdrawn.
type Withdraw struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
}

// Transfer moves money from one account to another, all of it or none.
type Transfer struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Cents int64  `json:"cents"`
}

// Balance is the result of every command: what is then in the account, in
// cents. For a transfer it is the account that the money left.
type Balance struct {
	Cents int64 `json:"balance"`
}

// The facts, one for each command that succeeded.
type (
	// Opened tells of a new account.
	Opened struct {
		Account string `json:"account"`
	}
	// Deposited tells of money put in, and of the balance then.
	Deposited struct {
		Account string `json:"account"`
		Cents   int64  `json:"cents"`
		Balance int64  `json:"balance"`
	}
	// Withdrawn tells of money taken out, and of the balance then.
	Withdrawn struct {
		Account string `json:"account"`
		Cents   int64  `json:"cents"`
		Balance int64  `json:"balance"`
	}
	// Transferred tells of money moved, and of both balances then.
	Transferred struct {
		From        string `json:"from"`
		To          string `json:"to"`
		Cents       int64  `json:"cents"`
		FromBalance int64  `json:"fromBalance"`
		ToBalance   int64  `json:"toBalance"`
	}
)

// unit is what the handlers work with: the store's transaction and the events.
type unit = semel.Unit[sqlite.Tx]

// Create makes the bank's tables where they are missing. The ledger has no
// unique key on purpose: an operation that took effect twice would show in
// it, and in [Verify], instead of being hidden by a constraint.
func Create(ctx context.Context, store *sqlite.Store) error {
	return store.Update(ctx, func(ctx context.Context, tx sqlite.Tx) error {
		for _, statement := range []string{
			`CREATE TABLE IF NOT EXISTS accounts (
				id TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0)) STRICT, WITHOUT ROWID`,
			`CREATE TABLE IF NOT EXISTS ledger (
				operation TEXT NOT NULL, account TEXT NOT NULL, cents INTEGER NOT NULL) STRICT`,
		} {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("bank: creating tables: %w", err)
			}
		}
		return nil
	})
}

// Register tells the engine everything the bank can do.
func Register(engine *semel.Engine[sqlite.Tx]) {
	semel.Handle(engine, "open", open, nil)
	semel.Handle(engine, "deposit", deposit, nil)
	semel.Handle(engine, "withdraw", withdraw, nil)
	semel.Handle(engine, "transfer", transfer, nil)

	semel.Describe[Opened](engine, semel.EventOptions{Name: "opened"})
	semel.Describe[Deposited](engine, semel.EventOptions{Name: "deposited"})
	semel.Describe[Withdrawn](engine, semel.EventOptions{Name: "withdrawn"})
	semel.Describe[Transferred](engine, semel.EventOptions{Name: "transferred"})

	semel.Project(engine, "statement", writeStatement, &semel.ProjectOptions[sqlite.Tx]{
		Tables: []string{"statement"},
		Create: createStatement,
	})
	semel.Project(engine, "daily", addUpDay, &semel.ProjectOptions[sqlite.Tx]{
		Optional: true, // nobody waits for the day's totals
		Tables:   []string{"daily"},
		Create:   createDaily,
	})
}

func open(ctx context.Context, u *unit, cmd Open) (Balance, error) {
	var id string
	err := u.Tx.QueryRowContext(ctx,
		`INSERT INTO accounts (id, cents) VALUES (?, 0) ON CONFLICT DO NOTHING RETURNING id`, cmd.Account).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return Balance{}, semel.Reject("account_exists", "there is an account %q already", cmd.Account)
	}
	if err != nil {
		return Balance{}, err
	}
	u.Created("accounts/" + cmd.Account)
	u.Emit(Opened{cmd.Account})
	return Balance{}, nil
}

func deposit(ctx context.Context, u *unit, cmd Deposit) (Balance, error) {
	balance, err := post(ctx, u, cmd.Account, cmd.Cents)
	if err != nil {
		return Balance{}, err
	}
	u.Emit(Deposited{cmd.Account, cmd.Cents, balance})
	return Balance{balance}, nil
}

func withdraw(ctx context.Context, u *unit, cmd Withdraw) (Balance, error) {
	balance, err := post(ctx, u, cmd.Account, -cmd.Cents)
	if err != nil {
		return Balance{}, err
	}
	u.Emit(Withdrawn{cmd.Account, cmd.Cents, balance})
	return Balance{balance}, nil
}

func transfer(ctx context.Context, u *unit, cmd Transfer) (Balance, error) {
	// Asked first, because a no before anything is written costs nothing.
	if _, err := balanceOf(ctx, u, cmd.To); err != nil {
		return Balance{}, err
	}
	from, err := post(ctx, u, cmd.From, -cmd.Cents)
	if err != nil {
		return Balance{}, err
	}
	to, err := post(ctx, u, cmd.To, cmd.Cents)
	if err != nil {
		return Balance{}, err
	}
	u.Emit(Transferred{cmd.From, cmd.To, cmd.Cents, from, to})
	return Balance{from}, nil
}

// post changes an account by so many cents, notes it in the ledger and
// returns the new balance. It rejects what the account cannot cover.
func post(ctx context.Context, u *unit, account string, cents int64) (int64, error) {
	var balance int64
	err := u.Tx.QueryRowContext(ctx,
		`UPDATE accounts SET cents = cents + ? WHERE id = ? AND cents + ? >= 0 RETURNING cents`,
		cents, account, cents).Scan(&balance)
	if errors.Is(err, sql.ErrNoRows) {
		balance, err = balanceOf(ctx, u, account)
		if err != nil {
			return 0, err
		}
		return 0, semel.Reject("insufficient_funds", "account %q has %d cents and cannot cover %d", account, balance, -cents)
	}
	if err != nil {
		return 0, err
	}
	_, err = u.Tx.ExecContext(ctx, `INSERT INTO ledger (operation, account, cents) VALUES (?, ?, ?)`,
		u.Operation().ID.String(), account, cents)
	return balance, err
}

// balanceOf reads an account's balance and rejects an unknown account.
func balanceOf(ctx context.Context, u *unit, account string) (int64, error) {
	var cents int64
	err := u.Tx.QueryRowContext(ctx, `SELECT cents FROM accounts WHERE id = ?`, account).Scan(&cents)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, semel.Reject("unknown_account", "there is no account %q", account)
	}
	return cents, err
}
