package wire

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/semel-dev/semel"
)

// A Kind is one of the problem types. Its URI is [semel.ProblemTypes] followed
// by Slug, which is never renamed, and docs/problems has a page of that name.
type Kind struct {
	Slug   string
	Status int
	Title  string
}

// The kinds that more than one door answers with.
var (
	KeyMissing      = Kind{"idempotency-key-missing", http.StatusBadRequest, "Idempotency key missing"}
	KeyInvalid      = Kind{"idempotency-key-invalid", http.StatusBadRequest, "Idempotency key invalid"}
	KeyReused       = Kind{"idempotency-key-reused", http.StatusUnprocessableEntity, "Idempotency key reused"}
	KeyExpired      = Kind{"idempotency-key-expired", http.StatusGone, "Idempotency key expired"}
	MalformedBody   = Kind{"malformed-body", http.StatusBadRequest, "Malformed body"}
	InvalidCommand  = Kind{"invalid-command", http.StatusBadRequest, "Invalid command"}
	PayloadTooLarge = Kind{"payload-too-large", http.StatusRequestEntityTooLarge, "Payload too large"}
	Unauthorized    = Kind{"unauthorized", http.StatusUnauthorized, "Unauthorized"}
	Forbidden       = Kind{"forbidden", http.StatusForbidden, "Forbidden"}
	Overloaded      = Kind{"overloaded", http.StatusServiceUnavailable, "Overloaded"}
	Unavailable     = Kind{"unavailable", http.StatusServiceUnavailable, "Unavailable"}
	OutcomeUnknown  = Kind{"outcome-unknown", http.StatusServiceUnavailable, "Outcome unknown"}
	OperationFailed = Kind{"operation-failed", http.StatusInternalServerError, "Operation failed"}
)

// A Problem is the body of an answer that says no (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// A Refusal is an answer that says no, on its way out of the functions that
// found the reason. Its detail is written for the client.
type Refusal struct {
	Kind      Kind
	Detail    string
	Challenge string // for WWW-Authenticate
}

func (r *Refusal) Error() string { return r.Kind.Slug + ": " + r.Detail }

// Refuse makes a [*Refusal].
func Refuse(kind Kind, detail string, args ...any) *Refusal {
	return &Refusal{Kind: kind, Detail: fmt.Sprintf(detail, args...)}
}

// Answer writes the refusal as problem details. 503 asks to try again, with
// the same key.
func (r *Refusal) Answer(w http.ResponseWriter) {
	h := w.Header()
	if r.Challenge != "" {
		h.Set("WWW-Authenticate", r.Challenge)
	}
	if r.Kind.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/problem+json")
	body, _ := json.Marshal(Problem{ // strings and a number always encode
		Type: semel.ProblemTypes + r.Kind.Slug, Title: r.Kind.Title, Status: r.Kind.Status, Detail: r.Detail,
	})
	w.WriteHeader(r.Kind.Status)
	_, _ = w.Write(body) // a client that left will ask again
}

// About takes the engine's own prefix off what is wrong with a command.
func About(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, semel.ErrInvalid.Error()+": "); ok {
		return after
	}
	return text
}
