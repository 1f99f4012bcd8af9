// Package idempotency is middleware that makes the unsafe requests of any
// net/http handler happen once. It is one part of Semel for those who want no
// other: routes, bodies and answers stay as they are.
//
// A request with an Idempotency-Key is run inside [semel.Do]. Its answer, the
// status, the listed headers and the body, is stored under the key, and every
// repeat gets it again with Idempotent-Replayed: true. Repeats that come while
// the first one runs wait for it. The same key with another request is refused
// with 422. Keys are scoped by tenant, principal and route, so that nobody can
// reach a stranger's answer.
//
// A handler takes the transaction of the store from its context, with [Unit].
// What it writes there is committed together with the answer, or not at all.
// What it does elsewhere cannot be: when the process ends between the effect
// and the answer, or the commit fails, nothing is stored, and a repeat runs
// the handler again.
//
// # What is stored
//
//	answer                  effect in the Unit   stored and repeated
//	2xx, 3xx                committed            yes
//	4xx                     rolled back          yes
//	401 403 407 408 413     rolled back          no: they speak of the caller's
//	415 421 423 425 426                          credentials, the connection or
//	428 429 431                                  the moment
//	5xx, panic, too large   rolled back          no
//
// What is not stored is passed on to the client, and a repeat runs the handler
// again. [Options].Final draws the line elsewhere among the 4xx.
//
// # What does not work
//
// Answers are kept whole before they are sent. Flush, Hijack, trailers and
// deadlines are therefore not supported within the middleware: a type
// assertion to [net/http.Flusher] is false, and [net/http.ResponseController]
// returns [net/http.ErrNotSupported]. Streams and sockets are safe requests,
// or stay outside.
//
// The handler runs in its turn among the engine's operations, and on SQLite
// holds the one right to write: it must be short. It must not open another
// write transaction of the same store, which would wait for what it itself is
// holding up, until the lease of 30 seconds ends. Commands that it sends to the
// same engine are refused with [semel.ErrInvalid]. Keep a gateway out of the
// middleware: it knows keys by itself.
package idempotency
