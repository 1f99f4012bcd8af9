package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/semel-dev/semel"
)

// The types of records in a pending file.
const (
	typeFile         = "file"         // the first record: what file it is
	typeIntention    = "intention"    // what is to be sent; before it is sent
	typeSending      = "sending"      // from here on it may have happened
	typeUnsent       = "unsent"       // the tries since "sending" did not reach the server
	typeAccepted     = "accepted"     // the server answered 202
	typeOutcome      = "outcome"      // how it ended
	typeAcknowledged = "acknowledged" // the application knows the outcome: forget all of it
)

const (
	fileFormat  = "semel pending file"
	fileVersion = 1
)

// A record is one line of an intention's life, written as JSON.
type record struct {
	Type      string     `json:"t"`
	Key       string     `json:"key,omitempty"`
	At        time.Time  `json:"at,omitzero"`
	Intention *intention `json:"intention,omitempty"`
	Sending   bool       `json:"sending,omitempty"` // with an intention: as if "sending" followed
	Operation string     `json:"operation,omitempty"`
	Outcome   *outcome   `json:"outcome,omitempty"`

	Format  string `json:"format,omitempty"`
	Version int    `json:"version,omitempty"`
	Server  string `json:"server,omitempty"`
}

// An intention is everything that is needed to send it, except credentials.
type intention struct {
	Command  string      `json:"command,omitempty"`
	Method   string      `json:"method,omitempty"`
	Path     string      `json:"path,omitempty"`
	Header   http.Header `json:"header,omitempty"`
	Body     []byte      `json:"body"`
	Deadline time.Time   `json:"deadline,omitzero"`
}

// An outcome is what a caller would have been returned.
type outcome struct {
	State     PendingState `json:"state"`
	Operation string       `json:"operation,omitempty"`
	Status    int          `json:"status,omitempty"`
	Header    http.Header  `json:"header,omitempty"`
	Resource  string       `json:"resource,omitempty"`
	Body      []byte       `json:"body,omitempty"`
	Replayed  bool         `json:"replayed,omitempty"`
	Tries     int          `json:"tries,omitempty"`
	Class     Class        `json:"class,omitempty"`
	Problem   string       `json:"problem,omitempty"`
	Code      string       `json:"code,omitempty"`
	Message   string       `json:"message,omitempty"`
}

func (i *intention) request(key string) Request {
	return Request{Command: i.Command, Method: i.Method, Path: i.Path, Key: key, Header: i.Header.Clone(),
		Body: json.RawMessage(i.Body), Deadline: i.Deadline}
}

// same reports whether two intentions ask for the same. Headers and deadlines
// are no part of what is asked.
func (i *intention) same(other *intention) bool {
	return i.Command == other.Command && i.Method == other.Method && i.Path == other.Path && string(i.Body) == string(other.Body)
}

// keptHeaders are those of an answer that a stored reply has. A Set-Cookie, for
// one, has no place in a file.
var keptHeaders = []string{"Content-Type", "Location", "Operation-Location", "X-Operation", "X-Resource", "Etag", "Idempotent-Replayed"}

func outcomeOfReply(r *Reply) *outcome {
	kept := http.Header{}
	for _, name := range keptHeaders {
		if values := r.Header.Values(name); len(values) > 0 {
			kept[name] = values
		}
	}
	return &outcome{State: PendingCompleted, Operation: r.Operation, Status: r.Status, Header: kept,
		Resource: r.Resource, Body: r.Body, Replayed: r.Replayed, Tries: r.Tries}
}

// outcomeOfError keeps what a final error says. Of several distinct failures
// the last one decided.
func outcomeOfError(err error) *outcome {
	var no *Rejected
	if errors.As(err, &no) {
		return &outcome{State: PendingRejected, Operation: no.Operation, Status: no.Status, Code: no.Code, Message: no.Reason}
	}
	e := lastError(err)
	return &outcome{State: PendingFailed, Operation: e.Operation, Status: e.Status, Class: e.Class, Problem: e.Type, Message: e.Message}
}

func lastError(err error) *Error {
	var several *Errors
	var e *Error
	switch {
	case errors.As(err, &several):
		return several.Distinct[len(several.Distinct)-1]
	case errors.As(err, &e):
		return e
	}
	return &Error{Class: ClassInvalid, Message: clean(err.Error()), Err: err, Count: 1}
}

// result is the inverse of the two above.
func (o *outcome) result(key, name string) (*Reply, error) {
	switch o.State {
	case PendingCompleted:
		return &Reply{Key: key, Operation: o.Operation, Done: true, Status: o.Status, Header: o.Header,
			Resource: o.Resource, Body: o.Body, Replayed: o.Replayed, Tries: o.Tries, command: name}, nil
	case PendingRejected:
		return nil, &Rejected{Rejection: semel.Rejection{Code: o.Code, Reason: o.Message, Status: o.Status}, Operation: o.Operation, Key: key}
	case PendingCanceled:
		return nil, &Error{Class: ClassCanceled, Command: name, Key: key, Message: "canceled before it was sent", Count: 1}
	}
	return nil, &Error{Class: o.Class, Status: o.Status, Type: o.Problem, Command: name, Key: key, Operation: o.Operation,
		Message: o.Message, Count: 1, Err: sentinels[o.Problem]}
}

func (r *record) encode() ([]byte, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("client: encoding a record of the pending file: %w", err)
	}
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("client: an intention of %d bytes does not fit into a pending file, whose records have at most %d", len(payload), maxPayload)
	}
	return payload, nil
}

// decodeRecord reads a payload whose sum is right: what is wrong with it then
// was written so.
func decodeRecord(payload []byte) (*record, error) {
	var r record
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, fmt.Errorf("a record that is no JSON object: %w", err)
	}
	switch r.Type {
	case typeFile:
		return &r, nil
	case typeIntention:
		if r.Intention == nil || (r.Intention.Command == "") == (r.Intention.Path == "") {
			return nil, fmt.Errorf("intention %q has nothing in it", r.Key)
		}
	case typeOutcome:
		if r.Outcome == nil || !r.Outcome.State.Done() {
			return nil, fmt.Errorf("outcome of %q has nothing in it", r.Key)
		}
	case typeSending, typeUnsent, typeAccepted, typeAcknowledged:
	default:
		return nil, fmt.Errorf("a record of unknown type %q", r.Type)
	}
	if err := semel.CheckKey(r.Key); err != nil {
		return nil, fmt.Errorf("a record of type %q: %w", r.Type, err)
	}
	return &r, nil
}
