package crash

import (
	"context"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	_ "modernc.org/sqlite" // to read what the program wrote, without its code
)

// audit lets everything come to its end, stops the program, and compares the
// journal with the data. It returns an error if it could not look.
func (d *driver) audit(ctx context.Context) error {
	if err := d.quiet(ctx); err != nil {
		return err
	}
	shown := make(map[string]statement)
	for _, account := range accounts {
		s, err := d.statement(ctx, account)
		if err != nil {
			return err
		}
		shown[account] = s
	}
	if err := d.server.drain(); err != nil {
		d.wrong(unexpected, "%v", err)
	}
	if err := d.judge(ctx, "--drained"); err != nil {
		return err
	}
	data, err := readData(ctx, d.launch.data)
	if err != nil {
		return fmt.Errorf("reading the data: %w", err)
	}
	d.compare(data)
	d.compareShown(data, shown)
	return nil
}

// quiet waits until every operation is done and every projection has reached
// the end of the log, also those that nobody waits for.
func (d *driver) quiet(ctx context.Context) error {
	db, err := openData(d.launch.data)
	if err != nil {
		return err
	}
	defer db.Close()
	var unfinished, lagging int
	err = poll(ctx, d.patience, func() (bool, error) {
		err := db.QueryRowContext(ctx, `SELECT
			(SELECT count(*) FROM semel_operations WHERE state IN ('accepted', 'running', 'waiting', 'executed')),
			(SELECT count(*) FROM semel_followers WHERE position < (SELECT max(position) FROM semel_events))`).Scan(&unfinished, &lagging)
		return unfinished+lagging == 0, err
	})
	if errors.Is(err, errLate) {
		d.wrong(stuck, "%d operations are not done and %d projections are behind after %s", unfinished, lagging, d.patience)
		return nil
	}
	return err
}

// judge has the sound program judge the data.
func (d *driver) judge(ctx context.Context, args ...string) error {
	program, err := sound()
	if err != nil {
		return err
	}
	args = append(append([]string{"verify"}, args...), d.launch.data)
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		d.wrong(verify, "semel %s finds\n%s", strings.Join(args, " "), out)
		return nil
	}
	if err != nil {
		return fmt.Errorf("semel %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func openData(path string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+path+"?mode=ro&_pragma=busy_timeout(5000)")
}

// Data is what is in the file, by operation where that is possible.
type data struct {
	operations map[string]storedOperation
	ledger     map[string][]move
	lines      map[string][]line // of statements, by operation
	statements map[string][]line // the same by account, in order
	balances   map[string]int64
}

type storedOperation struct {
	state, result string
	status        int
}

// A line is one of an account's statement.
type line struct {
	account string
	entry
}

func readData(ctx context.Context, path string) (*data, error) {
	db, err := openData(path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	d := &data{
		operations: make(map[string]storedOperation), ledger: make(map[string][]move),
		lines: make(map[string][]line), statements: make(map[string][]line), balances: make(map[string]int64),
	}
	for _, read := range []struct {
		query string
		row   func(scan func(...any) error) error
	}{
		{`SELECT id, state, status, coalesce(result, '') FROM semel_operations`, d.readOperation},
		{`SELECT operation, account, cents FROM ledger`, d.readLedger},
		{`SELECT account, operation, command, cents, balance FROM statement ORDER BY account, position`, d.readLine},
		{`SELECT id, cents FROM accounts`, func(scan func(...any) error) error {
			var account string
			var cents int64
			err := scan(&account, &cents)
			d.balances[account] = cents
			return err
		}},
	} {
		if err := eachRow(ctx, db, read.query, read.row); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func eachRow(ctx context.Context, db *sql.DB, query string, row func(scan func(...any) error) error) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// ids is how operations are named in URLs. It is written down again here, so
// that the product's own code does not judge itself.
var ids = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func (d *data) readOperation(scan func(...any) error) error {
	var id []byte
	var op storedOperation
	err := scan(&id, &op.state, &op.status, &op.result)
	d.operations[ids.EncodeToString(id)] = op
	return err
}

func (d *data) readLedger(scan func(...any) error) error {
	var id string
	var m move
	err := scan(&id, &m.account, &m.cents)
	d.ledger[id] = append(d.ledger[id], m)
	return err
}

func (d *data) readLine(scan func(...any) error) error {
	var l line
	err := scan(&l.account, &l.Operation, &l.Command, &l.Cents, &l.Balance)
	d.lines[l.Operation] = append(d.lines[l.Operation], l)
	d.statements[l.account] = append(d.statements[l.account], l)
	return err
}

// compare holds every intention against the data, and the data against the
// intentions: nothing is there that nobody asked for.
func (d *driver) compare(found *data) {
	want := make(map[string]int64)
	known := make(map[string]bool)
	for _, in := range d.all(func(*intention) bool { return true }) {
		known[in.id] = true
		if d.compareOne(in, found) {
			for _, m := range in.moves() {
				want[m.account] += m.cents
			}
		}
	}
	for _, account := range accounts {
		if got := found.balances[account]; got != want[account] {
			d.wrong(differs, "%s has %d cents; the answers add up to %d", account, got, want[account])
		}
	}
	for id := range found.operations {
		if !known[id] {
			d.wrong(doubled, "operation %s is there, and nobody asked for it", id)
		}
	}
	for id := range found.ledger {
		if !known[id] {
			d.wrong(doubled, "the ledger has rows of operation %s, and nobody asked for it", id)
		}
	}
	for account, lines := range found.statements {
		balance := int64(0)
		for _, l := range lines {
			if balance += l.Cents; l.Balance != balance {
				d.wrong(projection, "the statement of %s shows %d after operation %s; its lines add up to %d", account, l.Balance, l.Operation, balance)
				break
			}
		}
	}
}

// compareOne reports whether the intention took effect.
func (d *driver) compareOne(in *intention, found *data) (effective bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	rows, lines := found.ledger[in.id], found.lines[in.id]
	switch {
	case in.outcome != nil:
		effective = in.outcome.done()
	case in.expired:
		effective = len(lines) > 0 // its answer was lost with the program, and then expired: either is right
	default:
		return false // stuck, and told so
	}
	op, stored := found.operations[in.id]
	switch {
	case !stored && d.window == 0:
		d.wrong(lost, "%v was answered and is not in the store", in)
	case stored && in.outcome != nil:
		if (op.state == "completed") != effective || op.state != "completed" && op.state != "rejected" {
			d.wrong(differs, "%v was answered %v and is %s", in, in.outcome, op.state)
		}
		if op.result != in.outcome.body || op.status != in.outcome.status {
			d.wrong(differs, "%v was answered %v and is stored as %d %q", in, in.outcome, op.status, op.result)
		}
	}
	var want []move
	if effective {
		want = in.moves()
	}
	if len(rows) > len(want) {
		d.wrong(doubled, "%v has %d rows in the ledger and should have %d", in, len(rows), len(want))
	} else if len(rows) < len(want) {
		d.wrong(lost, "%v has %d rows in the ledger and should have %d", in, len(rows), len(want))
	}
	d.compareLines(in, lines, want, effective)
	return effective
}

// compareLines looks for an effective command's lines in the statements.
func (d *driver) compareLines(in *intention, lines []line, want []move, effective bool) {
	if effective && in.command == "open" {
		want = []move{{in.account, 0}}
	}
	if len(lines) != len(want) {
		d.wrong(projection, "%v has %d lines in statements and should have %d", in, len(lines), len(want))
		return
	}
	for _, m := range want {
		matches := 0
		for _, l := range lines {
			if l.account == m.account && l.Cents == m.cents {
				matches++
			}
			if l.account == in.account && in.outcome != nil && l.Balance != in.balance {
				d.wrong(differs, "%v was answered with a balance of %d; its line says %d", in, in.balance, l.Balance)
			}
		}
		if matches != 1 {
			d.wrong(projection, "%v has %d lines that move %d at %s, among %v", in, matches, m.cents, m.account, lines)
		}
	}
}

// compareShown holds what readers were shown against the rows.
func (d *driver) compareShown(found *data, shown map[string]statement) {
	for _, account := range accounts {
		lines, s := found.statements[account], shown[account]
		if s.Balance != found.balances[account] {
			d.wrong(projection, "%s is shown with %d cents and has %d", account, s.Balance, found.balances[account])
		}
		if len(s.Entries) != min(100, len(lines)) {
			d.wrong(projection, "%s is shown with %d entries of %d", account, len(s.Entries), len(lines))
			continue
		}
		for i, e := range s.Entries {
			if l := lines[len(lines)-1-i]; e != l.entry {
				d.wrong(projection, "%s is shown with %v, and the row says %v", account, e, l.entry)
				break
			}
		}
	}
}
