package crash

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semel-dev/semel"
)

// An intention is one command that a client wants to happen once. It is in the
// journal, with its key, before the first request is sent.
type intention struct {
	principal, command, key string
	account, to             string // to is where a transfer goes
	cents                   int64

	route int  // which of the ways to send it
	async bool // the client does not wait
	twice bool // the first request is sent several times at once
	id    string

	mu    sync.Mutex
	first time.Time // when the first request was sent
	known
	fresh   int   // answers that did not say that they repeat another
	balance int64 // that the outcome speaks of
}

// Known is what answers have said. Requests that are under way together may be
// answered in any order: an answer is compared with what was known when its
// request was sent.
type known struct {
	accepted bool    // 202
	outcome  *answer // the first final answer, which every later one must equal
	expired  bool    // 410
}

// A move is by how much one account is to change.
type move struct {
	account string
	cents   int64
}

// moves is what the command does if it is done.
func (in *intention) moves() []move {
	switch in.command {
	case "deposit":
		return []move{{in.account, in.cents}}
	case "withdraw":
		return []move{{in.account, -in.cents}}
	case "transfer":
		return []move{{in.account, -in.cents}, {in.to, in.cents}}
	}
	return nil
}

// request returns the same request for every try.
func (in *intention) request(base string) (*http.Request, error) {
	method, path := http.MethodPost, "/commands/"+in.command
	body := map[string]any{"account": in.account, "cents": in.cents}
	switch in.command {
	case "open":
		body = map[string]any{"account": in.account}
	case "transfer":
		body = map[string]any{"from": in.account, "to": in.to, "cents": in.cents}
	}
	header := http.Header{"Authorization": {"Bearer " + in.principal}, "Content-Type": {"application/json"}}
	switch {
	case in.route == 0 && (in.command == "deposit" || in.command == "withdraw"):
		collection := map[string]string{"deposit": "deposits", "withdraw": "withdrawals"}[in.command]
		method, path = http.MethodPut, "/accounts/"+in.account+"/"+collection+"/"+in.key
		body = map[string]any{"cents": in.cents}
	case in.route == 1:
		method, path = http.MethodPut, path+"/"+in.key
	default:
		header.Set("Idempotency-Key", in.key)
	}
	if in.async {
		header.Set("Prefer", "respond-async")
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(method, base+path, strings.NewReader(string(encoded)))
	if err == nil {
		r.Header = header
	}
	return r, err
}

func (in *intention) String() string {
	return fmt.Sprintf("%s of %d at %s (key %s of %s, operation %s)", in.command, in.cents, in.account, in.key, in.principal, in.id)
}

// settled reports whether nothing more will be heard of it.
func (in *intention) settled() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.outcome != nil || in.expired
}

// silent reports whether nothing at all has been heard of it.
func (in *intention) silent() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.known == known{}
}

// unsettled is the opposite of settled.
func (in *intention) unsettled() bool { return !in.settled() }

func (in *intention) answered() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.outcome != nil
}

// An answer is what must be the same each time.
type answer struct {
	status                                     int
	contentType, operation, resource, location string
	body                                       string
	replayed                                   bool // it says that it repeats another
}

func (a answer) String() string {
	return fmt.Sprintf("%d %q %s %s %s %s", a.status, a.body, a.contentType, a.operation, a.resource, a.location)
}

func (a answer) done() bool { return a.status == http.StatusOK || a.status == http.StatusCreated }

// A journal is what the clients wrote down, and what they found wrong.
type journal struct {
	window time.Duration // how long answers are kept, 0 for longer than a test

	mu         sync.Mutex
	intentions []*intention
	problems   []problem
	found      map[kind]int // problems, also those that are not kept

	outcomes atomic.Int64 // intentions with a final answer
	rejected atomic.Int64
	accepted atomic.Int64 // intentions that got a 202
	replayed atomic.Int64 // answers that repeated another
	looked   atomic.Int64 // accounts read right after an answer
	expired  atomic.Int64 // intentions past their window
	refused  atomic.Int64 // requests that the program was too busy for
}

// A kind says what is wrong about something.
type kind string

const (
	lost       kind = "lost"       // acknowledged, and not there
	forgotten  kind = "forgotten"  // answered, and later answered as if it were new
	doubled    kind = "doubled"    // more effects than one
	differs    kind = "differs"    // another answer for the same key
	stuck      kind = "stuck"      // not done in time
	projection kind = "projection" // a reader is shown something else
	verify     kind = "verify"     // found by the program's own judge
	unexpected kind = "unexpected"
)

type problem struct {
	kind kind
	text string
}

// mostProblems of a kind are kept; a broken program has thousands.
const mostProblems = 5

func (j *journal) wrong(k kind, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.found == nil {
		j.found = make(map[kind]int)
	}
	if j.found[k]++; j.found[k] <= mostProblems {
		j.problems = append(j.problems, problem{k, fmt.Sprintf(format, args...)})
	}
}

// violations returns how many problems were found, of the given kinds or any.
func (j *journal) violations(kinds ...kind) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for k, found := range j.found {
		if len(kinds) == 0 || slices.Contains(kinds, k) {
			n += found
		}
	}
	return n
}

// forgive drops what was found so far.
func (j *journal) forgive() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.problems, j.found = nil, nil
}

// write puts an intention into the journal, with its key and operation.
func (j *journal) write(in *intention) *intention {
	j.mu.Lock()
	defer j.mu.Unlock()
	in.key = fmt.Sprintf("k-%06d", len(j.intentions))
	in.id = semel.Command{Principal: in.principal, Name: in.command, Key: in.key}.ID().String()
	j.intentions = append(j.intentions, in)
	return in
}

// all returns the intentions so far that fit.
func (j *journal) all(fits func(*intention) bool) []*intention {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []*intention
	for _, in := range j.intentions {
		if fits(in) {
			found = append(found, in)
		}
	}
	return found
}

// some returns at most so many of those that fit, chosen by chance.
func (j *journal) some(most int, r *rand.Rand, fits func(*intention) bool) []*intention {
	found := j.all(fits)
	r.Shuffle(len(found), func(a, b int) { found[a], found[b] = found[b], found[a] })
	return found[:min(most, len(found))]
}

// heard notes an answer and compares it with what was heard before.
func (j *journal) heard(in *intention, before known, a answer) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch a.status {
	case http.StatusServiceUnavailable:
		j.refused.Add(1)
		return
	case http.StatusGone:
		j.heardGone(in, a)
		return
	case http.StatusOK, http.StatusCreated, http.StatusConflict, http.StatusAccepted:
	default:
		j.wrong(unexpected, "%v was answered %v", in, a)
		return
	}
	if a.operation != "operations/"+in.id {
		j.wrong(differs, "%v got an answer about %q", in, a.operation)
	}
	if before.expired {
		j.wrong(forgotten, "%v got 410, and now %v", in, a)
	}
	if a.replayed {
		j.replayed.Add(1)
	} else if in.fresh++; in.fresh > 1 || before.outcome != nil || before.accepted {
		j.wrong(forgotten, "%v was answered before, and now as if it were new: %v", in, a)
	}
	if a.status != http.StatusAccepted {
		j.heardOutcome(in, a)
		return
	}
	if before.outcome != nil {
		j.wrong(lost, "%v was answered %v, and is now pending", in, before.outcome)
	}
	if !in.accepted {
		in.accepted = true
		j.accepted.Add(1)
	}
}

func (j *journal) heardOutcome(in *intention, a answer) {
	a.replayed = false
	if in.outcome != nil {
		if *in.outcome != a {
			j.wrong(differs, "%v was answered %v, and now %v", in, in.outcome, a)
		}
		return
	}
	in.outcome = &a
	j.outcomes.Add(1)
	if !a.done() {
		j.rejected.Add(1)
		if !strings.Contains(a.body, `"insufficient_funds"`) {
			j.wrong(unexpected, "%v was rejected with %v", in, a)
		}
		return
	}
	var result struct {
		Balance *int64 `json:"balance"`
	}
	if err := json.Unmarshal([]byte(a.body), &result); err != nil || result.Balance == nil {
		j.wrong(differs, "%v has no balance in its answer %v", in, a)
		return
	}
	in.balance = *result.Balance
}

// heardGone: the answer is no longer kept. That may not be said too early.
func (j *journal) heardGone(in *intention, a answer) {
	if age := time.Since(in.first); j.window == 0 || age < j.window {
		j.wrong(lost, "%v got %v, %s after its first request", in, a, age.Round(time.Millisecond))
	}
	if !in.expired {
		in.expired = true
		j.expired.Add(1)
	}
}
