package docs_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // the driver, for a connection beside the store's

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

// backUp writes a consistent copy of the store at path into a new file. The
// server may go on: what it commits meanwhile is in the copy or is not.
func backUp(ctx context.Context, path, copyTo string) (err error) {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, copyTo)
	return err
}

// verify checks a copy of a store against its own log. The copy is nobody
// else's, and the engine is given all handlers and projections but not run.
func verify(ctx context.Context, path string, register func(*semel.Engine[sqlite.Tx])) (report *semel.Report, err error) {
	store, err := sqlite.Open(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.Validate(ctx); err != nil {
		return nil, err
	}
	engine := semel.New(store, nil)
	register(engine)
	return engine.Verify(ctx, semel.VerifyOptions{})
}

// deadLetters returns the operations that failed, the newest first.
func deadLetters(ctx context.Context, engine *semel.Engine[sqlite.Tx]) ([]*semel.Operation, error) {
	return engine.Operations(ctx, semel.OperationQuery{All: true, State: semel.Failed, Newest: true})
}

// oldestOpen returns what has waited longest for its outcome; nil if nothing
// waits.
func oldestOpen(ctx context.Context, engine *semel.Engine[sqlite.Tx]) (*semel.Operation, error) {
	open, err := engine.Operations(ctx, semel.OperationQuery{All: true, Open: true, Limit: 1})
	if err != nil || len(open) == 0 {
		return nil, err
	}
	return open[0], nil
}

// A dead letter is listed, its cause is repaired, and it is sent again.
func Example_deadLetters() {
	ctx := context.Background()
	_, engine, remove := open(createParcels)
	defer remove()
	c := &carrier{trouble: []error{errUnknownParcel}, labels: make(map[string]string)}
	register(engine, c)
	defer run(engine)()
	submit(engine, "label", "key-1", `{"parcel": "p7"}`, semel.SubmitOptions{})

	letters, err := deadLetters(ctx, engine)
	must(err)
	for _, op := range letters {
		fmt.Println(op.Name, op.Subject(), op.Disposition, "-", op.Reason)
		_, err := engine.Replay(ctx, op.ID)
		must(err)
		op, err := engine.Await(ctx, op.Tenant, op.Principal, op.ID)
		must(err)
		fmt.Println(op.State)
	}
	waiting, err := oldestOpen(ctx, engine)
	must(err)
	fmt.Println("nothing waits:", waiting == nil)
	// Output:
	// label parcel/p7 terminal - the carrier does not know this parcel
	// completed
	// nothing waits: true
}

// TestBackUp takes a copy of a store that is open and finds it sound.
func TestBackUp(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data.db")
	store, err := sqlite.Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	engine := semel.New(store, nil)
	semel.Handle(engine, "sell", sell, nil)
	stop := run(engine)
	submit(engine, "sell", "key-1", `{"article": "tea", "pieces": 3}`, semel.SubmitOptions{})
	copied := filepath.Join(t.TempDir(), "copy.db")
	if err := backUp(t.Context(), path, copied); err != nil {
		t.Fatal(err)
	}
	stop()

	report, err := verify(t.Context(), copied, func(e *semel.Engine[sqlite.Tx]) { semel.Handle(e, "sell", sell, nil) })
	if err != nil || len(report.Problems) > 0 || report.Operations != 1 {
		t.Errorf("the copy: %+v, %v; want one operation and no problems", report, err)
	}
}

// TestLogMessages finds every message of the table in the code that logs it.
func TestLogMessages(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for _, dir := range []string{root, filepath.Join(root, "gateway")} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(text)
		}
	}
	for _, message := range firstColumn(t, read(t, "docs/operating.md"), "| message | level |") {
		if !strings.Contains(code.String(), fmt.Sprintf("%q", message)) {
			t.Errorf("docs/operating.md: nothing logs %q", message)
		}
	}
}

// TestClientClasses compares the tables of the client's classes with the code.
func TestClientClasses(t *testing.T) {
	t.Parallel()
	doc := read(t, "docs/client.md")
	documented := append(firstColumn(t, doc, "| sent again | it means |"), firstColumn(t, doc, "| final | it means |")...)
	source := strings.Join(read(t, "client/errors.go").lines, "\n")
	declared := 0
	for line := range strings.Lines(source) {
		fields := strings.Fields(line)
		if len(fields) > 3 && strings.HasPrefix(fields[0], "Class") && fields[1] == "Class" {
			declared++
		}
	}
	if len(documented) != declared {
		t.Errorf("docs/client.md has %d classes, the code %d", len(documented), declared)
	}
	for _, class := range documented {
		if !strings.Contains(source, fmt.Sprintf("Class = %q", class)) {
			t.Errorf("docs/client.md: there is no class %q", class)
		}
	}
}

// TestFull lets the store be full, and finds that nothing is promised that is
// not kept, and that it goes on when there is room.
func TestFull(t *testing.T) {
	t.Parallel()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "data.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	limit := func(pages int) {
		err := store.Update(t.Context(), func(ctx context.Context, tx sqlite.Tx) error {
			_, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	engine := semel.New(store, &semel.Options{Logger: slog.New(slog.DiscardHandler)})
	semel.Handle(engine, "sell", sell, nil)
	defer run(engine)()
	send := func(key, article string) (semel.Answer, error) {
		body := fmt.Sprintf(`{"article": %q, "pieces": 1}`, article)
		return engine.Submit(t.Context(), semel.Command{Principal: "alice", Name: "sell", Key: key, Body: []byte(body)}, semel.SubmitOptions{})
	}
	large := strings.Repeat("tea", 10_000)

	if _, err := send("key-1", "tea"); err != nil {
		t.Fatal(err)
	}
	limit(1) // no less than there are
	if _, err := send("key-2", large); !errors.Is(err, semel.ErrUnavailable) {
		t.Errorf("a command without room for it: %v, want %v", err, semel.ErrUnavailable)
	}
	if answer, err := send("key-1", "tea"); err != nil || !answer.Replayed {
		t.Errorf("a repeat: replayed %v, %v", answer.Replayed, err)
	}
	limit(1 << 20)
	if answer, err := send("key-2", large); err != nil || answer.Replayed || answer.Operation.State != semel.Completed {
		t.Errorf("the command again, with room: %+v, %v", answer, err)
	}
}
