package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/semel-dev/semel"
)

// A message is the body of a webhook: type, time and data, as Standard
// Webhooks wants them.
type message struct {
	Type      string   `json:"type"`
	Timestamp instant  `json:"timestamp"` // of the outcome
	Data      resource `json:"data"`
}

// A resource is the operation as the gateway shows it to its caller; a test
// compares the two.
type resource struct {
	ID            semel.ID        `json:"id"`
	Name          string          `json:"name"`
	Subject       string          `json:"subject,omitempty"`
	State         semel.State     `json:"state"`
	Done          bool            `json:"done"`
	Resource      string          `json:"resource,omitempty"`
	Result        json.RawMessage `json:"result,omitempty"`
	Error         *outcomeError   `json:"error,omitempty"`
	Attempts      int             `json:"attempts"`
	AcceptedAt    instant         `json:"acceptedAt,omitzero"`
	ExecutedAt    instant         `json:"executedAt,omitzero"`
	DoneAt        instant         `json:"doneAt,omitzero"`
	Position      wideInt         `json:"position,omitempty"`
	CorrelationID string          `json:"correlationId,omitempty"`
}

type outcomeError struct {
	Code   string `json:"code"`
	Reason string `json:"reason,omitempty"`
}

// A wideInt is a string in JSON where a double would lose its last digits.
type wideInt int64

// MarshalJSON implements [json.Marshaler].
func (n wideInt) MarshalJSON() ([]byte, error) {
	text := strconv.FormatInt(int64(n), 10)
	if n > 1<<53 || n < -1<<53 {
		text = `"` + text + `"`
	}
	return []byte(text), nil
}

// An instant is RFC 3339 in UTC with six digits.
type instant struct{ time.Time }

// MarshalJSON implements [json.Marshaler].
func (t instant) MarshalJSON() ([]byte, error) {
	return []byte(t.UTC().Format(`"2006-01-02T15:04:05.000000Z"`)), nil
}

// eventOf names an outcome; "" is none.
func eventOf(state semel.State) string {
	switch state {
	case semel.Completed:
		return semel.EventCompleted
	case semel.Rejected:
		return semel.EventRejected
	case semel.Failed:
		return semel.EventFailed
	case semel.Canceled:
		return semel.EventCanceled
	}
	return ""
}

// encode returns the body for an operation that is done. It depends on the
// stored outcome alone: encoded again after a crash, it is the same.
func encode(op *semel.Operation) (string, error) {
	m := message{Type: eventOf(op.State), Timestamp: instant{op.DoneAt}, Data: resource{
		ID: op.ID, Name: op.Name, Subject: op.Subject(),
		State: op.State, Done: true, Resource: op.Resource,
		Error: errorOf(op), Attempts: op.Attempts,
		AcceptedAt: instant{op.AcceptedAt}, ExecutedAt: instant{op.ExecutedAt}, DoneAt: instant{op.DoneAt},
		Position: wideInt(op.Position),
	}}
	if op.State == semel.Completed && string(op.Result) != "null" {
		m.Data.Result = op.Result
	}
	if c, err := op.DecodeCorrelation(); err == nil { // else it is the engine's to notice
		m.Data.CorrelationID = c.ID
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(m); err != nil {
		return "", fmt.Errorf("encoding the outcome of operation %s: %w", op.ID, err)
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

func errorOf(op *semel.Operation) *outcomeError {
	switch op.State {
	case semel.Rejected:
		return &outcomeError{op.Code, op.Reason}
	case semel.Failed:
		code := op.Code
		if code == "" {
			code = string(op.Disposition)
		}
		return &outcomeError{code, failure(op.Disposition)}
	case semel.Canceled:
		return &outcomeError{"canceled", "the operation was canceled before it ran"}
	}
	return nil
}

// failure says why an operation failed, without the error's text: that may
// hold anything, from SQL to secrets, and is for operators.
func failure(d semel.Disposition) string {
	switch d {
	case semel.Poison:
		return "the handler broke down at every attempt"
	case semel.Terminal:
		return "the handler gave up: trying again would not help"
	case semel.Unknown:
		return "the handler was called and its end was not seen; it may have had effects outside the store"
	}
	return "the handler failed at every attempt"
}
