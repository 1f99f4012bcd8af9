package sqlite

import (
	"database/sql/driver"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/semel-dev/semel"
)

func TestOperations(t *testing.T) {
	t.Parallel()
	s := open(t)
	add := func(key, principal, name string, state semel.State, done int64) *semel.Operation {
		o := operation(key)
		o.Principal, o.Name, o.State, o.DonePosition = principal, name, state, done
		o.ID = semel.Command{Tenant: o.Tenant, Principal: principal, Name: name, Key: key}.ID()
		return o
	}
	ops := []*semel.Operation{
		add("1", "ann", "pay", semel.Completed, 30), add("2", "ann", "pay", semel.Rejected, 10), add("3", "bob", "pay", semel.Completed, 20),
		add("4", "ann", "buy", semel.Running, 0), add("5", "ann", "pay", semel.Executed, 0), add("6", "ann", "buy", semel.Failed, 40),
	}
	insert(t, s, ops...)
	log := make([]*semel.Event, 40)
	for i := range log {
		log[i] = &semel.Event{Name: "other"}
	}
	for _, o := range ops {
		if o.DonePosition > 0 {
			log[o.DonePosition-1].Operation = o.ID
		}
	}
	in(t, s, func(l semel.Session[Tx]) { must(t, l.Append(t.Context(), log)) })
	ann := semel.OperationQuery{Tenant: "shop", Principal: "ann"}
	for _, test := range []struct {
		name   string
		change func(q *semel.OperationQuery)
		want   string
	}{
		{"by outcome", func(q *semel.OperationQuery) {}, "[2 1 6]"},
		{"newest", func(q *semel.OperationQuery) { q.Newest = true }, "[6 1 2]"},
		{"after", func(q *semel.OperationQuery) { q.After = 10 }, "[1 6]"},
		{"before", func(q *semel.OperationQuery) { q.Before = 40 }, "[2 1]"},
		{"between", func(q *semel.OperationQuery) { q.After, q.Before = 10, 40 }, "[1]"},
		{"limit", func(q *semel.OperationQuery) { q.Limit = 2 }, "[2 1]"},
		{"state", func(q *semel.OperationQuery) { q.State = semel.Rejected }, "[2]"},
		{"failed", func(q *semel.OperationQuery) { q.All, q.State = true, semel.Failed }, "[6]"},
		{"name", func(q *semel.OperationQuery) { q.Name = "buy" }, "[6]"},
		{"open", func(q *semel.OperationQuery) { q.Open = true }, "[4 5]"},
		{"open, newest", func(q *semel.OperationQuery) { q.Open, q.Newest = true, true }, "[5 4]"},
		{"open, after", func(q *semel.OperationQuery) { q.Open, q.After = true, 4 }, "[5]"},
		{"by acceptance", func(q *semel.OperationQuery) { q.ByAcceptance = true }, "[1 2 4 5 6]"},
		{"everyone's", func(q *semel.OperationQuery) { q.All = true }, "[2 3 1 6]"},
		{"everyone's by acceptance", func(q *semel.OperationQuery) { q.All, q.ByAcceptance, q.Newest = true, true, true }, "[6 5 4 3 2 1]"},
		{"another tenant's", func(q *semel.OperationQuery) { q.Tenant = "else" }, "[]"},
	} {
		q := ann
		test.change(&q)
		got, err := s.Operations(t.Context(), q)
		must(t, err)
		if keys(got) != test.want {
			t.Errorf("%s: %s, want %s", test.name, keys(got), test.want)
		}
	}
}

// TestUndecided: the number that stands for "no outcome" selects the states that
// have none, each and no other.
func TestUndecided(t *testing.T) {
	t.Parallel()
	s := open(t)
	var want []semel.State
	for i, state := range semel.States() {
		o := operation(string(state))
		o.State = state
		if state.Done() {
			o.DonePosition = int64(i + 1)
		} else {
			want = append(want, state)
		}
		insert(t, s, o)
	}
	ops, err := s.Operations(t.Context(), semel.OperationQuery{All: true, Open: true})
	must(t, err)
	var got []semel.State
	for _, o := range ops {
		got = append(got, o.State)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q selects %q, want %q", undecided, got, want)
	}
}

func TestNextDueOfNothing(t *testing.T) {
	t.Parallel()
	s := open(t)
	o := operation("done")
	o.State = semel.Completed // what is due of it is nobody's business
	insert(t, s, o)
	if due, err := s.NextDue(t.Context()); err != nil || !due.IsZero() {
		t.Errorf("due %v, %v", due, err)
	}
	o = operation("open")
	o.DueAt = time.UnixMicro(1234567890).UTC()
	insert(t, s, o)
	if due, err := s.NextDue(t.Context()); err != nil || due != o.DueAt {
		t.Errorf("due %v, %v, want %v", due, err, o.DueAt)
	}
}

// TestPlans keeps every statement whose cost grows with the file on its index.
func TestPlans(t *testing.T) {
	t.Parallel()
	s := open(t)
	listed := func(q semel.OperationQuery) string { query, _ := list(q); return query }
	ann := semel.OperationQuery{Tenant: "shop", Principal: "ann"}
	annOpen, annAccepted := ann, ann
	annOpen.Open = true
	annAccepted.ByAcceptance = true
	for name, test := range map[string]struct {
		query string
		index string
		sorts bool
	}{
		"claim":          {claimOperations, "USING INDEX semel_operations_open\n", false},
		"executed":       {executedOperations, "semel_operations_executed", false},
		"lookup 1":       {lookupOperations[1], "sqlite_autoindex_semel_operations_1", false},
		"lookup 128":     {lookupOperations[128], "sqlite_autoindex_semel_operations_1", false},
		"ids 128":        {lookupIDs[128], "USING COVERING INDEX sqlite_autoindex_semel_operations_1", false},
		"tombstones 128": {lookupIDs[128], "USING COVERING INDEX sqlite_autoindex_semel_tombstones_1", false},
		"backlog":        {countBacklog, "semel_operations_open_of_caller", false},
		"queue":          {lookupQueue, "PRIMARY KEY (tenant=? AND subject=? AND seq<?)", false},
		"stream":         {streamEvents, "semel_events_stream", false},
		"next due":       {nextDue, "semel_operations_due", false},
		"outcomes":       {listed(ann), "semel_operations_outcomes", false},
		"open":           {listed(annOpen), "semel_operations_open_of_caller", false},
		"failed":         {listed(semel.OperationQuery{All: true, ByAcceptance: true, State: semel.Failed}), "semel_operations_failed", false},
		"everyone's":     {listed(semel.OperationQuery{All: true, ByAcceptance: true, After: 7}), "INTEGER PRIMARY KEY", false},
		"all outcomes":   {listed(semel.OperationQuery{All: true, Newest: true, After: 7}), "SEARCH semel_events USING INTEGER PRIMARY KEY", false},
		"all open":       {listed(semel.OperationQuery{All: true, Open: true}), "USING INDEX semel_operations_open\n", false},
		"update":         {strings.TrimSuffix(updateOperation, " RETURNING seq"), "sqlite_autoindex_semel_operations_1", false},
	} {
		plan := explain(t, s, test.query)
		if !strings.Contains(plan, test.index) {
			t.Errorf("%s does not use %s:\n%s", name, test.index, plan)
		}
		if sorts := strings.Contains(plan, "USE TEMP B-TREE"); sorts != test.sorts {
			t.Errorf("%s: sorts %v:\n%s", name, sorts, plan)
		}
	}
}

func explain(t *testing.T, s *Store, query string) (plan string) {
	t.Helper()
	must(t, s.read(t.Context(), func(c *connection) error {
		st, err := c.compile("EXPLAIN QUERY PLAN " + query)
		if err != nil {
			return err
		}
		defer st.done()
		args := c.buffer(operationWidth + most)
		for i := range args {
			args[i].Value = nil
		}
		return c.each(t.Context(), st, args, func(v []driver.Value) error {
			plan += stringOf(v[3]) + "\n"
			return nil
		})
	}))
	return plan
}
