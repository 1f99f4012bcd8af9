// Package semel makes a command take effect once, from the client's retry to
// the reader's screen, and lets everyone see how it stands.
//
// Three things, kept in the user's own database, carry it all:
//
//   - An [Operation] is one row per command, named by a hash of tenant,
//     principal, command name and idempotency key. It is the idempotency
//     record, the inbox entry, the status page and the dead letter.
//   - The log holds each [Event], written in the transaction of the effect it
//     tells of. It is the outbox and the event store.
//   - A [Follower] reads the log and keeps its position durably. Projections
//     are followers whose rows and position are committed together.
//
// # The life of a command
//
// [Engine.Submit] decodes and checks a command in the caller's goroutine and
// queues it. The engine takes whatever is queued as one group and runs it in
// one transaction: it looks up which commands it has seen before, calls the
// handlers of the others in turn, appends their events, lets the required
// projections apply them, and writes each operation once, with its outcome.
// After the commit, and only then, the callers get their answers. The next
// group forms while this one commits; nobody waits for a group to fill.
//
// A handler that fails, or says no after it has written something, costs its
// group the transaction: it is taken out and runs alone, and the others run
// again without it. So a handler may be called more than once, but only one
// call commits.
//
// What cannot run at once is accepted first and runs under a claim: a command
// whose caller does not wait, one that is declared solo, one that stands
// behind another of its subject, and every attempt after a failed one. A claim
// is a lease with an epoch; it is committed before the handler is called, and
// the outcome is stored only while the epoch is still the same. An owner that
// slept past its lease commits nothing.
//
// # What a handler must keep to
//
// Effects go through [Unit.Tx], events through [Unit.Emit]. A handler may read
// anything, but a command that declares its subjects promises to write only
// rows of these. It must not start goroutines that outlive it, keep the
// transaction, or call [Engine.Submit]: the group it runs in would wait for
// itself. Effects in other systems need [HandleOptions.Guarantee].
//
// The promises in full, what is not promised, and what is left after a crash
// at each step are in docs/guarantees.md.
package semel
