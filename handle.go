package semel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
)

// A Guarantee says how often a command's handler may take effect.
type Guarantee int

const (
	// ExactlyOnceEffect is the default: what the handler writes through its
	// transaction is committed once, together with the outcome. The handler
	// may be called more often; only one call commits.
	ExactlyOnceEffect Guarantee = iota
	// AtMostOnce: the handler is called once. If its end is not seen, the
	// operation fails with disposition [Unknown]; it is never called again.
	// For effects in systems that offer neither a key nor a query.
	AtMostOnce
	// AtLeastOnce: the handler is called, in a transaction of its own, until it
	// succeeds or its attempts are used up, and may have effects outside its
	// transaction at every call. For effects that are harmless when repeated.
	AtLeastOnce
)

// HandleOptions are a command's choices. The zero value is the strong default.
type HandleOptions struct {
	Guarantee Guarantee
	Retry     Retry
	// Lease is how long one attempt may take: the handler's context ends with
	// it, and so does its right to commit. 0 means 30 s.
	Lease time.Duration
	// Solo runs the command in a transaction of its own, begun at its first
	// statement. For handlers that are slow or talk to other systems; commands
	// that are not [ExactlyOnceEffect] are always solo.
	Solo bool
	// Park keeps later commands of the same subject waiting when this one has
	// failed, until it is replayed or canceled.
	Park bool
	// Window is how long the full answer is kept; 0 means [Options.Window].
	Window time.Duration
}

// A definition is what the engine knows of one command.
type definition[Tx any] struct {
	name string
	HandleOptions
	// inline marks a call of [Do]: only its caller can call it again.
	inline bool
	// decode reads the body into the command's type, strictly.
	decode func(body []byte) (any, []string, error)
	call   func(ctx context.Context, u *Unit[Tx], command any) (any, error)
}

func (d *definition[Tx]) lease() time.Duration {
	if d.Lease == 0 {
		return 30 * time.Second
	}
	return d.Lease
}

func (d *definition[Tx]) solo() bool { return d.Solo || d.Guarantee != ExactlyOnceEffect }

// Handle makes h the handler of the named command. It panics if the name is
// empty or taken: both are mistakes in the program.
//
// The command's type C is decoded from the body as JSON; members that C lacks
// are refused. Three optional methods of C are used if they are there:
//
//	Subject() string     what the command is about: its ordering key
//	Subjects() []string  the same for commands that touch several
//	Validate() error     refuses a command before anything is stored
//
// The result R is encoded as JSON; it is the answer, now and for every repeat.
func Handle[Tx, C, R any](e *Engine[Tx], name string, h func(context.Context, *Unit[Tx], C) (R, error), o *HandleOptions) {
	if o == nil {
		o = &HandleOptions{}
	}
	d := &definition[Tx]{
		name:          name,
		HandleOptions: *o,
		decode: func(body []byte) (any, []string, error) {
			var c C
			if err := decodeStrict(body, &c); err != nil {
				return nil, nil, err
			}
			if v, ok := any(c).(interface{ Validate() error }); ok {
				if err := v.Validate(); err != nil {
					return nil, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
				}
			}
			return c, subjectsOf(c), nil
		},
		call: func(ctx context.Context, u *Unit[Tx], command any) (any, error) {
			return h(ctx, u, command.(C))
		},
	}
	e.register(func() {
		if name == "" || e.commands[name] != nil {
			panic(fmt.Sprintf("semel: the command name %q is empty or taken", name))
		}
		e.commands[name] = d
	})
}

func subjectsOf(command any) []string {
	switch c := command.(type) {
	case interface{ Subjects() []string }:
		return c.Subjects()
	case interface{ Subject() string }:
		if s := c.Subject(); s != "" {
			return []string{s}
		}
	}
	return nil
}

// decodeStrict decodes one JSON value and names the place of what is wrong.
func decodeStrict(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
	case errors.As(err, &kind):
		place := kind.Field
		if place == "" {
			place = "the body"
		}
		return fmt.Errorf("%w: %s at byte %d is a JSON %s, want %s", ErrInvalid, place, kind.Offset, kind.Value, describeKind(kind.Type))
	case errors.As(err, &syntax):
		return fmt.Errorf("%w: malformed JSON at byte %d: %w", ErrInvalid, syntax.Offset, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: the JSON ends early, at byte %d", ErrInvalid, len(body))
	default: // an unknown member: the package's message names it
		return fmt.Errorf("%w: %s", ErrInvalid, strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one JSON value, the second from byte %d on", ErrInvalid, d.InputOffset())
	}
	return nil
}

func describeKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number of at least 0"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	}
	return "an object"
}
