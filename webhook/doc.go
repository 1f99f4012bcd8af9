// Package webhook tells other systems how operations ended: signed requests in
// the form of Standard Webhooks, tried again for hours, kept as dead letters
// when nobody takes them, and never sent to an address inside.
//
// The application says who wants to know, by [Options].Endpoints; everything
// else is stored by the engine. [New] is called before the engine runs,
// [Sender.Run] beside [semel.Engine.Run].
//
// # How it works
//
// A follower reads the outcomes of all operations in the order of the log. For
// every endpoint that wants an outcome it submits one command, [Command],
// whose key is the operation and the position of its outcome. So one delivery
// is one operation, with a lease, attempts, a dead letter and a replay like
// any other, and a follower that stops at any moment may submit again.
//
// The follower's position is kept with [semel.Ledger.Follow], under the name
// [Follower], after the deliveries are accepted. It is not in their
// transaction, and need not be: they are found again by their keys. It is no
// operation either, as one made with [semel.Do] would be: each move would be
// an outcome to follow, and an old one would be cleaned away with the position
// in it. Nor is the follower a projection: a projection reads events, which
// outcomes need not have, and must not submit.
//
// The first time, the follower begins at the end of the log, when [New] is
// called. Outcomes of deliveries have no webhooks. A failed operation that is
// replayed has a second outcome, and so a second webhook.
//
// # What a receiver can rely on
//
// Every outcome that was kept while the follower was away is delivered, at
// least once. The header webhook-id is the same for every attempt and every
// replay of a delivery, the body too, byte by byte; the time and the signature
// are of the attempt. A receiver that stores the id with its effect, in one
// transaction, acts once. [Verify] checks what has come in.
//
// Outcomes of the same subject come in order, to the same endpoint, unless one
// becomes a dead letter and is replayed. To that end an endpoint has
// [Options].Concurrency lanes, each with one delivery under way: one that
// waits for its next attempt keeps those of its lane waiting. An endpoint that
// is down is therefore asked by the first of each lane and not by all, and
// uses up the attempts of a few. Once a delivery is older than
// [Options].Patience, it has one attempt.
//
// The result, the reason of a rejection and the place of a failure are in the
// body; the error of a failed operation is not, because it may hold anything.
//
// # Where requests go
//
// Only to https, unless [Options].Insecure, and only to addresses of the
// public internet, unless [Options].Allow names them. The address is checked
// when the connection is made, after the name was resolved, so a name that
// resolves to another address later gains nothing. Redirects are answers like
// any other that is no success. No proxy is used. Of an answer only the status
// and Retry-After are looked at; its body is thrown away.
//
// # In a shared engine
//
// Deliveries are operations of the principal [Principal], which an application
// must give to nobody, and of a tenant of their endpoint's own: a receiver
// that is down does not use up the backlog of its tenant. Each attempt takes
// one of the places of [semel.Options].Group for at most [Options].Timeout.
package webhook
