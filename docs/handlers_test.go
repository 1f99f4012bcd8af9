package docs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

// open makes a store in a temporary folder, with the tables that script
// creates, and an engine that keeps its log to itself.
func open(script string) (*sqlite.Store, *semel.Engine[sqlite.Tx], func()) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "semel-docs-")
	must(err)
	store, err := sqlite.Open(ctx, filepath.Join(dir, "data.db"), nil)
	must(err)
	must(store.Update(ctx, func(ctx context.Context, tx sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, script)
		return err
	}))
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	return store, semel.New(store, &semel.Options{Logger: quiet}), func() {
		must(store.Close())
		must(os.RemoveAll(dir))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// run starts an engine and returns how to stop it.
func run(engine *semel.Engine[sqlite.Tx]) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	<-engine.Ready()
	return func() {
		cancel()
		must(<-ended)
	}
}

// submit sends a command of alice's and returns its operation.
func submit(engine *semel.Engine[sqlite.Tx], name, key, body string, o semel.SubmitOptions) *semel.Operation {
	answer, err := engine.Submit(context.Background(), semel.Command{
		Principal: "alice", Name: name, Key: key, Body: json.RawMessage(body),
	}, o)
	must(err)
	return answer.Operation
}

const createParcels = `CREATE TABLE parcels (id TEXT PRIMARY KEY, label TEXT) STRICT`

type Ship struct {
	Parcel string `json:"parcel"`
}

func (s Ship) Subject() string { return "parcel/" + s.Parcel }

type Label struct {
	Label string `json:"label"`
}

// A carrier stands for somebody else's system, which is in trouble at times.
type carrier struct {
	trouble []error // of the next calls
	labels  map[string]string
	vans    int
}

var errDown = errors.New("the carrier is down")

// Print prints a label. With a reference that it knows it gives the same one.
func (c *carrier) Print(_ context.Context, reference, parcel string) (string, error) {
	if len(c.trouble) > 0 {
		err := c.trouble[0]
		c.trouble = c.trouble[1:]
		return "", err
	}
	if c.labels[reference] == "" {
		c.labels[reference] = fmt.Sprintf("%s-%d", parcel, len(c.labels)+1)
	}
	return c.labels[reference], nil
}

// Fetch sends a van. Called again it sends a second one.
func (c *carrier) Fetch(_ context.Context, parcel string) error {
	c.vans++
	if c.vans == 1 {
		panic("lost the connection after the van had left for " + parcel)
	}
	return nil
}

var errUnknownParcel = errors.New("the carrier does not know this parcel")

func (c *carrier) label(ctx context.Context, u *semel.Unit[sqlite.Tx], cmd Ship) (Label, error) {
	// First the other side: the transaction begins with the first statement,
	// so nobody waits for the carrier.
	label, err := c.Print(ctx, u.Operation().ID.String(), cmd.Parcel)
	if errors.Is(err, errUnknownParcel) {
		return Label{}, semel.TerminalError(err) // it will not know it the next time
	}
	if err != nil {
		return Label{}, err
	}
	_, err = u.Tx.ExecContext(ctx, `INSERT INTO parcels (id, label) VALUES (?, ?)`, cmd.Parcel, label)
	return Label{label}, err
}

func (c *carrier) fetch(ctx context.Context, _ *semel.Unit[sqlite.Tx], cmd Ship) (Label, error) {
	return Label{}, c.Fetch(ctx, cmd.Parcel)
}

func register(engine *semel.Engine[sqlite.Tx], c *carrier) {
	semel.Handle(engine, "label", c.label, &semel.HandleOptions{
		Guarantee: semel.AtLeastOnce, // the carrier knows our reference again
		Lease:     10 * time.Second,
		Retry: semel.Retry{
			Attempts: 8,
			Wait:     semel.Backoff{First: 50 * time.Millisecond, Most: time.Minute},
			ByClass: map[semel.Class]semel.Backoff{
				semel.ClassTimeout:  {First: 5 * time.Second},
				semel.ClassConflict: {First: -1}, // at once
			},
		},
	})
	semel.Handle(engine, "fetch", c.fetch, &semel.HandleOptions{
		Guarantee: semel.AtMostOnce, // a second call would send a second van
		Park:      true,             // nothing else for this parcel before somebody has looked
	})
}

// The carrier is down twice. The third call gets a label, under the reference
// of the first.
func Example_retry() {
	_, engine, remove := open(createParcels)
	defer remove()
	c := &carrier{trouble: []error{errDown, errDown}, labels: make(map[string]string)}
	register(engine, c)
	defer run(engine)()

	op := submit(engine, "label", "key-1", `{"parcel": "p7"}`, semel.SubmitOptions{})
	fmt.Println(op.State, "after", op.Attempts, "attempts:", string(op.Result))

	c.trouble = []error{errUnknownParcel}
	op = submit(engine, "label", "key-2", `{"parcel": "p8"}`, semel.SubmitOptions{})
	fmt.Println(op.State, op.Disposition, "after", op.Attempts, "attempt:", op.Reason)
	// Output:
	// completed after 3 attempts: {"label":"p7-1"}
	// failed terminal after 1 attempt: the carrier does not know this parcel
}

// The end of the first call is not seen. No van is sent again before somebody
// has found out, and said so by a replay.
func Example_atMostOnce() {
	_, engine, remove := open(createParcels)
	defer remove()
	c := &carrier{labels: make(map[string]string)}
	register(engine, c)
	defer run(engine)()

	first := submit(engine, "fetch", "key-1", `{"parcel": "p7"}`, semel.SubmitOptions{})
	fmt.Println(first.State, first.Disposition)
	again := submit(engine, "fetch", "key-1", `{"parcel": "p7"}`, semel.SubmitOptions{})
	fmt.Println(again.State, again.Disposition, "vans:", c.vans)

	behind := submit(engine, "label", "key-2", `{"parcel": "p7"}`, semel.SubmitOptions{Async: true})
	fmt.Println("the next for this parcel is", behind.State)

	// The carrier says on the phone that no van has come.
	if _, err := engine.Replay(context.Background(), first.ID); err != nil {
		panic(err)
	}
	for _, op := range []*semel.Operation{first, behind} {
		op, err := engine.Await(context.Background(), "", "alice", op.ID)
		if err != nil {
			panic(err)
		}
		fmt.Println(op.Name, op.State)
	}
	// Output:
	// failed unknown
	// failed unknown vans: 1
	// the next for this parcel is accepted
	// fetch completed
	// label completed
}
