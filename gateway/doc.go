// Package gateway is HTTP in: it turns requests into commands, and operations
// into answers, resources and streams of events.
//
// A [Gateway] is a plain [net/http.Handler]. It knows who asks through the
// required hook [Options].Authenticate, and everything it does is scoped by
// the [Identity] that the hook returns: another principal's idempotency keys,
// operations and streams do not exist for this one.
//
//	POST /commands/{name}          send a command; Idempotency-Key header
//	PUT  /commands/{name}/{key}    the same with the key in the path
//	GET  /operations               the caller's own operations, newest first
//	GET  /operations/{id}          one of them; Prefer: wait=N waits for its outcome
//	GET  /operations/{id}/events   its life as server-sent events
//	GET  /operations/events        all of the caller's outcomes as server-sent events
//	GET  /operations/socket        the same as messages over a WebSocket
//	POST /operations/tickets       a ticket to open one of these three from a browser
//	GET  /openapi.yaml             all of this for programs: OpenAPI 3.1
//
// [Gateway.Bind] adds routes of the user's own for single commands.
//
// # Answers
//
// A caller waits for the outcome, by default for [Options].Wait. "Prefer:
// wait=N" and "Prefer: respond-async" (RFC 7240) change that. Then:
//
//	completed   the handler's status, by default 200, and its result
//	rejected    the handler's status, by default 409, and its problem details
//	canceled    409 operation-canceled
//	failed      500 operation-failed: a dead letter, which somebody may still replay
//	not yet     202 with Location, Operation-Location and the operation
//
// The repeat of a command that was taken gets the same status, headers and
// bytes, marked "Idempotent-Replayed: true". A repeat is authorised again.
//
// Whatever is refused before acceptance leaves nothing under the key. Every
// refusal is problem details (RFC 9457) of one of the kinds that [Problems]
// lists; its detail names the value and the place. A status of 500 and more
// is never final: send again with the same key.
//
// # Streams
//
// Outcomes are read from the store, by their position in the log, which is
// the id of each event; a reader that comes back with Last-Event-ID misses
// none. A reader that cannot be resumed, or comes back after outcomes were
// cleaned away, is told so by an event "resync" and should read
// GET /operations. Who reads too slowly is cut, and may resume.
//
// A socket's messages are operation_completed, operation_rejected,
// operation_failed and operation_canceled, each with its position; "?after=N"
// or a first message {"after": N} resumes. It is closed with 1001 when the
// server is about to stop, 1013 when it was interrupted, 4401 when the caller
// may not stay, and 1008 when it said something else.
//
// Browsers cannot set headers on a stream: they ask for a ticket and open the
// stream with "?ticket=…". Pages of other sites are refused unless
// [Options].Origins lists them. Who has a stream open is authenticated and
// rechecked again every [Options].Reauthorize.
//
// Streams end when the engine does. A server that drains therefore ends the
// engine's context before or while it waits in [net/http.Server.Shutdown],
// which knows nothing of sockets: a server that wants theirs to be closed
// properly counts the requests that are still in the gateway.
//
// # Mounting
//
// Under a prefix, use [net/http.StripPrefix], or set [Options].Prefix and
// mount the gateway as it is. Links in answers carry the prefix either way.
package gateway
