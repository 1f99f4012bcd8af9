package docs_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

type Sell struct {
	Article string `json:"article"`
	Pieces  int64  `json:"pieces"`
}

func (s Sell) Subject() string { return "article/" + s.Article }

type Sold struct {
	Article string `json:"article"`
	Pieces  int64  `json:"pieces"`
}

func sell(_ context.Context, u *semel.Unit[sqlite.Tx], cmd Sell) (Sold, error) {
	sold := Sold(cmd)
	u.Emit(sold)
	return sold, nil
}

func describe(engine *semel.Engine[sqlite.Tx]) {
	semel.Describe[Sold](engine, semel.EventOptions{
		Name:    "sold",
		Schema:  "https://shop.example/schemas/sold/1",
		Publish: map[string]string{"topic": "sales"},
	})
}

// addUp applies one event to the read model.
func addUp(ctx context.Context, m *semel.ReadModel[sqlite.Tx], event semel.Event) error {
	var sold Sold
	if err := event.Decode(&sold); err != nil {
		return err
	}
	_, err := m.Tx.ExecContext(ctx, `INSERT INTO `+m.Table("sales")+` (article, pieces) VALUES (?, ?)
		ON CONFLICT DO UPDATE SET pieces = pieces + excluded.pieces`, sold.Article, sold.Pieces)
	return err
}

func createSales(ctx context.Context, m *semel.ReadModel[sqlite.Tx]) error {
	_, err := m.Tx.ExecContext(ctx, `CREATE TABLE `+m.Table("sales")+` (article TEXT PRIMARY KEY, pieces INTEGER NOT NULL) STRICT`)
	return err
}

func projectSales(engine *semel.Engine[sqlite.Tx]) {
	semel.Project(engine, "sales", addUp, &semel.ProjectOptions[sqlite.Tx]{
		Events: []string{"sold"},
		Tables: []string{"sales"},
		Create: createSales,
	})
}

// piecesSold reads the live generation by the table's plain name.
func piecesSold(ctx context.Context, store *sqlite.Store, article string) (pieces int64, err error) {
	err = store.Reader().QueryRowContext(ctx, `SELECT pieces FROM sales WHERE article = ?`, article).Scan(&pieces)
	return pieces, err
}

// lag returns how many events each projection has still to read.
func lag(ctx context.Context, store *sqlite.Store) (map[string]int64, error) {
	head, err := store.Head(ctx)
	if err != nil {
		return nil, err
	}
	followers, err := store.Followers(ctx)
	if err != nil {
		return nil, err
	}
	behind := make(map[string]int64)
	for _, f := range followers {
		if f.Live {
			behind[f.Name] = max(head-f.Position, 0) // it may have moved since head was read
		}
	}
	return behind, nil
}

// The answer of a sale is given when the read model shows it, and a rebuild
// finds the same.
func Example_projection() {
	ctx := context.Background()
	store, engine, remove := open(``)
	defer remove()
	semel.Handle(engine, "sell", sell, nil)
	describe(engine)
	projectSales(engine)
	defer run(engine)()

	for _, key := range []string{"key-1", "key-2", "key-2"} {
		submit(engine, "sell", key, `{"article": "tea", "pieces": 3}`, semel.SubmitOptions{})
	}
	pieces, err := piecesSold(ctx, store, "tea")
	must(err)
	fmt.Println(pieces, "pieces")

	must(engine.Rebuild(ctx, "sales", func(p semel.Progress) {
		fmt.Println("generation", p.Generation, "has all events:", p.Position == p.Head)
	}))
	pieces, err = piecesSold(ctx, store, "tea")
	must(err)
	fmt.Println(pieces, "pieces")
	for { // its own outcomes are events too, and it may have to read one more
		behind, err := lag(ctx, store)
		must(err)
		if behind["sales"] == 0 {
			break
		}
	}

	events, err := store.Events(ctx, 0, 1)
	must(err)
	fmt.Println(events[0].Name, string(events[0].Publish))
	// Output:
	// 6 pieces
	// generation 2 has all events: true
	// 6 pieces
	// sold {"topic":"sales"}
}

// A projection that fails stands still. The sale is made, and is completed
// when the projection can go on.
func Example_stuckProjection() {
	_, engine, remove := open(``)
	defer remove()
	semel.Handle(engine, "sell", sell, nil)
	describe(engine)
	var repaired atomic.Bool
	semel.Project(engine, "sales", func(ctx context.Context, m *semel.ReadModel[sqlite.Tx], event semel.Event) error {
		if !repaired.Load() {
			return errors.New("an article without a price")
		}
		return addUp(ctx, m, event)
	}, &semel.ProjectOptions[sqlite.Tx]{Tables: []string{"sales"}, Create: createSales})
	defer run(engine)()

	op := submit(engine, "sell", "key-1", `{"article": "tea", "pieces": 3}`, semel.SubmitOptions{Async: true})
	for op.State.Unfinished() {
		op = submit(engine, "sell", "key-1", `{"article": "tea", "pieces": 3}`, semel.SubmitOptions{Async: true})
	}
	fmt.Println(op.State)

	repaired.Store(true)
	op, err := engine.Await(context.Background(), "", "alice", op.ID)
	must(err)
	fmt.Println(op.State)
	// Output:
	// executed
	// completed
}
