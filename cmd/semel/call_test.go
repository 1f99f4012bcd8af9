package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// call runs "semel call" as the visitor.
func call(t *testing.T, server string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return execute(t, append([]string{"call", "--server", server, "--token", "visitor"}, args...)...)
}

// callCodes checks what a script goes by: exit codes, standard output, and
// that a repeat under the same key changes nothing.
func callCodes(t *testing.T) {
	t.Parallel()
	p := serveBank(t, filepath.Join(t.TempDir(), "bank.db"))
	p.fund(t)
	body := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(body, []byte(`{"account":"alice","cents":100}`), 0o600); err != nil {
		t.Fatal(err)
	}
	withdraw := `{"account":"alice","cents":100}`
	for _, tt := range []struct {
		args []string
		code int
		out  string // all of it
		errs string // in it
	}{
		{[]string{"withdraw", withdraw, "--key", "c1"}, exitOK, "{\"balance\":7400}\n", "withdraw: completed"},
		{[]string{"withdraw", "@" + body, "--key", "c1"}, exitOK, "{\"balance\":7400}\n", "completed, replayed"},
		{[]string{"PUT", "/accounts/alice/withdrawals/{key}", `{"cents":100}`, "-H", "X-Reason: rent"}, exitOK, "{\"balance\":7300}\n", "key "},
		{[]string{"withdraw", `{"account":"alice","cents":1}`, "--key", "c1"}, exitConflict, "", "idempotency-key-reused"},
		{[]string{"withdraw", `{"account":"alice","cents":999999}`}, exitRejected, "", "(insufficient_funds)"},
		{[]string{"withdraw", `{"account":"alice","cents":999999}`, "-o", "json", "--key", "c2"}, exitRejected, "", "rejected"},
		{[]string{"nothing"}, exitFailed, "", "unknown-command"},
		{[]string{"withdraw", withdraw, "--server", "http://127.0.0.1:1", "--wait", "300ms", "--key", "c3"}, exitFailed, "", "key c3: dial tcp 127.0.0.1:1"},
		{nil, exitUsage, "", "a command is missing"},
		{[]string{"GET", "/x"}, exitUsage, "", "use curl"},
		{[]string{"PUT", "x"}, exitUsage, "", "path that begins with /"},
		{[]string{"withdraw", "cents=1"}, exitUsage, "", "not JSON"},
		{[]string{"withdraw", withdraw, "more"}, exitUsage, "", "more"},
		{[]string{"withdraw", "-H", "nonsense"}, exitUsage, "", "Name: value"},
		{[]string{"withdraw", "-o", "xml"}, exitUsage, "", "text or json"},
		{[]string{"--list"}, exitUsage, "", "--queue FILE"},
		{[]string{"--list", "--drain", "--queue", body}, exitUsage, "", "exclude each other"},
		{[]string{"withdraw", "--list", "--queue", body}, exitUsage, "", "nothing is sent"},
		{[]string{"--list", "--queue", "/no/such/file"}, exitFailed, "", "no such file"},
		{[]string{"--list", "--queue", body}, exitFailed, "", "not a pending file"},
	} {
		code, out, errs := call(t, p.base, tt.args...)
		if code != tt.code || tt.out != "" && out != tt.out || !strings.Contains(errs, tt.errs) || strings.Contains(errs, "visitor") {
			t.Errorf("semel call %q: %d %q %q; want %d %q %q", tt.args, code, out, errs, tt.code, tt.out, tt.errs)
		}
		if len(tt.args) > 3 && tt.args[2] == "-o" {
			var r result
			if err := json.Unmarshal([]byte(out), &r); err != nil || r.State != "rejected" || r.Code != "insufficient_funds" || r.Key != "c2" || r.Operation == "" {
				t.Errorf("printed %s: %+v, %v", out, r, err)
			}
		}
	}
	piped := exec.CommandContext(t.Context(), binary, "call", "withdraw", "-")
	piped.Env = append(os.Environ(), "SEMEL_SERVER="+p.base, "SEMEL_TOKEN=visitor")
	piped.Stdin = strings.NewReader(withdraw)
	if out, err := piped.Output(); err != nil || string(out) != "{\"balance\":7200}\n" {
		t.Errorf("from standard input: %s, %v", out, err)
	}
}

// callQueue sends while there is no server, and drains when there is.
func callQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	queue, data := filepath.Join(dir, "queue"), filepath.Join(dir, "bank.db")
	p := serveBank(t, data)
	p.fund(t)
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.end(t)
	// Several at a time have to take turns.
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			code, out, errs := call(t, p.base, "withdraw", `{"account":"alice","cents":1}`, "--queue", queue, "--key", fmt.Sprint("k", i), "--async")
			if code != exitOpen || out != "" || !strings.Contains(errs, "pending") {
				t.Errorf("offline: %d %q %q", code, out, errs)
			}
		})
	}
	all.Wait()
	for _, tt := range []struct {
		args string
		code int
		out  string
	}{
		{"withdraw {\"account\":\"alice\",\"cents\":999999} --key no --wait 300ms", exitOpen, ""},
		{"--cancel k3", exitOK, ""},
		{"--cancel k3", exitOK, ""},
		{"--cancel k9", exitFailed, ""},
		{"--list", exitOK, "canceled"},
		{"--forget k0", exitFailed, ""},
		{"--drain --wait 300ms", exitOpen, ""},
	} {
		code, out, errs := call(t, p.base, append(strings.Fields(tt.args), "--queue", queue)...)
		if code != tt.code || !strings.Contains(out, tt.out) {
			t.Errorf("semel call %s: %d %q %q; want %d %q", tt.args, code, out, errs, tt.code, tt.out)
		}
	}
	again := start(t, "serve", "--addr", strings.TrimPrefix(p.base, "http://"), "--data", data)
	code, out, errs := execute(t, "call", "--token", "visitor", "--queue", queue, "--drain")
	if code != exitRejected || strings.Count(out, "balance") != 3 || !strings.Contains(errs, "0 open, 3 completed, 1 rejected") {
		t.Errorf("drained: %d %q %q", code, out, errs)
	}
	if got := again.must(t, "GET", "/accounts/alice", ""); !strings.Contains(got, "7497") {
		t.Errorf("in the account: %s, want 7497", got)
	}
	if code, out, errs := call(t, p.base, "--queue", queue, "--list"); code != exitOK || out != "" {
		t.Errorf("left: %d %q %q", code, out, errs)
	}
}
