package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/wire"
)

// An operationResource is an operation as clients see it. What is not there
// is absent, never null.
type operationResource struct {
	ID            semel.ID        `json:"id"`
	Name          string          `json:"name"`
	Subject       string          `json:"subject,omitempty"`
	State         semel.State     `json:"state"`
	Done          bool            `json:"done"`
	Resource      string          `json:"resource,omitempty"`
	Result        json.RawMessage `json:"result,omitempty"`
	Error         *operationError `json:"error,omitempty"`
	Attempts      int             `json:"attempts"`
	AcceptedAt    instant         `json:"acceptedAt,omitzero"`
	ExecutedAt    instant         `json:"executedAt,omitzero"`
	DoneAt        instant         `json:"doneAt,omitzero"`
	RetryAt       instant         `json:"retryAt,omitzero"`
	Position      wideInt         `json:"position,omitempty"`
	CorrelationID string          `json:"correlationId,omitempty"`
}

type operationError struct {
	Code   string `json:"code"`
	Reason string `json:"reason,omitempty"`
}

// A wideInt is a string in JSON where a reader that knows only doubles, such
// as a browser, would lose its last digits.
type wideInt int64

// MarshalJSON implements [json.Marshaler].
func (n wideInt) MarshalJSON() ([]byte, error) {
	text := strconv.FormatInt(int64(n), 10)
	if n > 1<<53 || n < -1<<53 {
		text = `"` + text + `"`
	}
	return []byte(text), nil
}

// An instant is RFC 3339 in UTC, always with six digits, so that text sorts as
// time does.
type instant struct{ time.Time }

// MarshalJSON implements [json.Marshaler].
func (t instant) MarshalJSON() ([]byte, error) {
	return []byte(t.UTC().Format(`"2006-01-02T15:04:05.000000Z"`)), nil
}

// encodeOperation returns the operation resource in one line of JSON.
func encodeOperation(op *semel.Operation) ([]byte, error) {
	res := operationResource{
		ID: op.ID, Name: op.Name, Subject: op.Subject(),
		State: op.State, Done: op.State.Done(), Resource: op.Resource,
		Error: outcomeError(op), Attempts: op.Attempts,
		AcceptedAt: instant{op.AcceptedAt}, ExecutedAt: instant{op.ExecutedAt},
		DoneAt: instant{op.DoneAt}, RetryAt: instant{op.RetryAt()},
		Position: wideInt(op.Position),
	}
	// Not before it is completed: the result would speak of what no read shows.
	if op.State == semel.Completed && string(op.Result) != "null" {
		res.Result = op.Result
	}
	// A correlation that does not decode is the engine's to notice.
	if c, err := op.DecodeCorrelation(); err == nil {
		res.CorrelationID = c.ID
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(res); err != nil {
		return nil, fmt.Errorf("encoding operation %s: %w", op.ID, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func outcomeError(op *semel.Operation) *operationError {
	switch op.State {
	case semel.Rejected:
		return &operationError{op.Code, op.Reason}
	case semel.Failed:
		return &operationError{failureCode(op), failure(op)}
	case semel.Canceled:
		return &operationError{"canceled", "the operation was canceled before it ran"}
	}
	return nil
}

func failureCode(op *semel.Operation) string {
	if op.Code != "" {
		return op.Code
	}
	return string(op.Disposition)
}

// failure says why an operation failed, without the error's text: that may
// hold anything, from SQL to secrets, and is for operators.
func failure(op *semel.Operation) string {
	switch op.Disposition {
	case semel.Poison:
		return "the handler broke down at every attempt"
	case semel.Terminal:
		return "the handler gave up: trying again would not help"
	case semel.Unknown:
		return "the handler was called and its end was not seen; it may have had effects outside the store"
	}
	return "the handler failed at every attempt"
}

// read answers GET /operations/{id}, at once or when the outcome is there.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request, who Identity) error {
	id, err := operationID(r)
	if err != nil {
		return err
	}
	w.Header().Add("Vary", "Prefer")
	op, err := g.engine.Operation(r.Context(), who.Tenant, who.Principal, id)
	if err != nil {
		return noOperation(err, id)
	}
	if wait := g.wishes(w, r, 0); wait > 0 && !op.State.Done() {
		started := time.Now()
		if op, err = g.await(r.Context(), who, id, wait); err != nil {
			return noOperation(err, id)
		}
		keepOpen(w, time.Since(started))
	}
	body, err := encodeOperation(op)
	if err != nil {
		return err
	}
	if op.State.Done() {
		sum := sha256.Sum256(body)
		tag := `"` + hex.EncodeToString(sum[:12]) + `"`
		w.Header().Set("ETag", tag)
		w.Header().Set("Cache-Control", "private, no-cache") // may be kept, if asked each time
		if matchesTag(r.Header["If-None-Match"], tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	} else {
		w.Header().Set("Retry-After", "1")
	}
	write(w, http.StatusOK, "application/json", body)
	return nil
}

// await returns the operation with its outcome, or as it stands when the wait
// is over.
func (g *Gateway) await(ctx context.Context, who Identity, id semel.ID, wait time.Duration) (*semel.Operation, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	op, err := g.engine.Await(waiting, who.Tenant, who.Principal, id)
	if err == nil {
		return op, nil
	}
	return g.engine.Operation(ctx, who.Tenant, who.Principal, id)
}

func operationID(r *http.Request) (semel.ID, error) {
	text := r.PathValue("id")
	id, err := semel.ParseID(text)
	if err != nil {
		return id, refusal(operationNotFound, "%s is not the id of an operation", wire.Shorten(text))
	}
	return id, nil
}

// noOperation says of a read what translate says of a send.
func noOperation(err error, id semel.ID) error {
	refused := translate(err)
	switch refused.slug {
	case operationNotFound:
		return refusal(operationNotFound, "the caller has no operation %s", id)
	case keyExpired:
		return refusal(keyExpired, "operation %s is past its deduplication window; its answer is no longer kept", id)
	case outcomeUnknown:
		return fmt.Errorf("reading operation %s: %w: %w", id, semel.ErrUnavailable, err)
	}
	return err
}

// A listing is one page of the caller's operations: open ones first, newest
// first, then the others by their outcomes, newest first.
type listing struct {
	state  semel.State
	name   string
	limit  int
	open   bool  // still among the open ones
	before int64 // where the page goes on; 0 for the beginning
}

const pageMost = 100

// parseListing reads a query. The page token is a letter for the part of the
// list, and where in that part to go on.
func parseListing(query url.Values) (listing, error) {
	l := listing{name: query.Get("name"), state: semel.State(query.Get("state")), limit: pageMost, open: true}
	if l.state != "" && !slices.Contains(semel.States(), l.state) {
		return l, refusal(invalidQuery, "state is %s; the states are %v", wire.Shorten(string(l.state)), semel.States())
	}
	if text := query.Get("limit"); text != "" {
		n, ok := parsePosition(text)
		if !ok || n < 1 || n > pageMost {
			return l, refusal(invalidQuery, "limit is %s; 1 to %d are taken", wire.Shorten(text), pageMost)
		}
		l.limit = int(n)
	}
	if text := query.Get("page"); text != "" {
		before, ok := parsePosition(text[1:])
		if !ok || text[0] != 'o' && text[0] != 'd' {
			return l, refusal(invalidQuery, "page is %s, which no answer gave as next", wire.Shorten(text))
		}
		l.open, l.before = text[0] == 'o', before
	}
	return l, nil
}

// list answers GET /operations.
func (g *Gateway) list(w http.ResponseWriter, r *http.Request, who Identity) error {
	l, err := parseListing(r.URL.Query())
	if err != nil {
		return err
	}
	ops, next, err := g.page(r.Context(), who, l)
	if err != nil {
		return fmt.Errorf("listing operations: %w", unavailableUnless(err))
	}
	answer := struct {
		Operations []json.RawMessage `json:"operations"`
		Next       string            `json:"next,omitempty"`
	}{make([]json.RawMessage, 0, len(ops)), next}
	for _, op := range ops {
		encoded, err := encodeOperation(op)
		if err != nil {
			return err
		}
		answer.Operations = append(answer.Operations, encoded)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("encoding a page of operations: %w", err)
	}
	write(w, http.StatusOK, "application/json", body)
	return nil
}

// page reads one operation more than it returns, to know whether to offer a
// next page.
func (g *Gateway) page(ctx context.Context, who Identity, l listing) (ops []*semel.Operation, next string, err error) {
	q := semel.OperationQuery{
		Tenant: who.Tenant, Principal: who.Principal,
		Newest: true, State: l.state, Name: l.name, Before: l.before,
	}
	if l.open && !l.state.Done() {
		q.Open, q.Limit = true, l.limit+1
		if ops, err = g.engine.Operations(ctx, q); err != nil {
			return nil, "", err
		}
		if len(ops) > l.limit {
			ops = ops[:l.limit]
			return ops, "o" + strconv.FormatInt(ops[l.limit-1].Seq, 10), nil
		}
	}
	if l.state != "" && !l.state.Done() {
		return ops, "", nil
	}
	if l.open {
		q.Before = 0
	}
	rest := l.limit - len(ops)
	q.Open, q.Limit = false, rest+1
	done, err := g.engine.Operations(ctx, q)
	if err != nil {
		return nil, "", err
	}
	if len(done) > rest {
		done = done[:rest]
		next = "d" + strconv.FormatInt(q.Before, 10)
		if rest > 0 {
			next = "d" + strconv.FormatInt(done[rest-1].DonePosition, 10)
		}
	}
	for _, op := range done { // one may have ended between the two reads
		if !slices.ContainsFunc(ops, func(o *semel.Operation) bool { return o.ID == op.ID }) {
			ops = append(ops, op)
		}
	}
	return ops, next, nil
}

// unavailableUnless marks an error of a read that no sentinel explains: no
// outcome is in doubt when nothing was asked to change.
func unavailableUnless(err error) error {
	if translate(err).slug == outcomeUnknown {
		return fmt.Errorf("%w: %w", semel.ErrUnavailable, err)
	}
	return err
}
