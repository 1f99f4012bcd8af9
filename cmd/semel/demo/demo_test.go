package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// A street is a visitor's way to an account: a chaos in front of a side that
// counts what reaches it.
type street struct {
	front  *httptest.Server
	faults *faults
	tally  *tally
	calls  atomic.Int64
	down   atomic.Bool
}

func openStreet(t *testing.T) *street {
	t.Helper()
	s := &street{faults: &faults{}, tally: newTally(func() {})}
	side := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Call", fmt.Sprint(s.calls.Add(1)))
		if s.calls.Load() > 1 {
			w.Header().Set("Idempotent-Replayed", "true")
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
	}))
	t.Cleanup(side.Close)
	chaos := newChaos("/bank", func() (string, bool) { return side.URL, !s.down.Load() }, s.tally, s.faults)
	s.front = httptest.NewUnstartedServer(chaos)
	s.front.Config.SetKeepAlivesEnabled(false)
	s.front.Start()
	t.Cleanup(s.front.Close)
	return s
}

// send sends one withdrawal under a key; an error means that no answer came.
func (s *street) send(t *testing.T, key string) (string, error) {
	t.Helper()
	r, err := http.NewRequest("PUT", s.front.URL+"/bank/accounts/alice/withdrawals/"+key, strings.NewReader(`{"cents":5}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer visitor")
	in, err := s.front.Client().Do(r)
	if err != nil {
		return "", err
	}
	defer in.Body.Close()
	body, err := io.ReadAll(in.Body)
	return fmt.Sprintf("%d %s", in.StatusCode, body), err
}

func TestChaos(t *testing.T) {
	t.Parallel()
	const answered = `200 PUT /accounts/alice/withdrawals/k {"cents":5}`
	for _, tt := range []struct {
		name     string
		switches Switches
		first    string // answer to the first send; "" if there is none
		arrive   int64  // requests that reach the side for it
		timeline string // in it
	}{
		{"no fault", Switches{}, answered, 1, "answered 200 OK"},
		{"doubled", Switches{Duplicate: 4}, answered, 4, "sent 4 times at once"},
		{"request lost", Switches{LoseRequest: true}, "", 0, "request lost before it arrived"},
		{"reply lost", Switches{LoseReply: true}, "", 1, "the answer 200 was lost"},
		{"doubled and every reply lost", Switches{Duplicate: 2, LoseReply: true}, "", 2, "was lost"},
		{"delayed", Switches{DelayMs: 1}, answered, 1, "answered 200 OK"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStreet(t)
			s.faults.set(tt.switches)
			got, err := s.send(t, "k")
			if got != tt.first || (err != nil) != (tt.first == "") {
				t.Errorf("the first send got %q, %v; want %q", got, err, tt.first)
			}
			if n := s.calls.Load(); n != tt.arrive {
				t.Errorf("%d requests arrived, want %d", n, tt.arrive)
			}
			if got, err := s.send(t, "k"); got != answered || s.calls.Load() != tt.arrive+1 {
				t.Errorf("the retry must get through: %q, %v", got, err)
			}
			if got := words(s.tally); !strings.Contains(got, tt.timeline) || !strings.Contains(got, "request again, try 2") {
				t.Errorf("the timeline is %q, want %q in it", got, tt.timeline)
			}
		})
	}
}

func words(t *tally) string {
	var b strings.Builder
	for _, s := range t.newest() {
		for _, m := range s.timeline {
			b.WriteString(m.What + "; ")
		}
	}
	return b.String()
}

func TestChaosPassesReadsAndTellsOfAServerThatIsDown(t *testing.T) {
	t.Parallel()
	s := openStreet(t)
	s.faults.set(Switches{LoseRequest: true, LoseReply: true})
	in, err := s.front.Client().Get(s.front.URL + "/bank/accounts/alice")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(in.Body)
	in.Body.Close()
	if string(body) != "GET /accounts/alice " {
		t.Errorf("a read gives %q", body)
	}
	s.faults.set(Switches{})
	s.down.Store(true)
	if got, err := s.send(t, "k"); err != nil || !strings.HasPrefix(got, "502 ") {
		t.Errorf("a server that is down gives %q, %v", got, err)
	}
	if requests, _, _ := s.tally.totals(); requests != 0 {
		t.Errorf("%d requests are counted that nobody got", requests)
	}
}

func TestTallyKeepsTheNewest(t *testing.T) {
	t.Parallel()
	tally := newTally(func() {})
	for i := range kept + 10 {
		what := intention{principal: Visitor, name: "withdraw", key: fmt.Sprint(i)}
		tally.arrived(what)
		tally.sent(what)
		tally.answered(what, 200, i%2 == 1)
	}
	stories := tally.newest()
	if len(stories) != kept || stories[0].key != fmt.Sprint(kept+9) || stories[kept-1].key != "10" {
		t.Errorf("%d stories are kept, from %s to %s", len(stories), stories[0].key, stories[len(stories)-1].key)
	}
	requests, replays, _ := tally.totals()
	if requests != kept+10 || replays != (kept+10)/2 || len(tally.acknowledged()) != kept {
		t.Errorf("%d requests, %d replays, %d acknowledged", requests, replays, len(tally.acknowledged()))
	}
}

// TestNaiveDoubles is the guard that the twin does what it is there to show.
func TestNaiveDoubles(t *testing.T) {
	t.Parallel()
	twin, err := openNaive(t.Context(), filepath.Join(t.TempDir(), "naive ?#%.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer twin.db.Close()
	if err := twin.open(t.Context(), account, 1000); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		key, body string
		status    int
	}{
		{"a", `{"cents":100}`, 200}, {"a", `{"cents":100}`, 200}, {"b", `{"cents":100}`, 200}, {"a", `{"cents":50}`, 200},
		{"c", `{"cents":1000}`, 409}, {"d", `{"cents":-1}`, 400}, {"d", `nonsense`, 400},
	} {
		w := httptest.NewRecorder()
		twin.handler().ServeHTTP(w, httptest.NewRequest("PUT", "/accounts/alice/withdrawals/"+tt.key, strings.NewReader(tt.body)))
		if w.Code != tt.status {
			t.Errorf("%s %s: %d %s, want %d", tt.key, tt.body, w.Code, w.Body, tt.status)
		}
	}
	s, err := twin.state(t.Context(), account)
	if err != nil {
		t.Fatal(err)
	}
	if s.Balance != 650 || s.Effects != 4 || s.DoubleEffects != 2 || s.Entries[0].DuplicateOf != 1 || s.Entries[1].DuplicateOf != 0 {
		t.Errorf("the twin's state is %+v", s)
	}
	if lost, err := twin.missing(t.Context(), []string{"a", "b", "never"}); lost != 1 || err != nil {
		t.Errorf("%d are missing, %v; want 1", lost, err)
	}
}

// TestSceneIsJudged: a scene without faults fails as one with violations does.
func TestSceneIsJudged(t *testing.T) {
	t.Parallel()
	good := taking{protected: counts{Replays: 5}, naive: counts{DoubleEffects: 6}, repliesLost: 1, naiveRepliesLost: 1}
	if err := good.check(); err != nil {
		t.Errorf("a good scene: %v", err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(*taking)
		want  string
	}{
		{"doubled", func(t *taking) { t.protected.DoubleEffects = 1 }, "1 double effect and"},
		{"lost", func(t *taking) { t.protected.Lost = 2 }, "lost 2"},
		{"nothing doubled", func(t *taking) { t.naive.DoubleEffects = 0 }, "did not really happen"},
		{"no reply lost", func(t *taking) { t.repliesLost = 0 }, "did not really happen"},
		{"no naive reply lost", func(t *taking) { t.naiveRepliesLost = 0 }, "did not really happen"},
		{"no replay", func(t *taking) { t.protected.Replays = 0 }, "did not really happen"},
	} {
		bad := good
		tt.spoil(&bad)
		if err := bad.check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestMergeShowsWhatTheWorkerNeverHeardOf(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	known := intention{principal: Visitor, name: "withdraw", key: "known", cents: 5}
	lost := intention{principal: Visitor, name: "withdraw", key: "lost", cents: 7}
	ops := merge(
		[]operation{{ID: known.id(), Key: "known", State: semel.Completed, AcceptedAt: at, DoneAt: at}},
		[]story{
			{intention: known, replays: 2, timeline: []moment{{at.Add(-time.Second), "request"}, {at.Add(time.Second), "answered"}}},
			{intention: lost, began: at.Add(time.Minute), timeline: []moment{{at, "request lost"}}},
		})
	if len(ops) != 2 || ops[0].Key != "lost" || ops[0].State != "unknown" || ops[1].Replays != 2 {
		t.Fatalf("merged: %+v", ops)
	}
	var got []string
	for _, m := range ops[1].Timeline {
		got = append(got, m.What)
	}
	if strings.Join(got, ", ") != "request, accepted, completed, answered" {
		t.Errorf("the timeline is %q", got)
	}
}

// TestBellCoalesces: many changes at once are one word, and one that comes
// while the page is not to be disturbed is said afterwards.
func TestBellCoalesces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell()
		read, write := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			b.stream(&pipeWriter{write, http.Header{}}, httptest.NewRequest("GET", "/demo/events", nil).WithContext(ctx))
			write.Close()
		}()
		lines := bufio.NewScanner(read)
		began := time.Now()
		next := func() time.Duration {
			for lines.Scan() {
				if lines.Text() == "event: changed" {
					return time.Since(began)
				}
			}
			t.Fatal("the stream ended")
			return 0
		}
		if at := next(); at != 0 {
			t.Errorf("the first word came after %v", at)
		}
		for range 50 {
			b.ring()
		}
		if at := next(); at != quiet {
			t.Errorf("the second word came after %v, want %v", at, quiet)
		}
		cancel()
		go io.Copy(io.Discard, read) //nolint:errcheck // the end is what is waited for
		<-gone
	})
}

// pipeWriter is a response that is read while it is written.
type pipeWriter struct {
	io.Writer
	header http.Header
}

func (p *pipeWriter) Header() http.Header { return p.header }
func (p *pipeWriter) WriteHeader(int)     {}
func (p *pipeWriter) Flush()              {}

func TestMoney(t *testing.T) {
	t.Parallel()
	for cents, want := range map[int64]string{0: "0.00", 5: "0.05", 123456: "1,234.56", -2500: "-25.00", 100_000_000_000: "1,000,000,000.00"} {
		if got := money(cents); got != want {
			t.Errorf("%d cents are %q, want %q", cents, got, want)
		}
	}
}
