package bank_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/semel-dev/semel/examples/bank"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	b := openBranch(t)
	for i, tt := range []struct {
		method, path, body string
		status             int
		want               string // in the answer
	}{
		{"PUT", "/commands/open/1", `{"account":"alice"}`, 201, `{"balance":0}`},
		{"PUT", "/commands/open/2", `{"account":"alice"}`, 409, `"code":"account_exists"`},
		{"PUT", "/commands/open/3", `{"account":"bob"}`, 201, `{"balance":0}`},
		{"PUT", "/commands/open/4", `{"account":"a/b"}`, 400, `account is \"a/b\"`},
		{"PUT", "/accounts/alice/deposits/5", `{"cents":1000}`, 200, `{"balance":1000}`},
		{"PUT", "/accounts/alice/deposits/6", `{"cents":0}`, 400, `cents is 0`},
		{"PUT", "/accounts/alice/deposits/7", `{"cents":1000000000000}`, 400, `it takes 1 to 100000000000`},
		{"PUT", "/accounts/carol/deposits/8", `{"cents":1}`, 409, `"code":"unknown_account"`},
		{"PUT", "/accounts/alice/withdrawals/9", `{"cents":300}`, 200, `{"balance":700}`},
		{"PUT", "/accounts/alice/withdrawals/10", `{"cents":701}`, 409, `"code":"insufficient_funds"`},
		{"PUT", "/accounts/alice/withdrawals/11", `{"cents":-1}`, 400, `cents is -1`},
		{"PUT", "/accounts/carol/withdrawals/12", `{"cents":1}`, 409, `"code":"unknown_account"`},
		{"PUT", "/commands/transfer/13", `{"from":"alice","to":"bob","cents":200}`, 200, `{"balance":500}`},
		{"PUT", "/commands/transfer/14", `{"from":"bob","to":"alice","cents":201}`, 409, `"code":"insufficient_funds"`},
		{"PUT", "/commands/transfer/15", `{"from":"alice","to":"carol","cents":1}`, 409, `"code":"unknown_account"`},
		{"PUT", "/commands/transfer/16", `{"from":"alice","to":"alice","cents":1}`, 400, `takes two accounts`},
		{"PUT", "/accounts/alice/withdrawals/9", `{"cents":300}`, 200, `{"balance":700}`},
		{"PUT", "/accounts/alice/withdrawals/9", `{"cents":301}`, 422, `idempotency-key-reused`},
		{"GET", "/accounts/carol", "", 404, `there is no account`},
	} {
		status, answer := b.ask(tt.method, tt.path, tt.body)
		if status != tt.status || !strings.Contains(answer, tt.want) {
			t.Errorf("%d: %s %s %s: %d %s; want %d with %s", i+1, tt.method, tt.path, tt.body, status, answer, tt.status, tt.want)
		}
	}
	b.sound(t)
}

// sound fails the test if the books are not in order.
func (b *branch) sound(t *testing.T) {
	t.Helper()
	problems, err := bank.Verify(t.Context(), b.store.Reader())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

func TestStatementIsReadableWithTheAnswer(t *testing.T) {
	t.Parallel()
	b := openBranch(t)
	b.fund(t, "1000", "alice", "bob")
	b.must(t, "PUT", "/accounts/alice/withdrawals/w", `{"cents":100}`)
	b.must(t, "PUT", "/commands/transfer/t", `{"from":"alice","to":"bob","cents":250}`)

	for account, want := range map[string][]string{
		"alice": {"transfer -250 650", "withdraw -100 900", "deposit 1000 1000", "open 0 0"},
		"bob":   {"transfer 250 1250", "deposit 1000 1000", "open 0 0"},
	} {
		var s bank.Statement
		if err := json.Unmarshal([]byte(b.must(t, "GET", "/accounts/"+account, "")), &s); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range s.Entries {
			got = append(got, fmt.Sprintf("%s %d %d", e.Command, e.Cents, e.Balance))
		}
		if strings.Join(got, "; ") != strings.Join(want, "; ") {
			t.Errorf("the statement of %s is %q, want %q", account, got, want)
		}
		if s.Account != account || s.Balance != s.Entries[0].Balance {
			t.Errorf("the statement of %s is headed %s with %d", account, s.Account, s.Balance)
		}
	}
}

func TestStatementShowsTheNewestHundred(t *testing.T) {
	t.Parallel()
	b := openBranch(t)
	b.fund(t, "1000", "alice")
	for i := range 105 {
		b.must(t, "PUT", fmt.Sprintf("/accounts/alice/withdrawals/%d", i), `{"cents":1}`)
	}
	var s bank.Statement
	if err := json.Unmarshal([]byte(b.must(t, "GET", "/accounts/alice", "")), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Entries) != 100 || s.Balance != 895 || s.Entries[99].Balance != 994 {
		t.Errorf("%d entries from %+v to %+v", len(s.Entries), s.Entries[0], s.Entries[len(s.Entries)-1])
	}
}

func TestDailyTotals(t *testing.T) {
	t.Parallel()
	b := openBranch(t)
	b.fund(t, "1000", "alice")
	for i := range 3 {
		b.must(t, "PUT", fmt.Sprintf("/accounts/alice/withdrawals/%d", i), `{"cents":10}`)
	}
	// The projection is optional: a rebuild reads the whole log, and says when
	// it has.
	if err := b.engine.Rebuild(t.Context(), "daily", nil); err != nil {
		t.Fatal(err)
	}
	var number, cents int64
	err := b.store.Reader().QueryRowContext(t.Context(),
		`SELECT sum(number), sum(cents) FROM daily WHERE event = 'withdrawn'`).Scan(&number, &cents)
	if err != nil || number != 3 || cents != 30 {
		t.Errorf("withdrawn: %d times, %d cents, %v; want 3 and 30", number, cents, err)
	}
}

func TestWithoutAName(t *testing.T) {
	t.Parallel()
	b := openBranch(t)
	for _, header := range []string{"", "Bearer ", "Basic bWU6bWU="} {
		for _, target := range []string{"PUT /accounts/alice/withdrawals/1", "GET /accounts/alice", "GET /operations"} {
			method, path, _ := strings.Cut(target, " ")
			r := httptest.NewRequest(method, path, nil)
			r.Header.Set("Authorization", header)
			w := httptest.NewRecorder()
			b.routes.ServeHTTP(w, r)
			if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %q: %d, WWW-Authenticate %q", target, header, w.Code, w.Header().Get("WWW-Authenticate"))
			}
		}
	}
}

// TestManyAtOnce moves money around between a few accounts, every request
// twice at once, and then counts it.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := openBranch(t)
	accounts := []string{"a", "b", "c"}
	b.fund(t, "10000", accounts...)
	var all sync.WaitGroup
	for i := range 60 {
		from, to := accounts[i%3], accounts[(i+1)%3]
		for range 2 {
			all.Go(func() {
				body := fmt.Sprintf(`{"from":%q,"to":%q,"cents":%d}`, from, to, i+1)
				if status, answer := b.ask("PUT", fmt.Sprintf("/commands/transfer/%d", i), body); status != 200 {
					t.Errorf("transfer %d: %d %s", i, status, answer)
				}
			})
		}
	}
	all.Wait()
	var rows, sum int64
	err := b.store.Reader().QueryRowContext(t.Context(), `SELECT count(*), sum(cents) FROM ledger`).Scan(&rows, &sum)
	if err != nil || rows != 3+120 || sum != 30000 {
		t.Errorf("the ledger has %d rows that add up to %d, %v; want 123 and 30000", rows, sum, err)
	}
	b.sound(t)
}
