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
package client
