package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

// TestRestart stops a shop with a backlog and takes it up again, also with a
// position from before: nothing is lost, and nothing is submitted again.
func TestRestart(t *testing.T) {
	t.Parallel()
	const sales = 30
	var down atomic.Bool
	down.Store(true)
	rc := &receiver{answer: func(_ int, w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(503)
		}
	}}
	server := serve(t, rc)
	path := filepath.Join(t.TempDir(), "shop.db")
	o := options(server.URL, NewSecret())
	o.Retry = semel.Retry{Attempts: 1000, Wait: semel.Backoff{First: 20 * time.Millisecond, Fixed: true}}
	first := open(t, path, o, nil).run()
	for i := range sales {
		first.sell(strconv.Itoa(i), fmt.Sprintf(`{"article":"tea %d"}`, i%7))
	}
	until(t, func() bool { return len(first.deliveries()) > 0 })
	first.stop()

	down.Store(false)
	second := open(t, path, o, nil).run()
	submitted := second.settled(sales)
	second.read()
	before := position(t, second.store)
	second.stop()
	if ids := rc.ids(); len(ids) != sales || len(submitted) != sales {
		t.Fatalf("%d ids of %d deliveries came, want %d", len(ids), len(submitted), sales)
	}
	requests := len(rc.requests())

	third := open(t, path, o, nil)
	if err := third.sender.follow(t.Context(), 1, before); err != nil { // as if it had not been stored since
		t.Fatal(err)
	}
	third.sender.stored, third.sender.read = 1, 1
	third.run()
	third.read()
	if got := third.deliveries(); len(got) != sales || len(rc.requests()) != requests {
		t.Errorf("%d deliveries and %d requests after going back, want %d and %d", len(got), len(rc.requests()), sales, requests)
	}
}

// TestBegins at the end of the log the first time, and not with the past.
func TestBegins(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shop.db")
	store, err := sqlite.Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	engine := semel.New(store, &semel.Options{Logger: quiet})
	semel.Handle(engine, "sell", sell, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	for i := range 3 {
		_, err := engine.Submit(t.Context(), semel.Command{Principal: "alice", Name: "sell", Key: strconv.Itoa(i)}, semel.SubmitOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := errors.Join(<-ended, store.Close()); err != nil {
		t.Fatal(err)
	}
	rc := &receiver{}
	server := serve(t, rc)
	s := open(t, path, options(server.URL, NewSecret()), nil)
	if got := position(t, s.store); got != 3 {
		t.Errorf("the follower begins at %d, want 3", got)
	}
	s.run()
	op := s.sell("new", `{"article":"tea"}`)
	s.settled(1)
	if got := rc.requests(); len(got) != 1 || got[0].event(t).Data.ID != op.ID.String() {
		t.Errorf("%d requests came, want the new sale's", len(got))
	}
}

// TestKilled takes a copy of the store while a request is at the receiver, as
// a crash between effect and outcome leaves it: the receiver gets the same
// webhook once more, and can tell by its id.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, crashed := filepath.Join(dir, "shop.db"), filepath.Join(dir, "crashed.db")
	copied := make(chan error, 1)
	rc := &receiver{answer: func(n int, _ http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			copied <- copyOf(path, crashed)
		}
	}}
	server := serve(t, rc)
	o := options(server.URL, NewSecret())
	first := open(t, path, o, nil).run()
	first.sell("1", `{"article":"tea"}`)
	first.settled(1)
	first.stop()
	if err := <-copied; err != nil {
		t.Fatal(err)
	}
	second := open(t, crashed, o, nil)
	if op := second.deliveries(); len(op) != 1 || op[0].State != semel.Running {
		t.Fatalf("the copy holds %v; it should be one delivery at work", op)
	}
	second.run()
	if op := second.settled(1)[0]; op.State != semel.Completed || op.Attempts != 2 {
		t.Errorf("the delivery is %s after %d attempts", op.State, op.Attempts)
	}
	got := rc.requests()
	if len(got) != 2 || got[0].id() != got[1].id() || got[0].body != got[1].body {
		t.Errorf("got %v; want the same webhook twice", got)
	}
}

// TestLanes counts the requests that an endpoint has under way, and looks at
// the order within subjects.
func TestLanes(t *testing.T) {
	t.Parallel()
	const sales, subjects, lanes = 60, 7, 3
	var mu sync.Mutex
	var under, most int
	rc := &receiver{answer: func(n int, w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		under++
		most = max(most, under)
		mu.Unlock()
		<-time.After(time.Second)
		mu.Lock()
		under--
		mu.Unlock()
		if n%5 == 0 {
			w.WriteHeader(500)
		}
	}}
	virtual(t, rc, func(t *testing.T, path string, transport http.RoundTripper) {
		o := options("http://receiver.example/", NewSecret())
		o.Concurrency = lanes
		o.Retry.Wait = semel.Backoff{First: 2 * time.Second, Fixed: true}
		s := open(t, path, o, transport).run()
		var submitted sync.WaitGroup
		for i := range sales {
			submitted.Go(func() { s.sell(strconv.Itoa(i), fmt.Sprintf(`{"article":"tea %d"}`, i%subjects)) })
		}
		submitted.Wait()
		s.settled(sales)
		outcomes, err := s.engine.Operations(t.Context(), semel.OperationQuery{All: true, Name: "sell"})
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if most != lanes {
			t.Errorf("%d requests were under way at once, want %d", most, lanes)
		}
		mu.Unlock()
		told := make(map[string][]string) // by subject, in the order in which they first came
		for _, r := range rc.requests() {
			id := r.event(t).Data.ID
			op := outcomes[slices.IndexFunc(outcomes, func(op *semel.Operation) bool { return op.ID.String() == id })]
			if !slices.Contains(told[op.Subject()], id) {
				told[op.Subject()] = append(told[op.Subject()], id)
			}
		}
		for _, op := range outcomes {
			if first := told[op.Subject()]; len(first) == 0 || first[0] != op.ID.String() {
				t.Fatalf("subject %s was told of in the order %v; next should be %s", op.Subject(), first, op.ID)
			}
			told[op.Subject()] = told[op.Subject()][1:]
		}
		s.stop()
	})
}

// TestFullBacklog: an endpoint that is down, with more outcomes than the
// backlog takes, holds up no other, and gets them all when it is well.
func TestFullBacklog(t *testing.T) {
	t.Parallel()
	const sales, room = 300, 20 // more than a batch
	var down atomic.Bool
	down.Store(true)
	broken, sound := &receiver{}, &receiver{}
	both := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/broken":
			sound.ServeHTTP(w, r)
		case down.Load():
			w.WriteHeader(503)
		default:
			broken.ServeHTTP(w, r)
		}
	})
	virtual(t, both, func(t *testing.T, path string, transport http.RoundTripper) {
		o := options("", "")
		secret := NewSecret()
		o.Endpoints = func(context.Context, string, string) ([]Endpoint, error) {
			return []Endpoint{
				{ID: "broken", URL: "http://receiver.example/broken", Secrets: []string{secret}},
				{ID: "sound", URL: "http://receiver.example/sound", Secrets: []string{secret}},
			}, nil
		}
		o.Concurrency = 4
		o.Retry = semel.Retry{Attempts: 1000, Wait: semel.Backoff{First: 5 * time.Second, Fixed: true}}
		s := openWith(t, path, o, &semel.Options{Logger: quiet, TenantBacklog: room}, transport).run()
		for i := range sales {
			s.sell(strconv.Itoa(i), fmt.Sprintf(`{"article":"tea %d"}`, i))
		}
		until(t, func() bool { return len(sound.ids()) == sales })
		head, err := s.store.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := position(t, s.store); got >= head {
			t.Errorf("the stored position is %d, at the head; the broken endpoint's outcomes come later", got)
		}
		if waiting := len(s.deliveries()) - sales; waiting > 10*room {
			t.Errorf("%d deliveries wait for the broken endpoint, whose backlog is %d", waiting, room)
		}
		down.Store(false)
		until(t, func() bool { return len(broken.ids()) == sales })
		s.settled(2 * sales)
		s.read()
		if got, want := len(broken.requests())+len(sound.requests()), 2*sales; got != want {
			t.Errorf("%d requests were taken, want %d", got, want)
		}
		s.stop()
	})
}

// TestFullBacklogAndRestart: what an endpoint with a full backlog has not got
// is found again by the next process.
func TestFullBacklogAndRestart(t *testing.T) {
	t.Parallel()
	const sales, room = 150, 10
	var down atomic.Bool
	down.Store(true)
	rc := &receiver{answer: func(_ int, w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(503)
		}
	}}
	virtual(t, rc, func(t *testing.T, path string, transport http.RoundTripper) {
		o := options("http://receiver.example/", NewSecret())
		o.Retry = semel.Retry{Attempts: 1000, Wait: semel.Backoff{First: 5 * time.Second, Fixed: true}}
		eo := &semel.Options{Logger: quiet, TenantBacklog: room}
		first := openWith(t, path, o, eo, transport).run()
		for i := range sales {
			first.sell(strconv.Itoa(i), `{"article":"tea"}`)
		}
		<-time.After(10 * time.Second)
		first.stop()
		down.Store(false)
		second := openWith(t, path, o, eo, transport).run()
		second.settled(sales)
		if got := len(rc.ids()); got != sales {
			t.Errorf("%d webhooks came, want %d", got, sales)
		}
		second.stop()
	})
}

// TestEndpointsFail: while nobody can say who wants to know, nobody is passed
// over.
func TestEndpointsFail(t *testing.T) {
	t.Parallel()
	rc := &receiver{}
	server := serve(t, rc)
	o := options(server.URL, NewSecret())
	var failing atomic.Bool
	failing.Store(true)
	var asked atomic.Int64
	sound := o.Endpoints
	o.Endpoints = func(ctx context.Context, tenant, principal string) ([]Endpoint, error) {
		if asked.Add(1); failing.Load() {
			return nil, errors.New("the table is locked")
		}
		return sound(ctx, tenant, principal)
	}
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), o, nil).run()
	s.sell("1", `{"article":"tea"}`)
	until(t, func() bool { return asked.Load() >= 2 })
	if got := position(t, s.store); got != 0 {
		t.Errorf("the follower has moved to %d", got)
	}
	failing.Store(false)
	s.settled(1)
	if got := len(rc.requests()); got != 1 {
		t.Errorf("%d requests came, want 1", got)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "shop.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	negative := options("", "")
	negative.Concurrency = -1
	for _, tt := range []struct {
		options *Options
		want    string
	}{{nil, "Endpoints"}, {&Options{}, "Endpoints"}, {negative, "Concurrency is -1"}} {
		if _, err := New(t.Context(), semel.New(store, nil), store, tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want it to name %s", err, tt.want)
		}
	}
}
