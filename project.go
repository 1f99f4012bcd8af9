package semel

import (
	"context"
	"fmt"
	"slices"
	"strconv"
)

// A ReadModel is what a projection writes to: one generation of its tables.
type ReadModel[Tx any] struct {
	// Tx is a transaction in which the follower's position is committed too.
	Tx Tx
	// Generation counts the builds of this projection, from 1.
	Generation int
}

// Table returns the name of this generation's table. Readers use the plain
// name, a view of the live generation.
func (m *ReadModel[Tx]) Table(name string) string {
	return name + "_" + strconv.Itoa(m.Generation)
}

// ProjectOptions are a projection's choices.
type ProjectOptions[Tx any] struct {
	// Optional projections are not waited for: an operation can be completed
	// before they show it.
	Optional bool
	// Events names the events that are applied; none means all that commands
	// emit. The engine's own are applied only if named.
	Events []string
	// Tables names the read model's tables, and Create makes them, under the
	// names that [ReadModel.Table] gives. A projection with tables can be
	// rebuilt beside the live one, and verified; one without keeps its rows
	// where it likes, and cannot.
	Tables []string
	Create func(ctx context.Context, m *ReadModel[Tx]) error
}

// A projection is what the engine knows of one follower of its own.
type projection[Tx any] struct {
	name string
	ProjectOptions[Tx]
	apply func(ctx context.Context, m *ReadModel[Tx], event Event) error
}

func (p *projection[Tx]) wants(name string) bool {
	if len(p.Events) > 0 {
		return slices.Contains(p.Events, name)
	}
	return !ownEvent(name)
}

func ownEvent(name string) bool {
	return name == EventCompleted || name == EventRejected || name == EventFailed || name == EventCanceled
}

// Project makes apply a projection: it is called with every event of the log
// in order, each exactly once as far as its transaction goes. It must have no
// effects outside m.Tx, because it runs again when the projection is rebuilt.
// An event that cannot be applied stops the projection where it is; it is
// tried again, with growing waits, until it can.
//
// An operation is completed only when every projection that is not optional
// shows it. Every engine on a store must have the same projections: one that
// lacks a required one would complete operations too early. Project panics if the name is empty or taken.
func Project[Tx any](e *Engine[Tx], name string, apply func(context.Context, *ReadModel[Tx], Event) error, o *ProjectOptions[Tx]) {
	if o == nil {
		o = &ProjectOptions[Tx]{}
	}
	p := &projection[Tx]{name: name, ProjectOptions: *o, apply: apply}
	e.register(func() {
		if name == "" || slices.ContainsFunc(e.projections, func(q *projection[Tx]) bool { return q.name == name }) {
			panic(fmt.Sprintf("semel: the projection name %q is empty or taken", name))
		}
		if len(p.Tables) > 0 && p.Create == nil {
			panic(fmt.Sprintf("semel: projection %q names tables but not how to create them", name))
		}
		e.projections = append(e.projections, p)
	})
}
