package gateway_test

import (
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

func TestBoundRoute(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.gateway.Bind("PUT /accounts/{account}/deposits/{key}", "deposit")
	b.gateway.Bind("POST /accounts/{account}/deposits", "deposit")
	const path = "/accounts/al%2Fice/deposits"
	first := b.do("alice", "PUT", path+"/k1", `{"cents": 5}`)
	if first.status != 201 || first.body != `{"balance":5}` || first.header.Get("X-Resource") != "accounts/al/ice" {
		t.Errorf("got %d %s %v", first.status, first.body, first.header)
	}
	// The route is a way to the command, not a command of its own.
	sameAnswer(t, first, b.do("alice", "POST", path, `{"cents": 5}`, "Idempotency-Key: k1"))
	sameAnswer(t, first, b.do("alice", "PUT", "/commands/deposit/k1", `{"cents":5,"account":"al/ice"}`))
	if cents := b.balance("al/ice"); cents != 5 {
		t.Errorf("the balance is %d", cents)
	}
	for _, tt := range []struct {
		name    string
		request []string
		status  int
		slug    string
	}{
		{"no key", []string{"POST", path, `{"cents":5}`}, 400, "idempotency-key-missing"},
		{"other key", []string{"PUT", path + "/k2", `{"cents":5}`, "Idempotency-Key: k3"}, 400, "idempotency-key-invalid"},
		{"member of the path", []string{"PUT", path + "/k2", `{"cents":5,"account":"bob"}`}, 400, "invalid-command"},
		{"the same in capitals", []string{"PUT", path + "/k2", `{"cents":5,"ACCOUNT":"bob"}`}, 400, "invalid-command"},
		{"not an object", []string{"PUT", path + "/k2", `5`}, 400, "malformed-body"},
		{"malformed", []string{"PUT", path + "/k2", `{"cents":5,}`}, 400, "malformed-body"},
		{"nothing but the path", []string{"PUT", path + "/k2", ""}, 400, "invalid-command"},
		{"another amount", []string{"PUT", path + "/k1", `{"cents":6}`}, 422, "idempotency-key-reused"},
		{"another account", []string{"PUT", "/accounts/bob/deposits/k1", `{"cents":5}`}, 422, "idempotency-key-reused"},
		{"control character", []string{"PUT", "/accounts/a%0Ab/deposits/k2", `{"cents":5}`}, 400, "invalid-command"},
		{"wrong method", []string{"GET", path, ""}, 405, "method-not-allowed"},
	} {
		a := b.do("alice", tt.request[0], tt.request[1], tt.request[2], tt.request[3:]...)
		if slug, _ := a.problem(); a.status != tt.status || slug != tt.slug {
			t.Errorf("%s: got %d %s, want %d %s", tt.name, a.status, a.body, tt.status, tt.slug)
		}
	}
	b.revoked.Store("alice", true)
	if a := b.do("alice", "PUT", path+"/k1", `{"cents": 5}`); a.status != 403 {
		t.Errorf("after the right was withdrawn: %d %s", a.status, a.body)
	}
}

func TestBoundRouteFillsTheCorrelation(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.gateway.Bind("PUT /gates/{Gate}/holds/{key}", "hold")
	a := b.do("alice", "PUT", "/gates/g/holds/k", "", "Prefer: respond-async")
	id, err := semel.ParseID(a.operation(t).ID)
	if err != nil {
		t.Fatal(err)
	}
	op, err := b.engine.Operation(t.Context(), "", "alice", id)
	if err != nil {
		t.Fatal(err)
	}
	c, err := op.DecodeCorrelation()
	if err != nil || c.Resource != "Gate" || c.ResourceID != "g" || c.Origin != "/gates/g/holds/k" {
		t.Errorf("the correlation is %+v, %v", c, err)
	}
	b.release("g")
}

func TestBindPanics(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	g := gateway.New(b.engine, &gateway.Options{Authenticate: authenticate})
	for _, tt := range []struct{ pattern, command string }{
		{"PUT /a/{key}", "no-such-command"},
		{"/a/{key}", "deposit"},
		{"GET /a/{key}", "deposit"},
		{"PUT /a/{key}/", "deposit"},
		{"PUT /commands/{name}/{key}", "deposit"}, // is there already
		{"PUT /a/{key", "deposit"},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Bind took %q, %q", tt.pattern, tt.command)
				}
			}()
			g.Bind(tt.pattern, tt.command)
		}()
	}
}
