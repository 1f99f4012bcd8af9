package bench

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // the driver that package sqlite uses too
)

// hand is the operation as a good engineer writes it without Semel: prepared
// statements on one connection, since SQLite has one writer.
type hand struct {
	db      *sql.DB
	commits atomic.Int64

	begin, commit, key, debit, ledger, event, outbox, answer *sql.Stmt
}

const handSchema = `
CREATE TABLE accounts (id TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0)) WITHOUT ROWID;
CREATE TABLE keys (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, fingerprint BLOB NOT NULL, status INTEGER, result BLOB, at INTEGER NOT NULL);
CREATE TABLE ledger (id INTEGER PRIMARY KEY, key TEXT NOT NULL, account TEXT NOT NULL, cents INTEGER NOT NULL);
CREATE TABLE events (position INTEGER PRIMARY KEY, key TEXT NOT NULL, name TEXT NOT NULL, subject TEXT NOT NULL, data BLOB NOT NULL, at INTEGER NOT NULL);
CREATE TABLE outbox (id INTEGER PRIMARY KEY, event TEXT NOT NULL, data BLOB NOT NULL, at INTEGER NOT NULL);
`

func newHand(ctx context.Context, dir string) (*hand, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "hand.db")+
		"?_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=foreign_keys(1)&_pragma=cache_size(-65536)&_pragma=wal_autocheckpoint(4000)&_pragma=temp_store(memory)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	h := &hand{db: db}
	if _, err := db.ExecContext(ctx, handSchema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := fill(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	for stmt, query := range map[**sql.Stmt]string{
		&h.begin:  `BEGIN IMMEDIATE`,
		&h.commit: `COMMIT`,
		&h.key:    `INSERT INTO keys (id, fingerprint, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		&h.debit:  `UPDATE accounts SET cents = cents - ? WHERE id = ? AND cents >= ? RETURNING cents`,
		&h.ledger: `INSERT INTO ledger (key, account, cents) VALUES (?, ?, ?)`,
		&h.event:  `INSERT INTO events (key, name, subject, data, at) VALUES (?, 'withdrawn', ?, ?, ?)`,
		&h.outbox: `INSERT INTO outbox (event, data, at) VALUES ('withdrawn', ?, ?)`,
		&h.answer: `UPDATE keys SET status = 200, result = ? WHERE id = ?`,
	} {
		if *stmt, err = db.PrepareContext(ctx, query); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	return h, nil
}

// fill opens the accounts.
func fill(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `
		WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
		INSERT INTO accounts SELECT 'acc' || i, 1000000000 FROM n`, accounts-1)
	if err != nil {
		return fmt.Errorf("opening accounts: %w", err)
	}
	return nil
}

func (h *hand) close() error { return h.db.Close() }

// one does the six statements inside a transaction that is open.
func (h *hand) one(ctx context.Context, key string) error {
	const cents = 1
	name, now := account(mathrand.Uint32()), time.Now().UnixMicro()
	body, err := json.Marshal(withdraw{Account: name, Cents: cents})
	if err != nil {
		return err
	}
	fingerprint := sha256.Sum256(body)
	inserted, err := h.key.ExecContext(ctx, key, fingerprint[:], now)
	if err != nil {
		return err
	}
	if n, err := inserted.RowsAffected(); err != nil || n == 0 {
		return fmt.Errorf("key %q is used: %w", key, err)
	}
	var balance int64
	if err := h.debit.QueryRowContext(ctx, cents, name, cents).Scan(&balance); err != nil {
		return err
	}
	if _, err := h.ledger.ExecContext(ctx, key, name, -cents); err != nil {
		return err
	}
	data, err := json.Marshal(withdrawn{Account: name, Cents: cents, Balance: balance})
	if err != nil {
		return err
	}
	if _, err := h.event.ExecContext(ctx, key, "account/"+name, data, now); err != nil {
		return err
	}
	if _, err := h.outbox.ExecContext(ctx, data, now); err != nil {
		return err
	}
	result, err := json.Marshal(receipt{Balance: balance})
	if err != nil {
		return err
	}
	_, err = h.answer.ExecContext(ctx, result, key)
	return err
}

// openHand has each caller wait for the one connection and run a transaction.
func openHand(ctx context.Context, dir string) (*entry, error) {
	h, err := newHand(ctx, dir)
	if err != nil {
		return nil, err
	}
	turn := make(chan struct{}, 1)
	return &entry{
		do: func(ctx context.Context, _ int) error {
			turn <- struct{}{}
			defer func() { <-turn }()
			return h.transaction(ctx, 1)
		},
		commits: h.commits.Load,
		close:   h.close,
	}, nil
}

// openHandGrouped runs full groups from one goroutine, with nobody waiting for
// an answer of their own: the statements and nothing else.
func openHandGrouped(ctx context.Context, dir string) (*entry, error) {
	h, err := newHand(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &entry{
		do:      func(ctx context.Context, _ int) error { return h.transaction(ctx, GroupSize) },
		commits: h.commits.Load,
		close:   h.close,
	}, nil
}

func (h *hand) transaction(ctx context.Context, operations int) error {
	if _, err := h.begin.ExecContext(ctx); err != nil {
		return err
	}
	for range operations {
		if err := h.one(ctx, rand.Text()); err != nil {
			_, rollback := h.db.ExecContext(ctx, `ROLLBACK`)
			return errors.Join(err, rollback)
		}
	}
	if _, err := h.commit.ExecContext(ctx); err != nil {
		return err
	}
	h.commits.Add(1)
	return nil
}
