package demo

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	_ "modernc.org/sqlite" // the same database as the protected side's
)

// naive is the account service as most people write it. It is no straw man:
// one transaction, a condition against overdrafts, durable, even the caller's
// reference kept with every entry. It only does what it is asked, each time.
type naive struct {
	db *sql.DB
}

func openNaive(ctx context.Context, path string) (*naive, error) {
	db, err := sql.Open("sqlite", "file:"+url.PathEscape(path)+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(ctx, `
		CREATE TABLE accounts (id TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0)) STRICT;
		CREATE TABLE entries (number INTEGER PRIMARY KEY, account TEXT NOT NULL, cents INTEGER NOT NULL,
			balance INTEGER NOT NULL, reference TEXT NOT NULL) STRICT`)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making the naive twin's tables in %q: %w", path, err), db.Close())
	}
	return &naive{db}, nil
}

func (n *naive) open(ctx context.Context, account string, cents int64) error {
	_, err := n.db.ExecContext(ctx, `INSERT INTO accounts (id, cents) VALUES (?, ?)`, account, cents)
	return err
}

// handler serves the same URLs as the bank.
func (n *naive) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /accounts/{account}/withdrawals/{key}", n.withdraw)
	return mux
}

func (n *naive) withdraw(w http.ResponseWriter, r *http.Request) {
	var cmd struct {
		Cents int64 `json:"cents"`
	}
	if err := json.NewDecoder(r.Body).Decode(&cmd); err != nil || cmd.Cents < 1 {
		http.Error(w, "cents must be a whole number of at least 1", http.StatusBadRequest)
		return
	}
	// As with the other side, the work goes on when the caller has gone.
	ctx := context.WithoutCancel(r.Context())
	balance, err := n.debit(ctx, r.PathValue("account"), cmd.Cents, r.PathValue("key"))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		http.Error(w, "insufficient funds", http.StatusConflict)
	case err != nil:
		http.Error(w, "try again", http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]int64{"balance": balance})
	}
}

func (n *naive) debit(ctx context.Context, account string, cents int64, reference string) (balance int64, err error) {
	tx, err := n.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() //nolint:errcheck // it is an error only after Commit
	err = tx.QueryRowContext(ctx,
		`UPDATE accounts SET cents = cents - ? WHERE id = ? AND cents >= ? RETURNING cents`,
		cents, account, cents).Scan(&balance)
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO entries (account, cents, balance, reference) VALUES (?, ?, ?, ?)`,
		account, -cents, balance, reference)
	if err != nil {
		return 0, err
	}
	return balance, tx.Commit()
}

// A naiveEntry is one debit. DuplicateOf is the number of the first one with
// the same reference: what the twin could have known and did not ask.
type naiveEntry struct {
	Number      int64  `json:"number"`
	Cents       int64  `json:"cents"`
	Balance     int64  `json:"balance"`
	Reference   string `json:"reference"`
	DuplicateOf int64  `json:"duplicateOf,omitempty"`
}

// A naiveState is what the page shows of the twin.
type naiveState struct {
	Account       string       `json:"account"`
	Balance       int64        `json:"balance"`
	Entries       []naiveEntry `json:"entries"`
	DoubleEffects int          `json:"doubleEffects"`
	Effects       int          `json:"effects"`
}

func (n *naive) state(ctx context.Context, account string) (naiveState, error) {
	s := naiveState{Account: account, Entries: []naiveEntry{}}
	err := n.db.QueryRowContext(ctx, `SELECT (SELECT cents FROM accounts WHERE id = ?1),
		count(*), count(*) - count(DISTINCT reference) FROM entries WHERE account = ?1`, account).
		Scan(&s.Balance, &s.Effects, &s.DoubleEffects)
	if err != nil {
		return s, err
	}
	rows, err := n.db.QueryContext(ctx, `SELECT number, cents, balance, reference,
		(SELECT min(number) FROM entries f WHERE f.reference = e.reference)
		FROM entries e WHERE account = ? ORDER BY number DESC LIMIT 100`, account)
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var e naiveEntry
		var first int64
		if err := rows.Scan(&e.Number, &e.Cents, &e.Balance, &e.Reference, &first); err != nil {
			return s, err
		}
		if first != e.Number {
			e.DuplicateOf = first
		}
		s.Entries = append(s.Entries, e)
	}
	return s, rows.Err()
}

// missing counts the acknowledged references that have no entry.
func (n *naive) missing(ctx context.Context, references []string) (int, error) {
	list, err := json.Marshal(references)
	if err != nil {
		return 0, err
	}
	var lost int
	err = n.db.QueryRowContext(ctx, `SELECT count(*) FROM json_each(?)
		WHERE value NOT IN (SELECT reference FROM entries)`, string(list)).Scan(&lost)
	return lost, err
}
