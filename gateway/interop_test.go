package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

// curl runs the real one and returns what it prints.
func curl(t *testing.T, arguments ...string) string {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("curl is not installed, and CI has to have it")
		}
		t.Skip("curl is not installed: that it gets along with the gateway is not tested here")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var stderr strings.Builder
	command := exec.CommandContext(ctx, path, append([]string{"--silent", "--show-error", "--noproxy", "*"}, arguments...)...)
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil && len(out) == 0 {
		t.Fatalf("curl %q: %v\n%s", arguments, err, &stderr)
	}
	return string(out)
}

func TestCurl(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const alice, body = "Authorization: Bearer alice", `{"account":"a","cents":5}`
	send := func(arguments ...string) string {
		t.Helper()
		return curl(t, append([]string{"--write-out", "\n%{http_code} %header{idempotent-replayed}", "--header", alice, "--json", body}, arguments...)...)
	}
	post, first := b.url+"/commands/deposit", "{\"balance\":5}\n201 "
	if got := send("--header", "Idempotency-Key: KG5LxwFBepaKHyUD", post); got != first {
		t.Fatalf("a bare key: %q", got)
	}
	for name, got := range map[string]string{
		"quoted key":      send("--header", `Idempotency-Key: "KG5LxwFBepaKHyUD"`, post),
		"key in the path": send("--request", "PUT", post+"/KG5LxwFBepaKHyUD"),
		"OASIS":           send("--header", "Repeatability-Request-ID: KG5LxwFBepaKHyUD", "--header", imf(0), post),
		"with retries":    send("--retry", "3", "--retry-all-errors", "--header", "Idempotency-Key: KG5LxwFBepaKHyUD", post),
		"Expect":          send("--header", "Expect: 100-continue", "--header", "Idempotency-Key: KG5LxwFBepaKHyUD", post),
		"HTTP/1.0":        send("--http1.0", "--header", "Idempotency-Key: KG5LxwFBepaKHyUD", post),
		"chunked":         send("--header", "Transfer-Encoding: chunked", "--header", "Idempotency-Key: KG5LxwFBepaKHyUD", post),
	} {
		if got != first+"true" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if cents := b.balance("a"); cents != 5 {
		t.Errorf("the balance is %d", cents)
	}
	stream := curl(t, "--no-buffer", "--max-time", "1", "--header", alice, "--header", "Last-Event-ID: 0", b.url+"/operations/events")
	if !strings.Contains(stream, "event: ready\n") || !strings.Contains(stream, "event: operation.completed\nid: ") {
		t.Errorf("the stream is %q", stream)
	}
	if refused := curl(t, "--header", alice, b.url+"/operations/socket"); !strings.Contains(refused, "upgrade-required") {
		t.Errorf("the socket says %q", refused)
	}
}

// TestTransportThatRetriesByItself: Go's own transport sends a request again
// that has an Idempotency-Key, if a connection that it has used before ends
// without an answer. Nobody is asked, so the server has to see it.
func TestTransportThatRetriesByItself(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	var arrived atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/commands/deposit" || arrived.Add(1) > 1 {
			b.gateway.ServeHTTP(w, r)
			return
		}
		// The effect takes place, and the answer is lost with the connection.
		b.gateway.ServeHTTP(httptest.NewRecorder(), r)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	}))
	t.Cleanup(server.Close)
	b.do("alice", "GET", server.URL+"/operations", "") // a connection to use again
	a := b.do("alice", "POST", server.URL+"/commands/deposit", `{"account":"a","cents":5}`, "Idempotency-Key: k")
	if a.status != 201 || a.header.Get("Idempotent-Replayed") != "true" || a.body != `{"balance":5}` {
		t.Errorf("got %d %s %v", a.status, a.body, a.header)
	}
	if n, calls, cents := arrived.Load(), b.calls.Load(), b.balance("a"); n != 2 || calls != 1 || cents != 5 {
		t.Errorf("it was sent %d times, ran %d times, and the balance is %d", n, calls, cents)
	}
}

// TestTenantBacklog: who sends more than is taken is told to wait, and nobody
// else is.
func TestTenantBacklog(t *testing.T) {
	t.Parallel()
	const most = 3
	b := open(t, func(_ *gateway.Options, o *semel.Options) { o.TenantBacklog = most })
	send := func(who string, key int) answer {
		return b.do(who, "PUT", "/commands/hold/"+strconv.Itoa(key), fmt.Sprintf(`{"Gate":%q}`, who), "Prefer: respond-async")
	}
	var refused answer
	taken := 0
	for refused.status == 0 {
		if a := send("north/alice", taken); a.status == 202 {
			taken++
		} else {
			refused = a
		}
		if taken > 10*most {
			t.Fatalf("%d were taken", taken)
		}
	}
	slug, _ := refused.problem()
	if refused.status != 503 || slug != "overloaded" || refused.header.Get("Retry-After") == "" || taken < most {
		t.Errorf("after %d: %d %s %v", taken, refused.status, refused.body, refused.header)
	}
	if a := send("south/bob", 0); a.status != 202 {
		t.Errorf("another tenant got %d %s", a.status, a.body)
	}
	if got := len(b.list("north/alice", "")); got != taken {
		t.Errorf("%d were taken and %d are there", taken, got)
	}
	b.release("north/alice")
	b.release("south/bob")
	eventually(t, "there is room again, for the same key", func() bool { return send("north/alice", taken).status == 202 })
}
