package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

const lookupTombstone = `SELECT id FROM semel_tombstones WHERE id = ?`

// Operation implements [semel.Store].
func (s *Store) Operation(ctx context.Context, id semel.ID) (op *semel.Operation, err error) {
	var expired bool
	err = s.read(ctx, func(c *connection) error {
		err := c.query(lookupOperations[1], func(v []driver.Value) error {
			op = scanOperation(v)
			return nil
		}, id[:])
		if err != nil || op != nil {
			return err
		}
		// Read after the operation: a sweep between the two leaves a tombstone.
		return c.query(lookupTombstone, func([]driver.Value) error { expired = true; return nil }, id[:])
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("sqlite: reading operation %s: %w", id, err)
	case expired:
		return nil, semel.ErrKeyExpired
	case op == nil:
		return nil, semel.ErrNotFound
	}
	return op, nil
}

// Operations implements [semel.Store].
func (s *Store) Operations(ctx context.Context, q semel.OperationQuery) (ops []*semel.Operation, err error) {
	query, args := list(q)
	err = s.read(ctx, func(c *connection) error {
		st, err := c.prepare(query)
		if err != nil {
			return err
		}
		defer st.done()
		return c.each(ctx, st, c.bind(args...), func(v []driver.Value) error {
			ops = append(ops, scanOperation(v))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("sqlite: listing operations: %w", err)
	}
	return ops, nil
}

// everyOutcome goes through the log, where each outcome has an event: so no
// index is kept, at every operation's cost, for the few who read all of them.
const everyOutcome = `(SELECT position AS outcome, operation AS concluded FROM semel_events) AS log
 CROSS JOIN semel_operations ON id = concluded AND done_position = outcome`

// list writes the statement for a query.
func list(q semel.OperationQuery) (query string, args []driver.Value) {
	var where []string
	add := func(condition string, values ...driver.Value) {
		where = append(where, condition)
		args = append(args, values...)
	}
	if !q.All {
		add(`tenant = ? AND principal = ?`, q.Tenant, q.Principal)
	}
	from, order := "semel_operations", "seq"
	switch {
	case q.Open:
		add(undecided)
	case q.ByAcceptance:
	case q.All:
		from, order = everyOutcome, "outcome"
	default:
		order = "done_position"
		add(`done_position > 0`)
	}
	if q.After > 0 {
		add(order+` > ?`, q.After)
	}
	if q.Before > 0 {
		add(order+` < ?`, q.Before)
	}
	switch {
	case q.State == semel.Failed: // a constant, so that its index is used
		add(`state = 'failed'`)
	case q.State != "":
		add(`state = ?`, string(q.State))
	}
	if q.Name != "" {
		add(`name = ?`, q.Name)
	}
	direction := ""
	if q.Newest {
		direction = " DESC"
	}
	limit := q.Limit
	if limit <= 0 {
		limit = 100
	}
	if len(where) == 0 {
		where = []string{"true"}
	}
	orderBy := order + direction
	if order != "seq" {
		orderBy += ", seq" + direction
	}
	args = append(args, int64(limit))
	return `SELECT ` + operationColumns + ` FROM ` + from + ` WHERE ` + strings.Join(where, " AND ") +
		` ORDER BY ` + orderBy + ` LIMIT ?`, args
}

const nextDue = `SELECT due_at FROM semel_operations WHERE due_at IS NOT NULL AND ` + unfinished + ` ORDER BY due_at LIMIT 1`

// NextDue implements [semel.Store].
func (s *Store) NextDue(ctx context.Context) (due time.Time, err error) {
	err = s.read(ctx, func(c *connection) error {
		return c.query(nextDue, func(v []driver.Value) error { due = moment(v[0]); return nil })
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("sqlite: reading when the next operation is due: %w", err)
	}
	return due, nil
}

const countBacklog = `SELECT tenant, count(*) FROM semel_operations WHERE ` + undecided + ` AND ` + unfinished + ` GROUP BY tenant`

// Backlog implements [semel.Store].
func (s *Store) Backlog(ctx context.Context) (tenants map[string]int, err error) {
	tenants = make(map[string]int)
	err = s.read(ctx, func(c *connection) error {
		return c.query(countBacklog, func(v []driver.Value) error {
			tenants[stringOf(v[0])] = int(intOf(v[1]))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("sqlite: counting unfinished operations: %w", err)
	}
	return tenants, nil
}
