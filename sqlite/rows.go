package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"reflect"
	"slices"
)

// typedRows is what the driver's rows can do.
type typedRows interface {
	driver.Rows
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeLength
	driver.RowsColumnTypeNullable
	driver.RowsColumnTypePrecisionScale
	driver.RowsColumnTypeScanType
}

// rows are a user's rows. They give their statement back when they are closed.
type rows struct {
	typedRows
	c      *connection
	st     *statement
	m      *member         // nil for those of a reader
	ctx    context.Context // the caller's, whose end is hidden from the driver; nil for a reader
	closed bool
}

func (r *rows) Next(dest []driver.Value) error {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.closed {
		return errOver
	}
	if r.m == nil {
		return r.typedRows.Next(dest)
	}
	if r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	err := r.typedRows.Next(dest)
	if err != nil {
		r.m.s.probeUnlessEnd(err)
	}
	return err
}

// ColumnTypeScanType and ColumnTypeLength look at the statement's current row.
func (r *rows) ColumnTypeScanType(i int) reflect.Type {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.closed {
		return reflect.TypeFor[any]()
	}
	return r.typedRows.ColumnTypeScanType(i)
}

func (r *rows) ColumnTypeLength(i int) (int64, bool) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.closed {
		return 0, false
	}
	return r.typedRows.ColumnTypeLength(i)
}

func (r *rows) Close() error {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.close()
}

func (r *rows) close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	err := r.typedRows.Close()
	r.st.done()
	if r.m != nil {
		if i := slices.Index(r.m.open, r); i >= 0 {
			r.m.open = slices.Delete(r.m.open, i, i+1)
		}
	}
	if err != nil {
		return fmt.Errorf("sqlite: closing rows: %w", err)
	}
	return nil
}
