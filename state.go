package semel

import (
	"fmt"
	"slices"
)

// A State is where an operation stands. The same list stands in the SQL CHECK
// of every store and in docs/guarantees.md; a test compares them.
type State string

const (
	// Accepted: durable, waiting for its turn. Set when a command is taken
	// without running it at once, and again by a replay.
	Accepted State = "accepted"
	// Running: claimed under a lease and an epoch. The claim and its attempt
	// number are committed before the handler is called.
	Running State = "running"
	// Waiting: the last attempt failed; the next one is due at RetryAt.
	Waiting State = "waiting"
	// Executed: effect and events are committed; a required projection has
	// still to show them.
	Executed State = "executed"
	// Completed: every required projection shows the effect. Final.
	Completed State = "completed"
	// Rejected: the handler said no for a business reason. Final.
	Rejected State = "rejected"
	// Failed: technique gave up; the operation is a dead letter. It leaves
	// this state by a replay, or canceled by somebody who has dealt with it.
	Failed State = "failed"
	// Canceled: withdrawn before it ran, or as a dead letter. Final.
	Canceled State = "canceled"
)

// States lists every state in the order of an operation's life.
func States() []State {
	return []State{Accepted, Running, Waiting, Executed, Completed, Rejected, Failed, Canceled}
}

// newborn marks the beginning of a life in the table of legal moves. A caller
// who waits sees its operation born with its outcome: no row is written before.
const newborn State = ""

// moves is the one table of legal moves. Every change of a state goes through
// [State.move]; docs/guarantees.md draws the same table.
var moves = map[State][]State{
	newborn:   {Accepted, Waiting, Executed, Completed, Rejected, Failed},
	Accepted:  {Running, Canceled},
	Running:   {Running, Waiting, Executed, Completed, Rejected, Failed},
	Waiting:   {Running, Canceled},
	Executed:  {Completed},
	Failed:    {Accepted, Canceled},
	Completed: nil,
	Rejected:  nil,
	Canceled:  nil,
}

// CanMove reports whether an operation may go from state s to state next.
func (s State) CanMove(next State) bool { return slices.Contains(moves[s], next) }

// Done reports whether the outcome is known and will be answered to repeats.
// A failed operation is done, although a replay may open it again.
func (s State) Done() bool {
	return s == Completed || s == Rejected || s == Failed || s == Canceled
}

// Unfinished reports whether the handler has still to run, or to run again.
func (s State) Unfinished() bool { return s == Accepted || s == Running || s == Waiting }

func (s State) move(next State) error {
	if !s.CanMove(next) {
		return fmt.Errorf("semel: an operation cannot go from %q to %q", s, next)
	}
	return nil
}

// A Disposition says why an operation failed: what an operator routes on.
type Disposition string

const (
	// Poison: the handler panicked or killed its process at every attempt.
	Poison Disposition = "poison"
	// Terminal: the handler returned an error of class [ClassTerminal].
	Terminal Disposition = "terminal"
	// Exhausted: the attempts were used up by errors that might have passed.
	Exhausted Disposition = "exhausted"
	// Unknown: an at-most-once handler was called and its end was not seen.
	Unknown Disposition = "unknown"
)
