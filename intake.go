package semel

import (
	"fmt"
	"sync"
)

// intake holds commands until a group takes them: a line for each tenant, from
// which groups take in turn, so that one tenant's thousands do not stand
// before another's one.
type intake[Tx any] struct {
	most      int // commands in all lines
	perTenant int // commands in one line

	// arrived is signalled when the executor should take what is there.
	arrived chan struct{}

	mu      sync.Mutex
	closed  bool
	waiting int
	lines   map[string]*line[Tx]
	turn    []*line[Tx] // the lines that are not empty, the next one first
}

// line is what one tenant has sent, in order.
type line[Tx any] struct {
	tenant string
	tasks  []*task[Tx]
}

func newIntake[Tx any](most, perTenant int) *intake[Tx] {
	return &intake[Tx]{
		most: most, perTenant: perTenant,
		arrived: make(chan struct{}, 1),
		lines:   make(map[string]*line[Tx]),
	}
}

func (q *intake[Tx]) put(t *task[Tx]) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[t.op.Tenant]
	switch {
	case q.closed:
		return ErrClosed
	case q.waiting >= q.most:
		return fmt.Errorf("%w: %d commands are waiting", ErrOverloaded, q.waiting)
	case l != nil && len(l.tasks) >= q.perTenant:
		return fmt.Errorf("%w: %d commands of the tenant are waiting", ErrOverloaded, len(l.tasks))
	case l == nil:
		l = &line[Tx]{tenant: t.op.Tenant}
		q.lines[l.tenant] = l
		q.turn = append(q.turn, l)
	}
	l.tasks = append(l.tasks, t)
	q.waiting++
	return nil
}

// any reports whether commands are waiting.
func (q *intake[Tx]) any() bool { return !q.waitingLessThan(1) }

func (q *intake[Tx]) waitingLessThan(n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting < n
}

func (q *intake[Tx]) signal() {
	select {
	case q.arrived <- struct{}{}:
	default:
	}
}

// take appends what fits into the group, from each tenant in turn.
func (q *intake[Tx]) take(group []*task[Tx]) []*task[Tx] {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(group) < cap(group) && len(q.turn) > 0 {
		l := q.turn[0]
		q.turn = q.turn[1:]
		group = append(group, l.tasks[0])
		l.tasks = l.tasks[1:]
		q.waiting--
		if len(l.tasks) == 0 {
			delete(q.lines, l.tenant)
			continue
		}
		q.turn = append(q.turn, l)
	}
	return group
}

func (q *intake[Tx]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}
