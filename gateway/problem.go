package gateway

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/semel-dev/semel"
)

// A ProblemKind is one of the problem types that the gateway answers with.
// Its URI is [semel.ProblemTypes] followed by Slug.
type ProblemKind struct {
	Slug string
	// Status is the answer's; for operation-rejected unless the handler says
	// otherwise, and for idempotency-key-expired 412 if the request's own
	// Repeatability-First-Sent says that it comes too late.
	Status int
	Title  string
}

// Slugs are part of the wire: they are never renamed.
const (
	keyMissing           = "idempotency-key-missing"
	keyInvalid           = "idempotency-key-invalid"
	keyReused            = "idempotency-key-reused"
	keyExpired           = "idempotency-key-expired"
	malformedBody        = "malformed-body"
	invalidCommand       = "invalid-command"
	invalidQuery         = "invalid-query"
	unsupportedMediaType = "unsupported-media-type"
	payloadTooLarge      = "payload-too-large"
	headersTooLarge      = "headers-too-large"
	requestTimeout       = "request-timeout"
	unknownCommand       = "unknown-command"
	operationNotFound    = "operation-not-found"
	unauthorized         = "unauthorized"
	forbidden            = "forbidden"
	originNotAllowed     = "origin-not-allowed"
	upgradeRequired      = "upgrade-required"
	methodNotAllowed     = "method-not-allowed"
	notFound             = "not-found"
	overloaded           = "overloaded"
	unavailable          = "unavailable"
	outcomeUnknown       = "outcome-unknown"
	operationRejected    = "operation-rejected"
	operationFailed      = "operation-failed"
	operationCanceled    = "operation-canceled"
)

var problemKinds = []ProblemKind{
	{keyMissing, http.StatusBadRequest, "Idempotency key missing"},
	{keyInvalid, http.StatusBadRequest, "Idempotency key invalid"},
	{keyReused, http.StatusUnprocessableEntity, "Idempotency key reused"},
	{keyExpired, http.StatusGone, "Idempotency key expired"},
	{malformedBody, http.StatusBadRequest, "Malformed body"},
	{invalidCommand, http.StatusBadRequest, "Invalid command"},
	{invalidQuery, http.StatusBadRequest, "Invalid query"},
	{unsupportedMediaType, http.StatusUnsupportedMediaType, "Unsupported media type"},
	{payloadTooLarge, http.StatusRequestEntityTooLarge, "Payload too large"},
	{headersTooLarge, http.StatusRequestHeaderFieldsTooLarge, "Headers too large"},
	{requestTimeout, http.StatusRequestTimeout, "Request timeout"},
	{unknownCommand, http.StatusNotFound, "Unknown command"},
	{operationNotFound, http.StatusNotFound, "Operation not found"},
	{unauthorized, http.StatusUnauthorized, "Unauthorized"},
	{forbidden, http.StatusForbidden, "Forbidden"},
	{originNotAllowed, http.StatusForbidden, "Origin not allowed"},
	{upgradeRequired, http.StatusUpgradeRequired, "Upgrade required"},
	{methodNotAllowed, http.StatusMethodNotAllowed, "Method not allowed"},
	{notFound, http.StatusNotFound, "Not found"},
	{overloaded, http.StatusServiceUnavailable, "Overloaded"},
	{unavailable, http.StatusServiceUnavailable, "Unavailable"},
	{outcomeUnknown, http.StatusServiceUnavailable, "Outcome unknown"},
	{operationRejected, http.StatusConflict, "Operation rejected"},
	{operationFailed, http.StatusInternalServerError, "Operation failed"},
	{operationCanceled, http.StatusConflict, "Operation canceled"},
}

// Problems lists every kind of problem that the gateway answers with.
func Problems() []ProblemKind { return slices.Clone(problemKinds) }

func kindOf(slug string) ProblemKind {
	i := slices.IndexFunc(problemKinds, func(k ProblemKind) bool { return k.Slug == slug })
	return problemKinds[i]
}

// A problem is the body of an answer that says no (RFC 9457).
type problem struct {
	Type        string            `json:"type"`
	Title       string            `json:"title"`
	Status      int               `json:"status"`
	Detail      string            `json:"detail,omitempty"`
	Code        string            `json:"code,omitempty"`
	Disposition semel.Disposition `json:"disposition,omitempty"`
	Operation   string            `json:"operation,omitempty"`
}

func newProblem(slug, detail string) problem {
	kind := kindOf(slug)
	return problem{Type: semel.ProblemTypes + slug, Title: kind.Title, Status: kind.Status, Detail: detail}
}

// A refusedError is an answer that says no, on its way out of the functions
// that found the reason. Its detail is written for the client.
type refusedError struct {
	slug        string
	detail      string
	operation   string // link to the operation in question, if there is one
	challenge   string // for WWW-Authenticate
	otherStatus int    // than that of its kind
}

func (e *refusedError) Error() string { return e.slug + ": " + e.detail }

func (e *refusedError) status() int { return cmp.Or(e.otherStatus, kindOf(e.slug).Status) }

func refusal(slug, detail string, args ...any) *refusedError {
	return &refusedError{slug: slug, detail: fmt.Sprintf(detail, args...)}
}

// refuse answers a request that came to nothing. Errors that the client is
// not meant to read are logged here, and here only.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var refused *refusedError
	if !errors.As(err, &refused) {
		refused = translate(err)
		g.log(r, refused.slug, err)
	}
	p := newProblem(refused.slug, refused.detail)
	p.Operation = refused.operation
	p.Status = refused.status()
	if refused.challenge != "" {
		w.Header().Set("WWW-Authenticate", refused.challenge)
	}
	switch p.Status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusUpgradeRequired:
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Sec-WebSocket-Version", "13")
	}
	writeProblem(w, p)
}

// log keeps the expected out of the log of errors: a client that left, and a
// server that is full or about to stop.
func (g *Gateway) log(r *http.Request, slug string, err error) {
	level := slog.LevelError
	switch {
	case r.Context().Err() != nil:
		level = slog.LevelDebug
	case errors.Is(err, semel.ErrOverloaded), errors.Is(err, semel.ErrClosed):
		level = slog.LevelWarn
	case kindOf(slug).Status < http.StatusInternalServerError:
		level = slog.LevelDebug
	}
	g.options.Logger.LogAttrs(r.Context(), level, "request refused",
		slog.String("problem", slug), slog.String("method", r.Method),
		slog.String("path", r.URL.EscapedPath()), slog.Any("error", err))
}

const unknownDetail = "it is not known whether this took effect; sending again with the same key resolves it"

// translated returns what the client is told of any error.
func translated(err error) *refusedError {
	var refused *refusedError
	if errors.As(err, &refused) {
		return refused
	}
	return translate(err)
}

// translate turns an engine's error into what the client is told. Only what
// wraps [semel.ErrInvalid] is shown as it is: it speaks of the client's own
// command.
func translate(err error) *refusedError {
	switch {
	case errors.Is(err, semel.ErrInvalid):
		return refusal(invalidCommand, "%s", aboutCommand(err))
	case errors.Is(err, semel.ErrUnknownCommand):
		return refusal(unknownCommand, "no handler takes this command here")
	case errors.Is(err, semel.ErrKeyReused):
		return refusal(keyReused, "the key was first used with another body; a new intention needs a new key")
	case errors.Is(err, semel.ErrKeyExpired):
		return refusal(keyExpired, "the deduplication window of this key has passed; the answer is no longer kept, and the command is never run again")
	case errors.Is(err, semel.ErrNotFound):
		return refusal(operationNotFound, "the caller has no such operation")
	case errors.Is(err, semel.ErrOutcomeUnknown): // before its causes
		return refusal(outcomeUnknown, unknownDetail)
	case errors.Is(err, semel.ErrOverloaded):
		return refusal(overloaded, "too much is queued; nothing was stored, send again later with the same key")
	case errors.Is(err, semel.ErrUnavailable):
		return refusal(unavailable, "the store cannot be reached; send again later with the same key")
	case errors.Is(err, semel.ErrClosed):
		return refusal(unavailable, "the server is about to stop or has not started; send again with the same key")
	}
	// Whatever it was, it may have come after a commit.
	return refusal(outcomeUnknown, unknownDetail)
}

// aboutCommand takes the package's own prefix off what is wrong with a command.
func aboutCommand(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, semel.ErrInvalid.Error()+": "); ok {
		return after
	}
	return text
}

func writeProblem(w http.ResponseWriter, p problem) {
	body, _ := json.Marshal(p) // strings and a number always encode
	write(w, p.Status, "application/problem+json", body)
}

func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	if len(body) > 0 && status != http.StatusNoContent {
		w.Header().Set("Content-Type", contentType)
	} else {
		body = nil
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that left will ask again
}
