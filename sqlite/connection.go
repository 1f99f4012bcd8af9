package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"
)

// cached is how many of the users' statements one connection keeps prepared.
const cached = 256

// rawStatement is what a statement of the driver can do.
type rawStatement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// A statement is prepared once and run often; preparing costs more than most
// runs.
type statement struct {
	raw   rawStatement
	verbs verbs
	// busy while its rows are read: SQLite cannot start it again then.
	busy bool
	// kept in the connection's cache; any other is closed after its use.
	kept bool
}

func (st *statement) done() {
	st.busy = false
	if !st.kept {
		_ = st.raw.Close()
	}
}

// A connection is one connection of the driver with its prepared statements.
// It is used directly, because database/sql costs as much again as SQLite
// itself for the small statements of an operation.
type connection struct {
	mu    sync.Mutex // guards all below, and the driver's connection
	raw   driver.Conn
	users map[string]*statement // by text, at most [cached]
	ours  map[string]*statement // the store's own: a fixed set

	args   []driver.NamedValue
	values []driver.Value
}

func newConnection(ctx context.Context, connector driver.Connector, pragmas []string) (*connection, error) {
	raw, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	c := &connection{raw: raw, users: make(map[string]*statement), ours: make(map[string]*statement)}
	for _, pragma := range pragmas {
		if err := c.script("PRAGMA " + pragma); err != nil {
			_ = c.close()
			return nil, fmt.Errorf("pragma %s: %w", pragma, err)
		}
	}
	return c, nil
}

func (c *connection) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, statements := range []map[string]*statement{c.users, c.ours} {
		for text, st := range statements {
			_ = st.raw.Close()
			delete(statements, text)
		}
	}
	return c.raw.Close()
}

func (c *connection) compile(text string) (*statement, error) {
	raw, err := c.raw.Prepare(text)
	if err != nil {
		return nil, err
	}
	return &statement{raw: raw.(rawStatement)}, nil
}

// prepare returns a statement that is not busy, for a text of the user's.
func (c *connection) prepare(text string) (*statement, error) {
	known := c.users[text]
	if known != nil && !known.busy {
		return known, nil
	}
	st, err := c.compile(text)
	if err != nil {
		return nil, err
	}
	st.verbs = scan(text)
	if known == nil && c.room() {
		st.kept = true
		c.users[text] = st
	}
	return st, nil
}

// room makes sure that one more statement may be kept, unless all are busy.
func (c *connection) room() bool {
	if len(c.users) < cached {
		return true
	}
	for text, st := range c.users {
		if !st.busy {
			_ = st.raw.Close()
			delete(c.users, text)
			return true
		}
	}
	return false
}

// own returns one of the store's statements. They never overlap with
// themselves: their rows are read to the end at once.
func (c *connection) own(text string) (*statement, error) {
	if st := c.ours[text]; st != nil {
		return st, nil
	}
	st, err := c.compile(text)
	if err != nil {
		return nil, fmt.Errorf("preparing %q: %w", text, err)
	}
	st.kept = true
	c.ours[text] = st
	return st, nil
}

// bind puts values into the connection's one buffer; the driver has copied
// them when the statement returns.
func (c *connection) bind(values ...driver.Value) []driver.NamedValue {
	args := c.buffer(len(values))
	for i, v := range values {
		args[i].Value = v
	}
	return args
}

func (c *connection) buffer(n int) []driver.NamedValue {
	for len(c.args) < n {
		c.args = append(c.args, driver.NamedValue{Ordinal: len(c.args) + 1})
	}
	return c.args[:n]
}

// exec runs one of the store's own statements and returns how many rows it
// changed. The contexts of the driver's calls are never cancelable: that would
// cost a goroutine each, and interrupt a transaction that others share.
func (c *connection) exec(text string, args ...driver.Value) (int64, error) {
	st, err := c.own(text)
	if err != nil {
		return 0, err
	}
	return st.exec(c.bind(args...))
}

func (st *statement) exec(args []driver.NamedValue) (int64, error) {
	result, err := st.result(args)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (st *statement) result(args []driver.NamedValue) (driver.Result, error) {
	result, err := st.raw.ExecContext(context.Background(), args)
	if err == nil && result == nil {
		return driver.RowsAffected(0), nil // a text of nothing but comments
	}
	return result, err
}

// query runs one of the store's own statements and hands over each row. The
// slice is reused; what it holds is not.
func (c *connection) query(text string, each func([]driver.Value) error, args ...driver.Value) error {
	st, err := c.own(text)
	if err != nil {
		return err
	}
	return c.each(context.Background(), st, c.bind(args...), each)
}

func (c *connection) each(ctx context.Context, st *statement, args []driver.NamedValue, each func([]driver.Value) error) (err error) {
	rows, err := st.raw.QueryContext(ctx, args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	n := len(rows.Columns())
	for len(c.values) < n {
		c.values = append(c.values, nil)
	}
	values := c.values[:n]
	for {
		switch err := rows.Next(values); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := each(values); err != nil {
			return err
		}
	}
}

// integer runs a statement of the store's own that returns one number; 0 if it
// returns NULL or no row.
func (c *connection) integer(text string, args ...driver.Value) (n int64, err error) {
	err = c.query(text, func(v []driver.Value) error { n, _ = v[0].(int64); return nil }, args...)
	return n, err
}

// script runs a text of any number of statements once.
func (c *connection) script(text string) error {
	st, err := c.compile(text)
	if err != nil {
		return err
	}
	defer st.raw.Close()
	_, err = st.exec(nil)
	return err
}
