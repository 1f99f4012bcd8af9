package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
)

// A connector hands connections to database/sql, which alone can make the
// *sql.Rows and *sql.Row that users expect.
type connector struct {
	driver.Connector
	connect func(ctx context.Context) (driver.Conn, error)
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) { return c.connect(ctx) }

var errShared = errors.New("sqlite: the writer is used through a Tx only")

// writer is the connection that writes, as database/sql sees it. Each call
// comes with the member of a session that makes it.
type writer struct{ c *connection }

func (w writer) Prepare(string) (driver.Stmt, error) { return nil, errShared }
func (w writer) Begin() (driver.Tx, error)           { return nil, errShared }
func (w writer) Close() error                        { return nil } // the store closes it

func caller(ctx context.Context) (*call, error) {
	c, ok := ctx.(*call)
	if !ok {
		return nil, errShared
	}
	return c, c.err
}

func (w writer) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	st, err := by.m.admit(by.Context, query)
	if err != nil {
		return nil, err
	}
	if !st.kept {
		st.done()
	}
	return prepared{m: by.m, query: query}, nil
}

func (w writer) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	return by.m.exec(by.Context, query, args)
}

func (w writer) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	return by.m.query(by.Context, query, args)
}

// prepared is a user's prepared statement: its text, since the connection
// keeps the statement itself.
type prepared struct {
	m     *member
	query string
}

var errNoContext = errors.New("sqlite: database/sql always gives a context")

func (p prepared) Close() error                               { return nil }
func (p prepared) NumInput() int                              { return -1 }
func (p prepared) Exec([]driver.Value) (driver.Result, error) { return nil, errNoContext }
func (p prepared) Query([]driver.Value) (driver.Rows, error)  { return nil, errNoContext }

func (p prepared) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	p.m.s.c.mu.Lock()
	defer p.m.s.c.mu.Unlock()
	return p.m.exec(ctx, p.query, args)
}

func (p prepared) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	p.m.s.c.mu.Lock()
	defer p.m.s.c.mu.Unlock()
	return p.m.query(ctx, p.query, args)
}

// reader is one of the connections that read, as database/sql sees it. Nobody
// shares it during a call, so contexts may interrupt.
type reader struct{ c *connection }

func (r reader) Close() error { return r.c.close() }

func (r reader) Begin() (driver.Tx, error) { return nil, errNoContext }

func (r reader) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	return r.c.raw.(driver.ConnBeginTx).BeginTx(ctx, o)
}

func (r reader) ResetSession(ctx context.Context) error {
	return r.c.raw.(driver.SessionResetter).ResetSession(ctx)
}

func (r reader) IsValid() bool { return r.c.raw.(driver.Validator).IsValid() }

func (r reader) Prepare(query string) (driver.Stmt, error) { return r.c.raw.Prepare(query) }

func (r reader) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return r.c.raw.(driver.ExecerContext).ExecContext(ctx, query, args)
}

func (r reader) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	st, err := r.c.prepare(query)
	if err != nil {
		return nil, err
	}
	raw, err := st.raw.QueryContext(ctx, args)
	if err != nil {
		st.done()
		return nil, err
	}
	st.busy = true
	return &rows{typedRows: raw.(typedRows), c: r.c, st: st}, nil
}
