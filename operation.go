package semel

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// An Operation is one command's life: at once the idempotency record, the
// inbox entry, the status page and, if it fails for good, the dead letter.
type Operation struct {
	// Seq is the order of acceptance, given by the store.
	Seq int64
	ID  ID

	Tenant    string
	Principal string
	Name      string
	Key       string
	// Subjects are what the command is about, the first being the one that
	// events inherit. Stores keep the first; the rest are read off the body.
	Subjects    []string
	Fingerprint Fingerprint
	Body        []byte
	Correlation json.RawMessage

	State    State
	Attempts int   // calls of the handler that were begun under a claim, or ended without one
	Epoch    int64 // raised by every claim; an owner with an older one commits nothing
	// Holds is set while the operation keeps later ones of its subjects waiting.
	Holds bool

	// Status, Resource and Result are the answer: an HTTP status, the path of
	// what was created or changed, and the body to be repeated byte by byte.
	Status   int
	Resource string
	Result   []byte

	// Code and Reason explain a rejection or a failure, Disposition the latter.
	Code        string
	Reason      string
	Disposition Disposition

	// Events counts what the operation appended to the log; Position is where
	// the last of it stands. DonePosition is where in the log the outcome
	// became known, which orders the outcomes that a user is told of.
	Events       int
	Position     int64
	DonePosition int64

	AcceptedAt time.Time
	ExecutedAt time.Time
	DoneAt     time.Time
	DueAt      time.Time // when somebody may take it: now, the retry, or the end of the lease
	ExpiresAt  time.Time // end of the deduplication window
}

// Subject returns the first subject, or "".
func (o *Operation) Subject() string {
	if len(o.Subjects) == 0 {
		return ""
	}
	return o.Subjects[0]
}

// RetryAt returns when a waiting operation is tried again.
func (o *Operation) RetryAt() time.Time {
	if o.State != Waiting {
		return time.Time{}
	}
	return o.DueAt
}

// DecodeCorrelation returns the correlation that was sent with the command.
func (o *Operation) DecodeCorrelation() (Correlation, error) {
	var c Correlation
	if len(o.Correlation) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(o.Correlation, &c); err != nil {
		return c, fmt.Errorf("semel: decoding the correlation of operation %s: %w", o.ID, err)
	}
	return c, nil
}

func (o *Operation) move(next State) error {
	if err := o.State.move(next); err != nil {
		return err
	}
	o.State = next
	return nil
}

// problem is a rejection's stored answer: problem details as in RFC 9457. It
// is made once, when the handler says no, so that a later version of this
// module repeats it as it was.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Code      string `json:"code,omitempty"`
	Operation string `json:"operation,omitempty"`
}

// ProblemTypes is the prefix of every problem type's URI; its last part is
// the file of the same name under docs/problems.
const ProblemTypes = "https://semel.dev/problems/"

func (o *Operation) reject(r *Rejection) error {
	o.Status, o.Code, o.Reason = r.Status, r.Code, r.Reason
	if o.Status < 400 || o.Status > 499 { // above would ask the client to try again, for ever
		o.Status = http.StatusConflict
	}
	if r.Result != nil {
		o.Result = r.Result
		return nil
	}
	body, err := json.Marshal(problem{
		Type:      ProblemTypes + "operation-rejected",
		Title:     "Operation rejected",
		Status:    o.Status,
		Detail:    r.Reason,
		Code:      r.Code,
		Operation: "operations/" + o.ID.String(),
	})
	o.Result = body
	return err
}
