package semel_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

type Withdraw struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
}

// Subject makes commands about one account run in the order of acceptance.
func (w Withdraw) Subject() string { return "account/" + w.Account }

type Withdrawn struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
	Balance int64  `json:"balance"`
}

type Receipt struct {
	Balance int64 `json:"balance"`
}

func withdraw(ctx context.Context, u *semel.Unit[sqlite.Tx], w Withdraw) (Receipt, error) {
	var balance int64
	err := u.Tx.QueryRowContext(ctx,
		`UPDATE accounts SET cents = cents - ? WHERE id = ? AND cents >= ? RETURNING cents`,
		w.Cents, w.Account, w.Cents).Scan(&balance)
	if errors.Is(err, sql.ErrNoRows) {
		return Receipt{}, semel.Reject("insufficient_funds", "%s cannot cover %d cents", w.Account, w.Cents)
	}
	if err != nil {
		return Receipt{}, err // tried again by policy
	}
	u.Emit(Withdrawn{Account: w.Account, Cents: w.Cents, Balance: balance})
	return Receipt{Balance: balance}, nil
}

// openAccounts makes a store in a temporary folder, with one account of 10.00.
func openAccounts(ctx context.Context) (*sqlite.Store, func()) {
	dir, err := os.MkdirTemp("", "semel-example-")
	if err != nil {
		panic(err)
	}
	store, err := sqlite.Open(ctx, filepath.Join(dir, "bank.db"), nil)
	if err != nil {
		panic(err)
	}
	err = store.Update(ctx, func(ctx context.Context, tx sqlite.Tx) error {
		if _, err := tx.ExecContext(ctx, `CREATE TABLE accounts (id TEXT PRIMARY KEY, cents INTEGER NOT NULL)`); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO accounts VALUES ('alice', 1000)`)
		return err
	})
	if err != nil {
		panic(err)
	}
	return store, func() {
		store.Close()
		os.RemoveAll(dir)
	}
}

// run starts an engine and returns how to stop it.
func run(engine *semel.Engine[sqlite.Tx]) func() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	<-engine.Ready()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
	}
}

// The same command twice: one effect, one answer.
func Example() {
	ctx := context.Background()
	store, remove := openAccounts(ctx)
	defer remove()

	engine := semel.New(store, nil)
	semel.Handle(engine, "withdraw", withdraw, nil)
	defer run(engine)()

	command := semel.Command{
		Principal: "alice",
		Name:      "withdraw",
		Key:       "8e03978e-40d5", // made by the client, before it first sends
		Body:      json.RawMessage(`{"account": "alice", "cents": 300}`),
	}
	for range 2 {
		answer, err := engine.Submit(ctx, command, semel.SubmitOptions{})
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s %s replayed=%t\n", answer.Operation.State, answer.Operation.Result, answer.Replayed)
	}

	command.Body = json.RawMessage(`{"account": "alice", "cents": 400}`)
	_, err := engine.Submit(ctx, command, semel.SubmitOptions{})
	fmt.Println(errors.Is(err, semel.ErrKeyReused))

	// Output:
	// completed {"balance":700} replayed=false
	// completed {"balance":700} replayed=true
	// true
}

// A business no is an outcome of its own: stored, repeated, and without a trace
// of what the handler wrote before.
func ExampleReject() {
	ctx := context.Background()
	store, remove := openAccounts(ctx)
	defer remove()
	engine := semel.New(store, nil)
	semel.Handle(engine, "withdraw", withdraw, nil)
	defer run(engine)()

	answer, err := engine.Submit(ctx, semel.Command{
		Principal: "alice", Name: "withdraw", Key: "1",
		Body: json.RawMessage(`{"account": "alice", "cents": 5000}`),
	}, semel.SubmitOptions{})
	if err != nil {
		panic(err)
	}
	fmt.Println(answer.Operation.State, answer.Operation.Code)
	fmt.Println(answer.Operation.Reason)
	// Output:
	// rejected insufficient_funds
	// alice cannot cover 5000 cents
}

// A projection keeps a read model. Its rows and its position are committed
// together, and no withdrawal is completed before it shows there.
func ExampleProject() {
	ctx := context.Background()
	store, remove := openAccounts(ctx)
	defer remove()
	engine := semel.New(store, nil)
	semel.Handle(engine, "withdraw", withdraw, nil)
	semel.Project(engine, "statement", func(ctx context.Context, m *semel.ReadModel[sqlite.Tx], event semel.Event) error {
		var w Withdrawn
		if err := event.Decode(&w); err != nil {
			return err
		}
		_, err := m.Tx.ExecContext(ctx, `INSERT INTO `+m.Table("statement")+` VALUES (?, ?, ?)`, event.Position, w.Account, -w.Cents)
		return err
	}, &semel.ProjectOptions[sqlite.Tx]{
		Tables: []string{"statement"},
		Create: func(ctx context.Context, m *semel.ReadModel[sqlite.Tx]) error {
			_, err := m.Tx.ExecContext(ctx, `CREATE TABLE `+m.Table("statement")+` (position INTEGER PRIMARY KEY, account TEXT, cents INTEGER)`)
			return err
		},
	})
	defer run(engine)()

	for _, key := range []string{"1", "2", "2"} {
		if _, err := engine.Submit(ctx, semel.Command{
			Principal: "alice", Name: "withdraw", Key: key,
			Body: json.RawMessage(`{"account": "alice", "cents": 100}`),
		}, semel.SubmitOptions{}); err != nil {
			panic(err)
		}
	}
	var rows, sum int64
	if err := store.Reader().QueryRowContext(ctx, `SELECT count(*), sum(cents) FROM statement`).Scan(&rows, &sum); err != nil {
		panic(err)
	}
	fmt.Println(rows, "rows,", sum, "cents")

	if err := engine.Rebuild(ctx, "statement", nil); err != nil {
		panic(err)
	}
	if err := store.Reader().QueryRowContext(ctx, `SELECT count(*), sum(cents) FROM statement`).Scan(&rows, &sum); err != nil {
		panic(err)
	}
	fmt.Println(rows, "rows,", sum, "cents after a rebuild")
	// Output:
	// 2 rows, -200 cents
	// 2 rows, -200 cents after a rebuild
}

// Counter is decided by replaying its stream; nothing else is stored.
type Count struct {
	Name string `json:"name"`
}

func (c Count) Subject() string { return "counter/" + c.Name }

type Counted struct{}

// An event-sourced handler reads its subject's stream and appends with the
// version it has seen.
func ExampleUnit_Append() {
	ctx := context.Background()
	store, remove := openAccounts(ctx)
	defer remove()
	engine := semel.New(store, nil)
	semel.Handle(engine, "count", func(ctx context.Context, u *semel.Unit[sqlite.Tx], c Count) (int, error) {
		events, err := u.Stream(ctx, c.Subject())
		if err != nil {
			return 0, err
		}
		n := len(events)
		return n + 1, u.Append(ctx, c.Subject(), int64(n), Counted{})
	}, nil)
	defer run(engine)()

	for _, key := range []string{"a", "b", "b", "c"} {
		answer, err := engine.Submit(ctx, semel.Command{
			Principal: "alice", Name: "count", Key: key, Body: json.RawMessage(`{"name": "clicks"}`),
		}, semel.SubmitOptions{})
		if err != nil {
			panic(err)
		}
		fmt.Println(key, string(answer.Operation.Result))
	}
	// Output:
	// a 1
	// b 2
	// b 2
	// c 3
}

// Code without a handler keeps a key in its own transaction.
func ExampleDo() {
	ctx := context.Background()
	store, remove := openAccounts(ctx)
	defer remove()
	engine := semel.New(store, nil)
	defer run(engine)()

	pay := semel.Command{Principal: "alice", Name: "bonus", Key: "2026-11"}
	for range 2 {
		balance, replayed, err := semel.Do(ctx, engine, pay, func(ctx context.Context, u *semel.Unit[sqlite.Tx]) (balance int64, err error) {
			err = u.Tx.QueryRowContext(ctx, `UPDATE accounts SET cents = cents + 50 RETURNING cents`).Scan(&balance)
			return balance, err
		})
		fmt.Println(balance, replayed, err)
	}
	// Output:
	// 1050 false <nil>
	// 1050 true <nil>
}
