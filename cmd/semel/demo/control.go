package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// quiet is the least time between two words of the page's event stream.
const quiet = 100 * time.Millisecond

// When the worker can be killed.
const (
	now            = "now"
	midTransaction = "mid-transaction"
)

// A state is everything that the page shows.
type state struct {
	Protected protectedState `json:"protected"`
	Naive     naiveState     `json:"naive"`
	Counts    counts         `json:"counts"`
	Worker    workerState    `json:"worker"`
	Switches  Switches       `json:"switches"`
}

type protectedState struct {
	Account    string       `json:"account"`
	Balance    int64        `json:"balance"`
	Operations []operation  `json:"operations"`
	Ledger     []ledgerLine `json:"ledger"`
	Invariants []invariant  `json:"invariants"`
}

type ledgerLine struct {
	Operation string `json:"operation"`
	Cents     int64  `json:"cents"`
	Balance   int64  `json:"balance"`
}

// counts are what the demonstration is about.
type counts struct {
	Requests      int `json:"requests"`
	Effects       int `json:"effects"`
	Replays       int `json:"replays"`
	DoubleEffects int `json:"doubleEffects"`
	Lost          int `json:"lost"` // acknowledged, and not there
}

// state asks both sides. While the worker is down its last report stands.
func (d *Demo) state(ctx context.Context) (state, error) {
	found := d.report(ctx)
	requests, replays, _ := d.protected.totals()
	s := state{
		Protected: protectedState{
			Account:    account,
			Balance:    found.Statement.Balance,
			Operations: merge(found.Operations, d.protected.newest()),
			Ledger:     []ledgerLine{},
			Invariants: slices.Clone(found.Invariants),
		},
		Counts:   counts{requests, found.Effects, replays, found.Double, found.Lost},
		Worker:   d.worker.state(),
		Switches: d.faults.now(),
	}
	for _, e := range found.Statement.Entries {
		s.Protected.Ledger = append(s.Protected.Ledger, ledgerLine{e.Operation, e.Cents, e.Balance})
	}
	s.Protected.Invariants = append(s.Protected.Invariants, invariant{
		Name: "everything acknowledged is in the ledger", OK: found.Lost == 0, Detail: fmt.Sprintf("%d lost", found.Lost),
	})
	var err error
	s.Naive, err = d.twin.state(ctx, account)
	return s, err
}

// report returns what the worker says now, or what it said last.
func (d *Demo) report(ctx context.Context) report {
	q := question{Account: account, Principal: Visitor, Opening: d.opening, Acknowledged: d.protected.acknowledged()}
	var found report
	err := d.worker.hook(ctx, hookReport, q, &found)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.last = found
	}
	return d.last
}

// merge adds to the worker's operations what the proxy saw of each. What the
// worker has never heard of is shown too: it was lost on its way there.
func merge(ops []operation, stories []story) []operation {
	merged := make([]operation, 0, len(ops))
	seen := make(map[string]*story, len(stories))
	for i := range stories {
		seen[stories[i].id()] = &stories[i]
	}
	for _, op := range ops {
		op.Timeline = []moment{}
		if s := seen[op.ID]; s != nil {
			op.Replays, op.Timeline = s.replays, s.timeline
			delete(seen, op.ID)
		}
		op.Timeline = append(op.Timeline, milestones(op)...)
		slices.SortStableFunc(op.Timeline, func(a, b moment) int { return a.At.Compare(b.At) })
		merged = append(merged, op)
	}
	for _, s := range seen {
		merged = append(merged, operation{
			ID: s.id(), Name: s.name, State: "unknown", Key: s.key, Cents: s.cents, AcceptedAt: s.began, Timeline: s.timeline,
		})
	}
	slices.SortStableFunc(merged, func(a, b operation) int { return b.AcceptedAt.Compare(a.AcceptedAt) })
	return merged
}

func milestones(op operation) []moment {
	var m []moment
	if !op.AcceptedAt.IsZero() {
		m = append(m, moment{op.AcceptedAt, "accepted"})
	}
	if !op.ExecutedAt.IsZero() {
		m = append(m, moment{op.ExecutedAt, "executed: effect and event committed"})
	}
	if !op.DoneAt.IsZero() {
		m = append(m, moment{op.DoneAt, string(op.State)})
	}
	return m
}

// control serves the page's own addresses.
func (d *Demo) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /demo/state", func(w http.ResponseWriter, r *http.Request) {
		s, err := d.state(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, s)
	})
	mux.HandleFunc("PUT /demo/switches", func(w http.ResponseWriter, r *http.Request) {
		var s Switches
		if !readJSON(w, r, &s) {
			return
		}
		if err := s.check(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		d.faults.set(s)
		d.bell.ring()
		writeJSON(w, s)
	})
	mux.HandleFunc("POST /demo/kill", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			When string `json:"when"`
		}
		if !readJSON(w, r, &q) {
			return
		}
		if err := d.kill(r.Context(), q.When); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /demo/events", d.bell.stream)
	return mux
}

// kill ends the worker now, or in the middle of its next transaction: when
// the handlers have written and nothing is committed.
func (d *Demo) kill(ctx context.Context, when string) error {
	switch when {
	case now:
		return d.worker.kill()
	case midTransaction:
		return d.worker.hook(ctx, hookArm, nil, nil)
	}
	return fmt.Errorf("when is %q; it takes %q or %q", when, now, midTransaction)
}

func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(v)
	if err != nil {
		http.Error(w, "the body is not the JSON that is taken here: "+err.Error(), http.StatusBadRequest)
	}
	return err == nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // an error means that the reader has gone
}

// A bell tells everybody who listens that something changed, not what.
type bell struct {
	mu   sync.Mutex
	rung chan struct{} // closed and replaced at every ring
	end  chan struct{}
}

func newBell() *bell { return &bell{rung: make(chan struct{}), end: make(chan struct{})} }

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.rung)
	b.rung = make(chan struct{})
}

func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rung
}

// stream says "changed" whenever something has, in a server-sent event, and
// now and then a comment so that a dead connection is noticed.
func (b *bell) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	words := "event: changed\ndata: {}\n\n"
	for {
		rung := b.next() // before the word is said: what rings after it is new
		if _, err := io.WriteString(w, words); err != nil || out.Flush() != nil {
			return
		}
		if !hold(r.Context(), quiet) {
			return
		}
		breath := time.NewTimer(15 * time.Second)
		select {
		case <-rung:
			words = "event: changed\ndata: {}\n\n"
		case <-breath.C:
			words = ": nothing new\n\n"
		case <-b.end:
			breath.Stop()
			return
		case <-r.Context().Done():
			breath.Stop()
			return
		}
		breath.Stop()
	}
}
