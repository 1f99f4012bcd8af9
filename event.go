package semel

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"time"
)

// An Event is a fact in the log, written in the same transaction as the
// effect it tells of.
type Event struct {
	// Position is dense and in commit order, from 1. Stores that order after
	// the commit leave it 0 until then.
	Position int64
	Tenant   string
	// Operation and Number, which counts from 0 within the operation, are the
	// event's identity: the same in every attempt.
	Operation ID
	Number    int
	Name      string
	Schema    string
	Subject   string
	// Version counts the events of a stream from 1; 0 for an event that was
	// emitted without one.
	Version     int64
	Data        json.RawMessage
	Correlation json.RawMessage
	// Publish holds publishing options, set per kind of event by [Describe].
	Publish json.RawMessage
	At      time.Time
}

// ID names the event outside the log: the id of its CloudEvent.
func (e *Event) ID() string { return e.Operation.String() + "/" + strconv.Itoa(e.Number) }

// Decode reads the event's data into v.
func (e *Event) Decode(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("semel: decoding event %d (%s): %w", e.Position, e.Name, err)
	}
	return nil
}

// Names of the events that the engine itself writes, for an operation whose
// outcome did not come with events of its own.
const (
	EventCompleted = "operation.completed"
	EventRejected  = "operation.rejected"
	EventFailed    = "operation.failed"
	EventCanceled  = "operation.canceled"
)

// EventOptions describe one kind of event; see [Describe].
type EventOptions struct {
	// Name in the log; "" means the Go type's name.
	Name string
	// Schema identifies the form of the data to readers outside, such as
	// "https://example.com/schemas/withdrawn/1".
	Schema string
	// Publish is handed to relays: topic, headers, whatever they define.
	Publish map[string]string
}

type eventKind struct {
	name    string
	schema  string
	publish json.RawMessage
}

// Describe names the events of type E and says how they are published. Types
// that are not described are named after their Go type. It panics on a name
// that is taken, and must be called before the engine runs.
func Describe[E, Tx any](e *Engine[Tx], o EventOptions) {
	t := reflect.TypeFor[E]()
	kind := eventKind{name: o.Name, schema: o.Schema}
	if kind.name == "" {
		kind.name = t.Name()
	}
	if len(o.Publish) > 0 {
		kind.publish, _ = json.Marshal(o.Publish) // a map of strings always encodes
	}
	e.register(func() {
		for other, taken := range e.kinds {
			if taken.name == kind.name {
				panic(fmt.Sprintf("semel: events of %v and %v are both named %q", other, t, kind.name))
			}
		}
		e.kinds[t] = kind
	})
}

func (e *Engine[Tx]) kind(v any) eventKind {
	t := reflect.TypeOf(v)
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return eventKind{}
	}
	if kind, ok := e.kinds[t]; ok {
		return kind
	}
	return eventKind{name: t.Name()}
}
