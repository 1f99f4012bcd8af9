package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"time"
)

var errOver = errors.New("sqlite: the transaction is over for this call: its Tx must not be kept")

// Tx is the transaction that handlers and projections are given: the four
// query methods of database/sql, so that hand-written code, sqlc and the usual
// mappers work with it, and no way to end it, because others may share it. It
// is valid until the function it was given to returns; afterwards every method
// returns an error.
//
// Statements that would end the transaction (BEGIN, COMMIT, END, ROLLBACK,
// SAVEPOINT, RELEASE) or cannot be part of one (ATTACH, DETACH, VACUUM) are
// refused. A context that has ended keeps a statement from starting, and stops
// the reading of rows; it never interrupts a statement at work.
type Tx struct{ m *member }

// ExecContext runs a statement, or a script of several.
func (t Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := t.m.s.start(ctx); err != nil {
		return nil, err
	}
	if result, done, err := t.m.execPlain(ctx, query, args); done {
		return result, err
	}
	return t.m.s.store.shared.ExecContext(&call{Context: ctx, m: t.m}, query, args...)
}

// QueryContext runs a query. Rows that are still open when the call ends are
// closed.
func (t Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := t.m.s.start(ctx); err != nil {
		return nil, err
	}
	return t.m.s.store.shared.QueryContext(&call{Context: ctx, m: t.m}, query, args...)
}

// QueryRowContext runs a query for at most one row.
func (t Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	err := t.m.s.start(ctx) // travels with the call: only the row can return it
	return t.m.s.store.shared.QueryRowContext(&call{Context: ctx, m: t.m, err: err}, query, args...)
}

// PrepareContext prepares a statement for this transaction. Statements are
// kept prepared by their text anyway; this is for code that asks for it.
func (t Tx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if err := t.m.s.start(ctx); err != nil {
		return nil, err
	}
	st, err := t.m.s.store.shared.PrepareContext(&call{Context: ctx, m: t.m}, query)
	if err != nil {
		return nil, err
	}
	t.m.s.c.mu.Lock()
	t.m.prepared = append(t.m.prepared, st)
	t.m.s.c.mu.Unlock()
	return st, nil
}

// A call is the context with which a Tx goes through database/sql: it tells
// the connection whose call it is, and hides the end of the caller's context,
// for which database/sql and the driver would start a goroutine each.
type call struct {
	context.Context
	m   *member
	err error
}

func (c *call) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c *call) Done() <-chan struct{}       { return nil }
func (c *call) Err() error                  { return nil }

// A member is the life of one Tx. All fields are guarded by the connection's
// mutex, so that a goroutine that outlives its handler cannot write into
// somebody else's transaction.
type member struct {
	s        *session
	over     bool
	measured bool  // changes were counted before its first write
	before   int64 // the count
	schema   bool  // it ran statements that are not counted
	open     []*rows
	prepared []*sql.Stmt
}

// admit decides whether a statement may run now, and prepares it.
func (m *member) admit(ctx context.Context, query string) (*statement, error) {
	switch {
	case m.over:
		return nil, errOver
	case m.s.lost != nil:
		return nil, m.s.lost
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	st, err := m.s.c.prepare(query)
	if err != nil {
		m.s.probe(err)
		return nil, err
	}
	if err := st.verbs.refusal(); err != nil {
		if !st.kept {
			st.done()
		}
		return nil, err
	}
	return st, nil
}

// note remembers what is needed to tell later whether the member wrote.
func (m *member) note(st *statement) error {
	if st.verbs.schema {
		m.schema = true
	}
	if !st.verbs.writes || m.measured {
		return nil
	}
	n, err := m.s.c.integer(selectChanges)
	if err != nil {
		return err
	}
	m.before, m.measured = n, true
	return nil
}

const selectChanges = `SELECT total_changes()`

func (m *member) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	st, err := m.admit(ctx, query)
	if err != nil {
		return nil, err
	}
	if !st.kept {
		defer st.done()
	}
	if err := m.note(st); err != nil {
		return nil, err
	}
	result, err := st.result(args)
	if err != nil {
		m.s.probe(err)
		return nil, err
	}
	return result, nil
}

func (m *member) query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	st, err := m.admit(ctx, query)
	if err != nil {
		return nil, err
	}
	if err := m.note(st); err != nil {
		return nil, err
	}
	raw, err := st.raw.QueryContext(context.Background(), args)
	if err != nil {
		st.done()
		m.s.probe(err)
		return nil, err
	}
	st.busy = true
	r := &rows{typedRows: raw.(typedRows), c: m.s.c, st: st, m: m, ctx: ctx}
	m.open = append(m.open, r)
	return r, nil
}

// execPlain runs a statement without database/sql if its arguments need no
// conversion, which is a third of its cost.
func (m *member) execPlain(ctx context.Context, query string, args []any) (result sql.Result, done bool, err error) {
	c := m.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	named := c.buffer(len(args))
	for i, arg := range args {
		switch arg := arg.(type) {
		case int64, float64, bool, string, nil, time.Time:
			named[i].Value = arg
		case []byte:
			named[i].Value = arg
		case int:
			named[i].Value = int64(arg)
		default:
			return nil, false, nil
		}
	}
	// note may use the connection's buffer as well, but binds nothing.
	result, err = m.exec(ctx, query, named)
	if err != nil {
		return nil, true, err
	}
	return result, true, nil
}

// wrote reports whether anything has changed since the member's first write.
func (m *member) wrote() bool {
	if m.s.wrote || m.schema {
		return true
	}
	if !m.measured {
		return false
	}
	n, err := m.s.c.integer(selectChanges)
	return err != nil || n != m.before
}

// end makes the Tx dead and closes what it left open. With count it reports
// whether the member changed anything.
func (m *member) end(count bool) (wrote bool) {
	c := m.s.c
	c.mu.Lock()
	if !m.over {
		m.over = true
		for _, r := range slices.Clone(m.open) {
			_ = r.close() // SQLite counts a statement's changes when it ends
		}
		if count {
			wrote = m.wrote()
		}
	}
	prepared := m.prepared
	m.prepared = nil
	c.mu.Unlock()
	for _, st := range prepared {
		_ = st.Close() // takes database/sql's lock, which may wait for ours
	}
	return wrote
}
