package bank

import (
	"context"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

// readModel is one generation of a projection's tables.
type readModel = semel.ReadModel[sqlite.Tx]

// moved reads any of the bank's events: what members they share means the
// same in all of them.
type moved struct {
	Account     string `json:"account"`
	From        string `json:"from"`
	To          string `json:"to"`
	Cents       int64  `json:"cents"`
	Balance     int64  `json:"balance"`
	FromBalance int64  `json:"fromBalance"`
	ToBalance   int64  `json:"toBalance"`
}

func createStatement(ctx context.Context, m *readModel) error {
	_, err := m.Tx.ExecContext(ctx, `CREATE TABLE `+m.Table("statement")+` (
		account TEXT NOT NULL, position INTEGER NOT NULL, operation TEXT NOT NULL,
		command TEXT NOT NULL, cents INTEGER NOT NULL, balance INTEGER NOT NULL,
		PRIMARY KEY (account, position)) STRICT, WITHOUT ROWID`)
	return err
}

// writeStatement is the projection "statement": a line for every change of an
// account, with the balance after it.
func writeStatement(ctx context.Context, m *readModel, event semel.Event) error {
	var e moved
	if err := event.Decode(&e); err != nil {
		return err
	}
	line := func(account, command string, cents, balance int64) error {
		_, err := m.Tx.ExecContext(ctx, `INSERT INTO `+m.Table("statement")+
			` (account, position, operation, command, cents, balance) VALUES (?, ?, ?, ?, ?, ?)`,
			account, event.Position, event.Operation.String(), command, cents, balance)
		return err
	}
	switch event.Name {
	case "opened":
		return line(e.Account, "open", 0, 0)
	case "deposited":
		return line(e.Account, "deposit", e.Cents, e.Balance)
	case "withdrawn":
		return line(e.Account, "withdraw", -e.Cents, e.Balance)
	case "transferred":
		if err := line(e.From, "transfer", -e.Cents, e.FromBalance); err != nil {
			return err
		}
		return line(e.To, "transfer", e.Cents, e.ToBalance)
	}
	return nil // other programs may keep their events in the same log
}

func createDaily(ctx context.Context, m *readModel) error {
	_, err := m.Tx.ExecContext(ctx, `CREATE TABLE `+m.Table("daily")+` (
		day TEXT NOT NULL, event TEXT NOT NULL, number INTEGER NOT NULL, cents INTEGER NOT NULL,
		PRIMARY KEY (day, event)) STRICT, WITHOUT ROWID`)
	return err
}

// addUpDay is the projection "daily": how often what happened on each day, in
// UTC, and how many cents it moved.
func addUpDay(ctx context.Context, m *readModel, event semel.Event) error {
	var e moved
	if err := event.Decode(&e); err != nil {
		return err
	}
	_, err := m.Tx.ExecContext(ctx, `INSERT INTO `+m.Table("daily")+` (day, event, number, cents) VALUES (?, ?, 1, ?)
		ON CONFLICT (day, event) DO UPDATE SET number = number + 1, cents = cents + excluded.cents`,
		event.At.UTC().Format(time.DateOnly), event.Name, e.Cents)
	return err
}
