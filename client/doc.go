// Package client sends commands over HTTP so that each happens once.
//
// A reply can be lost at any point, and a caller who sends again without care
// may take the money twice. So the idempotency key is made once, before the
// first try, and every try of that intention carries it: the server runs the
// command for the first that reaches it and repeats the stored answer for the
// others. That makes it safe to do what this package does with every failure
// that may pass: wait, with full jitter and not less than the server's
// Retry-After, and send again, a bounded number of times.
//
// An error therefore does not say that nothing happened. It says what is
// known: a [*Rejected] is the business's no, an [*Error] names the class of
// what went wrong, and [*Errors] lists the distinct failures of several tries.
// The latter two carry the key; [Client.Send] with that key, the same command
// and the same body finds out what became of it, at any later time within the
// server's deduplication window.
//
// # Across a crash
//
// With [Options.Pending] the key and the whole intention are on disk before the
// first byte is sent. [Client.Submit] returns as soon as they are;
// [Client.Run] sends what is pending, in this process or the next, for as long
// as it takes; [Client.Await], [Client.List], [Client.Cancel] and
// [Client.Drain] look after it. The file is a log of records framed with sums,
// each a JSON object: docs/pending-file.md has its format. A torn end is cut
// off, a damaged record is reported and costs no other, and a full disk is an
// error before anything is sent.
//
// # Retries
//
// Every failure has a [Class], and every class a [Policy]: by default
// exponential with full jitter for what may pass, and none for the rest. All
// clients and transports of a process share a [Budget], so that a chronic fault
// does not multiply the load that caused it.
//
// [Transport] gives the same to code that has an http.Client already.
package client
