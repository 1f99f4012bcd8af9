package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

func TestAuthenticateIsRequired(t *testing.T) {
	t.Parallel()
	for _, o := range []*gateway.Options{nil, {}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New took %v", o)
				}
			}()
			gateway.New(nil, o)
		}()
	}
}

func TestUnauthorized(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for _, request := range []string{
		"POST /commands/deposit", "PUT /commands/deposit/k", "GET /operations", "GET /operations/x",
		"GET /operations/x/events", "GET /operations/events",
	} {
		method, path, _ := strings.Cut(request, " ")
		a := b.do("", method, path, "")
		if slug, detail := a.problem(); a.status != 401 || slug != "unauthorized" || a.header.Get("WWW-Authenticate") != `Bearer realm="bank"` ||
			strings.Contains(detail, "token") {
			t.Errorf("%s: got %d %s %v", request, a.status, a.body, a.header)
		}
	}
}

func TestIdentityErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		who    gateway.Identity
		err    error
		status int
	}{
		{"no challenge", gateway.Identity{}, errors.New("no"), 401},
		{"the directory is away", gateway.Identity{}, fmt.Errorf("directory: %w", semel.ErrUnavailable), 503},
		{"nobody", gateway.Identity{Tenant: "t"}, nil, 503},
	} {
		b := open(t, func(o *gateway.Options, _ *semel.Options) {
			o.Authenticate = func(*http.Request) (gateway.Identity, error) { return tt.who, tt.err }
		})
		a := b.do("", "PUT", "/commands/refuse/k", "")
		if a.status != tt.status || a.header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s: got %d %s", tt.name, a.status, a.body)
		}
	}
}

func TestReplayIsAuthorizedAgain(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const body = `{"account":"a","cents":1}`
	if a := b.do("alice", "PUT", "/commands/deposit/k", body); a.status != 201 {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	b.revoked.Store("alice", true)
	a := b.do("alice", "PUT", "/commands/deposit/k", body)
	if slug, _ := a.problem(); a.status != 403 || slug != "forbidden" || strings.Contains(a.body, "balance") {
		t.Errorf("the repeat got %d %s", a.status, a.body)
	}
	b.revoked.Delete("alice")
	if a := b.do("alice", "PUT", "/commands/deposit/k", body); a.status != 201 || a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("allowed again: %d %s", a.status, a.body)
	}
}

// TestOthersDoNotExist tries at random whatever one caller may do with what
// belongs to another, of the same tenant or not.
func TestOthersDoNotExist(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	callers := []string{"alice", "bob", "north/alice", "south/alice"}
	own := map[string][]string{} // ids by caller
	random := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		who, other := callers[random.IntN(len(callers))], callers[random.IntN(len(callers))]
		switch random.IntN(3) {
		case 0: // the same key is another one for each caller
			key := fmt.Sprintf("k%d", random.IntN(5))
			a := b.do(who, "PUT", "/commands/deposit/"+key, fmt.Sprintf(`{"account":%q,"cents":1}`, who))
			id := strings.TrimPrefix(a.header.Get("X-Operation"), "operations/")
			known := slices.Contains(own[who], id)
			if replayed := a.header.Get("Idempotent-Replayed") == "true"; a.status >= 300 || replayed != known {
				t.Fatalf("%s sends %s: %d %s, replayed %v, known %v", who, key, a.status, a.body, replayed, known)
			}
			if !known {
				own[who] = append(own[who], id)
			}
		case 1: // reading by id
			if len(own[other]) == 0 {
				continue
			}
			path := "/operations/" + own[other][random.IntN(len(own[other]))]
			want := 404
			if who == other {
				want = 200
			}
			for _, path := range []string{path, path + "/events"} {
				if a := b.do(who, "GET", path, "", "Prefer: wait=5"); a.status != want {
					t.Fatalf("%s reads %s of %s: %d %s, want %d", who, path, other, a.status, a.body, want)
				}
			}
		case 2: // listing
			if got := b.list(who, ""); !slices.Equal(sorted(got), sorted(own[who])) {
				t.Fatalf("%s sees %v, owns %v", who, got, own[who])
			}
		}
	}
	for _, who := range callers { // streaming from the beginning
		stream := b.stream(who, "/operations/events?after=0")
		for range own[who] {
			var op operation
			e := stream.must()
			for e.name == "ready" {
				e = stream.must()
			}
			if json.Unmarshal([]byte(e.data), &op); !slices.Contains(own[who], op.ID) {
				t.Errorf("%s is sent %s, owns %v", who, e.data, own[who])
			}
		}
		stream.close()
	}
}

func sorted(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return ids
}

// list reads all pages and returns the ids in order.
func (b *bank) list(who, query string) (ids []string) {
	b.t.Helper()
	page := ""
	for {
		a := b.do(who, "GET", "/operations?"+query+page, "")
		var p struct {
			Operations []operation
			Next       string
		}
		if err := json.Unmarshal([]byte(a.body), &p); a.status != 200 || err != nil {
			b.t.Fatalf("listing: %d %s", a.status, a.body)
		}
		for _, op := range p.Operations {
			ids = append(ids, op.ID)
		}
		if p.Next == "" {
			return ids
		}
		page = "&page=" + p.Next
	}
}

func TestListing(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	send := func(command, key, body string) string {
		return b.do("alice", "PUT", "/commands/"+command+"/"+key, body, "Prefer: wait=0").operation(t).ID
	}
	done := func(command, key, body string) string {
		a := b.do("alice", "PUT", "/commands/"+command+"/"+key, body, "Prefer: wait=20")
		return strings.TrimPrefix(a.header.Get("X-Operation"), "operations/")
	}
	d1 := done("deposit", "1", `{"account":"a","cents":1}`)
	h1 := send("hold", "1", `{"Gate":"g"}`)
	r1 := done("refuse", "1", "")
	h2 := send("hold", "2", `{"Gate":"g"}`)
	d2 := done("deposit", "2", `{"account":"a","cents":1}`)
	f1 := done("break", "1", "")
	for _, tt := range []struct {
		query string
		want  []string
	}{
		{"", []string{h2, h1, f1, d2, r1, d1}},
		{"limit=1", []string{h2, h1, f1, d2, r1, d1}},
		{"limit=2", []string{h2, h1, f1, d2, r1, d1}},
		{"limit=4", []string{h2, h1, f1, d2, r1, d1}},
		{"name=deposit", []string{d2, d1}},
		{"name=hold&limit=1", []string{h2, h1}},
		{"state=completed", []string{d2, d1}},
		{"state=rejected", []string{r1}},
		{"state=failed", []string{f1}},
		{"state=accepted", []string{h2}},
		{"state=canceled", nil},
		{"state=completed&name=refuse", nil},
	} {
		if tt.query == "state=accepted" { // the first one has to be claimed
			eventually(t, "the first hold runs", func() bool { return len(b.list("alice", "state=running")) == 1 })
		}
		if got := b.list("alice", tt.query); !slices.Equal(got, tt.want) {
			t.Errorf("?%s lists %v, want %v", tt.query, got, tt.want)
		}
	}
	b.release("g")
	eventually(t, "nothing is open", func() bool { return len(b.list("alice", "state=completed")) == 4 })
}
