// Package judge says whether a bank's data is sound. It never touches the data
// itself: it reads one snapshot into a file of its own, so that it can be
// asked at any time, of a bank that runs as of one that was killed.
package judge

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/examples/bank"
	"github.com/semel-dev/semel/sqlite"
	_ "modernc.org/sqlite" // to take the snapshot with
)

// Options say how much must hold.
type Options struct {
	// Drained demands that nothing is unfinished.
	Drained bool
}

// A Finding is one thing that was looked at.
type Finding struct {
	What     string // such as "every operation has its events"
	Checked  int64
	Problems []string
}

// Judge looks at the bank in the file at path. An error means that it could
// not be looked at.
func Judge(ctx context.Context, path string, o Options) ([]Finding, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a file", path)
	}
	dir, err := os.MkdirTemp("", "semel-verify-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	snapshot := filepath.Join(dir, "snapshot.db")
	file, err := copyOut(ctx, path, snapshot)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", path, err)
	}
	found, err := look(ctx, snapshot, o)
	return append([]Finding{file}, found...), err
}

// copyOut checks the file and takes a snapshot of it, both in SQLite's words.
func copyOut(ctx context.Context, path, snapshot string) (f Finding, err error) {
	f.What = "the file's pages and indexes fit together"
	abs, err := filepath.Abs(path)
	if err != nil {
		return f, err
	}
	name := "file:" + (&url.URL{Path: filepath.ToSlash(abs)}).EscapedPath() + "?mode=ro&_pragma=busy_timeout(5000)"
	if _, err := os.Stat(abs + "-wal"); errors.Is(err, fs.ErrNotExist) {
		// Nobody has it open. To read it as it lies leaves no files beside it.
		name += "&immutable=1"
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "PRAGMA integrity_check")
	if err != nil {
		return f, err
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return f, err
		}
		if line != "ok" {
			f.Problems = append(f.Problems, "file: "+strings.TrimSpace(line))
		}
	}
	if err := rows.Err(); err != nil {
		return f, err
	}
	if err := db.QueryRowContext(ctx, "PRAGMA page_count").Scan(&f.Checked); err != nil {
		return f, err
	}
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", snapshot)
	return f, err
}

func look(ctx context.Context, path string, o Options) (found []Finding, err error) {
	store, err := sqlite.Open(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	engine := semel.New(store, &semel.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	bank.Register(engine)
	report, err := engine.Verify(ctx, semel.VerifyOptions{Drained: o.Drained})
	if err != nil {
		return nil, err
	}
	found = engineFindings(report, o)
	invariants, err := bank.Invariants(ctx, store.Reader())
	for _, i := range invariants {
		found = append(found, Finding{What: i.Name, Checked: int64(i.Checked), Problems: i.Problems})
	}
	return found, err
}

// engineFindings sorts what the engine found by what it is about.
func engineFindings(report *semel.Report, o Options) []Finding {
	operations := Finding{What: "every operation has its events once, and nothing is stuck", Checked: int64(report.Operations)}
	if o.Drained {
		operations.What = "every operation has its events once, and is done"
	}
	log := Finding{
		What:    "the log is dense, and the projections are a fold of it: " + strings.Join(report.Folded, ", "),
		Checked: report.Events,
	}
	for _, p := range report.Problems {
		if strings.HasPrefix(p, "operation ") {
			operations.Problems = append(operations.Problems, p)
		} else {
			log.Problems = append(log.Problems, p)
		}
	}
	return []Finding{operations, log}
}
