package semel

import (
	"context"
	"time"
)

// A Store keeps operations, the log and the followers' positions in one
// database, together with the user's own tables. Tx is what handlers are
// given: a small concrete type of the store's own, with the query methods of
// its world and neither Commit nor Rollback.
//
// All methods may be called concurrently. Reads see what is committed. No
// method retries; the engine does. Errors are returned as they come, except
// the sentinels named below. Package storetest checks the whole contract.
type Store[Tx any] interface {
	// Begin opens a transaction that may write. A group's session blocks, up
	// to ctx, until it has the right to write. A solo session takes it only at
	// its first statement, so that a handler that first talks to somebody
	// else keeps nobody waiting.
	Begin(ctx context.Context, solo bool) (Session[Tx], error)

	// Operation returns one operation, [ErrNotFound], or [ErrKeyExpired] if
	// only its tombstone is left.
	Operation(ctx context.Context, id ID) (*Operation, error)
	// Operations lists operations.
	Operations(ctx context.Context, q OperationQuery) ([]*Operation, error)
	// Events reads the log after a position, in order, at most limit events.
	Events(ctx context.Context, after int64, limit int) ([]Event, error)
	// Head returns the last position that is given; 0 for an empty log.
	Head(ctx context.Context) (int64, error)
	// Horizon returns the highest DonePosition of an operation that Sweep has
	// turned into a tombstone: a reader of outcomes that stands before it has
	// missed some. 0 if nothing was swept.
	Horizon(ctx context.Context) (int64, error)
	// NextDue returns when the next operation may be claimed, the zero time
	// if there is none. Operations behind others of their subject count too.
	NextDue(ctx context.Context) (time.Time, error)
	// Backlog counts each tenant's unfinished operations.
	Backlog(ctx context.Context) (map[string]int, error)
	// Followers lists every follower with its generations.
	Followers(ctx context.Context) ([]Follower, error)

	// Capabilities says what this store can do beyond the contract.
	Capabilities() Capabilities
}

// Capabilities are what stores differ in. storetest checks both directions:
// what is declared works, what is not declared is refused or left alone.
type Capabilities struct {
	// PositionsAtCommit: [Session.Append] gives positions at once. Required
	// projections can then run in the transaction of the effect.
	PositionsAtCommit bool
}

// A Session is one transaction. It is used by one goroutine at a time. After
// Commit or Rollback only Rollback may be called, which then does nothing.
type Session[Tx any] interface {
	Ledger
	// Run calls the members' functions, in turn or so that nobody can tell
	// the difference. A member whose function returns an error must leave no
	// trace: if it had written anything, or appended events, Run stops and
	// returns its index as spoiled, and the caller rolls the session back.
	// Otherwise spoiled is -1.
	// An error of Run itself means that the transaction is lost.
	Run(ctx context.Context, members []Member[Tx]) (spoiled int, err error)
	// Tx returns the transaction for projections.
	Tx() Tx
	// Commit makes everything durable before it returns. An error means that
	// it is not known whether it did.
	Commit(ctx context.Context) error
	// Rollback ends the session without effect.
	Rollback()
}

// A Ledger is the part of a [Session] that knows nothing of the user's types:
// the engine's own reads and writes. Set-based: one call for a whole group.
type Ledger interface {
	// Now is the store's clock; leases are measured by it.
	Now() time.Time
	// Lookup answers, in the order asked, what is known of each id.
	Lookup(ctx context.Context, keys []Lookup) ([]Known, error)
	// Insert stores new operations, assigns their Seq in the order given (it
	// only grows, also after the store is opened anew) and,
	// for those that hold, their places in their subjects' queues. It returns
	// [ErrFenced] if another session has stored one of them since Lookup.
	Insert(ctx context.Context, ops []*Operation) error
	// Update stores changed operations, each only if it still has the state
	// and epoch that the change names, and takes those that no longer hold out
	// of their queues. It reports for each whether it was stored.
	Update(ctx context.Context, changes []Change) (stored []bool, err error)
	// Claim moves due operations to [Running]: epoch and attempts raised by
	// one, due again at the end of the lease. Oldest Seq first. Of each subject
	// only the oldest operation that holds is claimed; one that does not hold,
	// such as a replayed dead letter, waits for nobody.
	Claim(ctx context.Context, c Claim) ([]*Operation, error)
	// Append adds events to the log, in order, all of them or none. A version
	// that is taken gives [ErrVersionConflict].
	Append(ctx context.Context, events []*Event) error
	// Stream returns the versioned events of a subject after a version, those
	// appended in this session included.
	Stream(ctx context.Context, tenant, subject string, after int64) ([]Event, error)
	// Executed returns operations in state [Executed] whose events stand at or
	// before position, oldest first, at most limit.
	Executed(ctx context.Context, position int64, limit int) ([]*Operation, error)
	// Follow moves a follower's position from one place to another, creating
	// it when it starts from 0 and is not there. It returns [ErrFenced] if the
	// follower is not at from.
	Follow(ctx context.Context, f Follower, from int64) error
	// Promote makes one generation of a follower the live one and forgets
	// every other generation.
	Promote(ctx context.Context, name string, generation int) error
	// Sweep turns expired operations into tombstones and forgets old ones.
	Sweep(ctx context.Context, s Sweep) (Swept, error)
}

// Tables is the power of a store to keep generations of a read model beside
// each other; without it projections cannot be rebuilt while they are read.
type Tables[Tx any] interface {
	// Point makes view show table from this transaction on.
	Point(ctx context.Context, tx Tx, view, table string) error
	// Drop removes a table.
	Drop(ctx context.Context, tx Tx, table string) error
	// Checksum returns a hash of all rows, whatever their order, and their number.
	Checksum(ctx context.Context, tx Tx, table string) (sum string, rows int64, err error)
}

// A Member is one handler's call within a group.
type Member[Tx any] struct {
	// Subjects are what the member reads for update and writes; none means
	// that nothing is known and the member runs in turn.
	Subjects []string
	// Call runs the handler. The Tx is dead when it returns.
	Call func(ctx context.Context, tx Tx) error
}

// Lookup asks for one operation and for the queues of its subjects.
type Lookup struct {
	ID       ID
	Tenant   string
	Subjects []string
}

// Known is what a store knows of a [Lookup].
type Known struct {
	Operation *Operation // nil if there is none
	Expired   bool       // only a tombstone is left
	Behind    bool       // an earlier operation holds one of the subjects
}

// A Change is an operation as it shall be, and what it must be now.
type Change struct {
	Operation *Operation
	State     State
	Epoch     int64
}

// A Claim asks for due operations.
type Claim struct {
	Names []string // only commands with a handler here
	Limit int
	// Lease is how long an attempt of a command may take.
	Lease func(name string) time.Duration
}

// An OperationQuery selects operations of one caller, or with All everyone's.
// Exactly one order applies: by outcome (the default), or by acceptance.
type OperationQuery struct {
	Tenant    string
	Principal string
	All       bool

	// Open selects operations without an outcome, whose DonePosition is 0; they
	// are ordered by Seq.
	Open bool
	// ByAcceptance orders by Seq instead of DonePosition, where an event of the
	// operation stands in the log.
	ByAcceptance bool
	// After and Before bound the order's number, both exclusive; 0 is no bound.
	After, Before int64
	// Newest turns the order around.
	Newest bool
	State  State  // only in this state, if set
	Name   string // only this command, if set
	Limit  int    // 0 means 100
}

// A Follower is a named reader of the log with a durable position.
type Follower struct {
	Name       string
	Generation int
	Position   int64
	Live       bool // the generation that is read; others are being built
}

// A Sweep asks for one batch of clean-up.
type Sweep struct {
	Now       time.Time
	After     int64         // Seq to go on from
	Limit     int           // most operations to look at, and tombstones to forget
	Tombstone time.Duration // how long tombstones are kept
	// Youngest ends the pass: operations accepted after it cannot have expired.
	Youngest time.Time
}

// Swept says what a [Sweep] did.
type Swept struct {
	Expired   int   // operations that became tombstones
	Forgotten int   // tombstones deleted
	Last      int64 // Seq of the last operation looked at
	End       bool  // the pass has reached operations too young to expire
}
