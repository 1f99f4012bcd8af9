// Package sqlite is the embedded store: one file that holds the operations,
// the log, the followers' positions and the user's own tables. It needs no
// server and no C compiler.
//
// One connection writes. Whoever wants to write waits for the right to, in
// turn; the engine lets a whole group of operations share one transaction, and
// so one flush of the disk. Several connections read beside it ([Store.Reader]).
// A commit returns after the write-ahead log was flushed (synchronous=FULL).
//
// Positions in the log are given inside the transaction, since commits happen
// one after another: they are dense and final when the handler's effect is.
//
// The file belongs to one process at a time and must be on a local disk; Open
// refuses anything else that it can recognise.
package sqlite
