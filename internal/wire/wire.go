// Package wire is what every door over HTTP has in common: who asks, how a
// key stands in a header, and what a refusal looks like. A client must not be
// able to tell by which door it came in.
package wire

// An Identity is who asks. It is part of every key's scope, so it must be
// stable: a user's id, not a session's.
type Identity struct {
	Tenant    string // for which customer; empty in a system with one
	Principal string // never empty
}

// A Challenge is an error for a function that authenticates to return, alone
// or wrapped: the value of the answer's WWW-Authenticate header, such as
// `Bearer realm="bank"`.
type Challenge string

func (c Challenge) Error() string { return "credentials are missing or refused" }
