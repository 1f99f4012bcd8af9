package bank

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/semel-dev/semel"
)

// An Invariant is something that holds in the bank at any moment.
type Invariant struct {
	Name     string
	Checked  int // how many things were looked at
	Problems []string
}

// Verify returns what is wrong in the bank's books; nothing if they are sound.
func Verify(ctx context.Context, db *sql.DB) ([]string, error) {
	invariants, err := Invariants(ctx, db)
	var problems []string
	for _, i := range invariants {
		problems = append(problems, i.Problems...)
	}
	return problems, err
}

// Invariants checks the books against the log and against themselves, all in
// one snapshot, and changes nothing. It reads the engine's own tables, which
// are documented for this: what is in them is the user's.
func Invariants(ctx context.Context, db *sql.DB) ([]Invariant, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	var found []Invariant
	for _, check := range []func(context.Context, *sql.Tx) (Invariant, error){
		checkLedger, checkExecuted, checkBalances, checkStatements,
	} {
		i, err := check(ctx, tx)
		if err != nil {
			return found, fmt.Errorf("bank: checking that %s: %w", i.Name, err)
		}
		found = append(found, i)
	}
	return found, nil
}

func (i *Invariant) wrong(format string, args ...any) {
	i.Problems = append(i.Problems, fmt.Sprintf(format, args...))
}

// A change is one account's part in one operation.
type change struct{ operation, account string }

// checkLedger compares the ledger with what the log says was moved.
func checkLedger(ctx context.Context, tx *sql.Tx) (Invariant, error) {
	i := Invariant{Name: "every movement is in the ledger exactly once"}
	logged, err := readLog(ctx, tx)
	if err != nil {
		return i, err
	}
	seen := make(map[change]bool, len(logged))
	err = each(ctx, tx, `SELECT operation, account, cents FROM ledger`, func(scan scanner) error {
		var c change
		var cents int64
		if err := scan(&c.operation, &c.account, &cents); err != nil {
			return err
		}
		i.Checked++
		want, ok := logged[c]
		switch {
		case !ok:
			i.wrong("ledger: operation %s moved %d cents at account %q, and no event tells of it", c.operation, cents, c.account)
		case seen[c]:
			i.wrong("ledger: operation %s moved %d cents at account %q more than once", c.operation, cents, c.account)
		case cents != want:
			i.wrong("ledger: operation %s moved %d cents at account %q; its event says %d", c.operation, cents, c.account, want)
		}
		seen[c] = true
		return nil
	})
	for c, want := range logged {
		if !seen[c] {
			i.wrong("ledger: the row of operation %s is missing, which moved %d cents at account %q", c.operation, want, c.account)
		}
	}
	return i, err
}

// readLog returns what the events say was moved.
func readLog(ctx context.Context, tx *sql.Tx) (map[change]int64, error) {
	logged := make(map[change]int64)
	const events = `SELECT operation, name, data FROM semel_events WHERE name IN ('deposited', 'withdrawn', 'transferred')`
	err := each(ctx, tx, events, func(scan scanner) error {
		var id, data []byte
		var name string
		var e moved
		if err := scan(&id, &name, &data); err != nil {
			return err
		}
		if err := json.Unmarshal(data, &e); err != nil {
			return err
		}
		operation := idString(id)
		switch name {
		case "deposited":
			logged[change{operation, e.Account}] += e.Cents
		case "withdrawn":
			logged[change{operation, e.Account}] -= e.Cents
		case "transferred":
			logged[change{operation, e.From}] -= e.Cents
			logged[change{operation, e.To}] += e.Cents
		}
		return nil
	})
	return logged, err
}

func checkExecuted(ctx context.Context, tx *sql.Tx) (Invariant, error) {
	i := Invariant{Name: "every executed operation has moved something"}
	booked := make(map[string]bool)
	err := each(ctx, tx, `SELECT DISTINCT operation FROM ledger`, func(scan scanner) error {
		var operation string
		err := scan(&operation)
		booked[operation] = true
		return err
	})
	if err != nil {
		return i, err
	}
	const executed = `SELECT id, name FROM semel_operations
		WHERE name IN ('deposit', 'withdraw', 'transfer') AND state IN ('executed', 'completed')`
	err = each(ctx, tx, executed, func(scan scanner) error {
		var id []byte
		var name string
		if err := scan(&id, &name); err != nil {
			return err
		}
		i.Checked++
		if operation := idString(id); !booked[operation] {
			i.wrong("ledger: operation %s (%s) is executed and has no row", operation, name)
		}
		return nil
	})
	return i, err
}

func checkBalances(ctx context.Context, tx *sql.Tx) (Invariant, error) {
	i := Invariant{Name: "every balance is the sum of its ledger, and none is negative"}
	const balances = `
		SELECT coalesce(a.id, l.account), coalesce(a.cents, 0), coalesce(l.cents, 0), a.id IS NOT NULL
		FROM accounts a FULL JOIN (SELECT account, sum(cents) AS cents FROM ledger GROUP BY account) l ON l.account = a.id`
	err := each(ctx, tx, balances, func(scan scanner) error {
		var account string
		var cents, sum int64
		var open bool
		if err := scan(&account, &cents, &sum, &open); err != nil {
			return err
		}
		i.Checked++
		switch {
		case !open:
			i.wrong("ledger: there are rows of account %q, which was never opened", account)
		case cents != sum:
			i.wrong("accounts: the balance of %q is %d; its ledger adds up to %d", account, cents, sum)
		case cents < 0:
			i.wrong("accounts: the balance of %q is %d", account, cents)
		}
		return nil
	})
	return i, err
}

// checkStatements compares what readers see with the accounts. An operation
// that is executed and not yet completed may still be missing from a
// statement: while there is one, nothing can be said.
func checkStatements(ctx context.Context, tx *sql.Tx) (Invariant, error) {
	i := Invariant{Name: "every statement ends with the account's balance"}
	var begun bool // the engine makes the view when it first runs
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'statement')`).Scan(&begun)
	if err != nil || !begun {
		return i, err
	}
	const last = `
		SELECT a.id, a.cents, (SELECT s.balance FROM statement s WHERE s.account = a.id ORDER BY s.position DESC LIMIT 1)
		FROM accounts a WHERE NOT EXISTS (SELECT 1 FROM semel_operations WHERE state = 'executed')`
	err = each(ctx, tx, last, func(scan scanner) error {
		var account string
		var cents int64
		var shown sql.NullInt64
		if err := scan(&account, &cents, &shown); err != nil {
			return err
		}
		i.Checked++
		if !shown.Valid || shown.Int64 != cents {
			i.wrong("statement: account %q has %d cents; its statement ends with %d", account, cents, shown.Int64)
		}
		return nil
	})
	return i, err
}

// scanner reads the columns of one row.
type scanner func(columns ...any) error

func each(ctx context.Context, tx *sql.Tx, query string, row func(scanner) error) error {
	rows, err := tx.QueryContext(ctx, query)
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

// idString shows an id as it stands in URLs and in the ledger.
func idString(id []byte) string {
	if len(id) != len(semel.ID{}) {
		return fmt.Sprintf("%x", id)
	}
	return semel.ID(id).String()
}
