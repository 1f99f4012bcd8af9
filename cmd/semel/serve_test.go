package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serveDrains: a request whose body is still on its way when the signal comes
// is answered; a later one is told to come again; then the server ends with 0.
func serveDrains(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "bank.db")
	p := serveBank(t, data)
	p.fund(t)
	p.must(t, "GET", "/livez", "")

	slow, err := net.Dial("tcp", strings.TrimPrefix(p.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if err := slow.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	const body = `{"cents":500}`
	fmt.Fprintf(slow, "PUT /accounts/alice/withdrawals/slow HTTP/1.1\r\nHost: bank\r\nAuthorization: Bearer visitor\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(body))
	answers := bufio.NewReader(slow)
	// "100 Continue" is sent when the body is asked for: the request is inside.
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("want 100 Continue, got %q, %v", line, err)
	}
	if _, err := answers.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, "it is no longer ready", func() bool { status, _ := p.ask("GET", "/readyz", ""); return status == 503 })
	if status, answer := p.ask("PUT", "/accounts/alice/withdrawals/late", `{"cents":1}`); status != 503 {
		t.Errorf("a request after the signal: %d %s; want 503", status, answer)
	}
	if _, err := io.WriteString(slow, body); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatalf("the request that was inside got no answer: %v", err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != 200 || string(text) != `{"balance":7000}` {
		t.Errorf("the request that was inside: %d %s", answer.StatusCode, text)
	}
	if code := p.end(t); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	if code, out, errs := execute(t, "verify", "--drained", data); code != exitOK {
		t.Errorf("verify: %d\n%s%s", code, out, errs)
	}
}

// serveComesBack: after a kill the same key gets the same bytes, and a stream
// that is being read does not keep the server from ending.
func serveComesBack(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "bank.db")
	p := serveBank(t, data)
	p.fund(t)
	first := p.must(t, "PUT", "/accounts/alice/withdrawals/again", `{"cents":1000}`)
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.end(t)
	p = serveBank(t, data)
	if second := p.must(t, "PUT", "/accounts/alice/withdrawals/again", `{"cents":1000}`); second != first {
		t.Errorf("after the kill the answer is %s, before it was %s", second, first)
	}
	r, err := http.NewRequest("GET", p.base+"/operations/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer visitor")
	stream, err := visitor.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	began := time.Now()
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.end(t); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	if took := time.Since(began); took > grace/2 {
		t.Errorf("it took %v to end: the stream held it up", took)
	}
}

func serveRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := serveBank(t, filepath.Join(dir, "bank.db"))
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"serve", "--addr", "127.0.0.1:0", "--data", filepath.Join(dir, "bank.db")}, "bank.db"},
		{[]string{"serve", "--addr", strings.TrimPrefix(p.base, "http://"), "--data", filepath.Join(dir, "other.db")}, "address already in use"},
		{[]string{"serve", "--addr", "127.0.0.1:0", "--data", filepath.Join(dir, "no", "such", "dir.db")}, "dir"},
	} {
		if code, _, errs := execute(t, tt.args...); code != exitFailed || !strings.Contains(errs, tt.want) {
			t.Errorf("semel %s: %d %s; want 1 and %q", strings.Join(tt.args, " "), code, errs, tt.want)
		}
	}
}
