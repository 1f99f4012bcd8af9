package bench

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"path/filepath"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

type withdraw struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
}

func (w withdraw) Subject() string { return "account/" + w.Account }

type withdrawn struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
	Balance int64  `json:"balance"`
}

type receipt struct {
	Balance int64 `json:"balance"`
}

func handleWithdraw(ctx context.Context, u *semel.Unit[sqlite.Tx], w withdraw) (receipt, error) {
	var balance int64
	err := u.Tx.QueryRowContext(ctx,
		`UPDATE accounts SET cents = cents - ? WHERE id = ? AND cents >= ? RETURNING cents`,
		w.Cents, w.Account, w.Cents).Scan(&balance)
	if errors.Is(err, sql.ErrNoRows) {
		return receipt{}, semel.Reject("insufficient_funds", "%s cannot cover %d cents", w.Account, w.Cents)
	}
	if err != nil {
		return receipt{}, err
	}
	id := u.Operation().ID
	if _, err := u.Tx.ExecContext(ctx, `INSERT INTO ledger (operation, account, cents) VALUES (?, ?, ?)`, id[:], w.Account, -w.Cents); err != nil {
		return receipt{}, err
	}
	u.Emit(withdrawn{Account: w.Account, Cents: w.Cents, Balance: balance})
	return receipt{Balance: balance}, nil
}

// statement is the read model of the projected contender: a row per entry.
func statement(ctx context.Context, m *semel.ReadModel[sqlite.Tx], event semel.Event) error {
	var w withdrawn
	if err := event.Decode(&w); err != nil {
		return err
	}
	_, err := m.Tx.ExecContext(ctx, `INSERT INTO `+m.Table("statement")+` (account, position, cents, balance) VALUES (?, ?, ?, ?)`,
		w.Account, event.Position, -w.Cents, w.Balance)
	return err
}

func openSemel(ctx context.Context, dir string) (*entry, error) { return open(ctx, dir, nil) }

func openSemelProjected(ctx context.Context, dir string) (*entry, error) {
	return open(ctx, dir, func(e *semel.Engine[sqlite.Tx]) {
		semel.Project(e, "statement", statement, &semel.ProjectOptions[sqlite.Tx]{
			Tables: []string{"statement"},
			Create: func(ctx context.Context, m *semel.ReadModel[sqlite.Tx]) error {
				_, err := m.Tx.ExecContext(ctx, `CREATE TABLE `+m.Table("statement")+
					` (position INTEGER PRIMARY KEY, account TEXT NOT NULL, cents INTEGER NOT NULL, balance INTEGER NOT NULL)`)
				return err
			},
		})
	})
}

// openEngine starts an engine on a fresh file, and returns how to stop it.
func openEngine(ctx context.Context, dir string, register func(*semel.Engine[sqlite.Tx])) (*semel.Engine[sqlite.Tx], func() error, error) {
	store, err := sqlite.Open(ctx, filepath.Join(dir, "semel.db"), nil)
	if err != nil {
		return nil, nil, err
	}
	err = store.Update(ctx, func(ctx context.Context, tx sqlite.Tx) error {
		for _, statement := range []string{
			`CREATE TABLE accounts (id TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0)) WITHOUT ROWID`,
			`CREATE TABLE ledger (id INTEGER PRIMARY KEY, operation BLOB NOT NULL, account TEXT NOT NULL, cents INTEGER NOT NULL)`,
			fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
				INSERT INTO accounts SELECT 'acc' || i, 1000000000 FROM n`, accounts-1),
		} {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	engine := semel.New(store, nil)
	semel.Handle(engine, "withdraw", handleWithdraw, nil)
	if register != nil {
		register(engine)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(running) }()
	return engine, func() error {
		stop()
		return errors.Join(<-ended, store.Close())
	}, nil
}

func open(ctx context.Context, dir string, register func(*semel.Engine[sqlite.Tx])) (*entry, error) {
	engine, stop, err := openEngine(ctx, dir, register)
	if err != nil {
		return nil, err
	}
	return &entry{
		do: func(ctx context.Context, _ int) error {
			body, err := json.Marshal(withdraw{Account: account(mathrand.Uint32()), Cents: 1})
			if err != nil {
				return err
			}
			answer, err := engine.Submit(ctx, semel.Command{Principal: "bench", Name: "withdraw", Key: rand.Text(), Body: body}, semel.SubmitOptions{})
			if err == nil && (answer.Operation.State != semel.Completed || answer.Replayed) {
				err = fmt.Errorf("operation %s is %s", answer.Operation.ID, answer.Operation.State)
			}
			return err
		},
		commits: func() int64 { return engine.Stats().Commits },
		close:   stop,
	}, nil
}
