package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// counts are a line of the table that the demo prints.
type counts struct{ requests, effects, replays, double, lost int }

func readCounts(t *testing.T, out, side string) (c counts) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^  ` + side + ` +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$`).FindStringSubmatch(out)
	if line == nil {
		t.Fatalf("there are no counts of the %s side in:\n%s", side, out)
	}
	for i, to := range []*int{&c.requests, &c.effects, &c.replays, &c.double, &c.lost} {
		*to, _ = strconv.Atoi(line[i+1])
	}
	return c
}

func demoCheck(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kept")
	code, out, errs := execute(t, "demo", "--check", "--keep", dir)
	if code != exitOK {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	// Four withdrawals; the clicks beyond the first, the lost reply, the kill
	// and the changed amount are requests more.
	protected := readCounts(t, out, "protected")
	if c := protected; c.effects != 4 || c.replays < 5 || c.requests < 11 || c.double != 0 || c.lost != 0 {
		t.Errorf("protected: %+v", c)
	}
	if c := readCounts(t, out, "naive"); c.double < 6 || c.effects != 4+c.double || c.replays != 0 {
		t.Errorf("the naive twin must double what the protected side does not: %+v", c)
	}
	if !strings.Contains(out, "worker restarts: 1") || !strings.Contains(out, "equal") && !strings.Contains(out, "fold of it: statement, daily") {
		t.Errorf("the kill or the verification is missing:\n%s", out)
	}
	if code, out, errs := execute(t, "verify", "--drained", filepath.Join(dir, "bank.db")); code != exitOK {
		t.Errorf("verify: %d\n%s%s", code, out, errs)
	}
	if code, _, errs := execute(t, "demo", "--check", "--keep", dir); code != exitFailed || !strings.Contains(errs, "not empty") {
		t.Errorf("a directory that is in use: %d %s", code, errs)
	}
}

type demoState struct {
	Protected struct{ Balance int64 }
	Naive     struct {
		Balance       int64
		DoubleEffects int
	}
	Counts struct{ Effects, DoubleEffects, Lost int }
	Worker struct {
		PID      int
		Up       bool
		Restarts int
	}
	Switches struct{ Duplicate int }
}

func (p *process) state(t *testing.T) (s demoState) {
	t.Helper()
	if err := json.Unmarshal([]byte(p.must(t, "GET", "/demo/state", "")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// demoByHand does over HTTP what the page does for its visitor.
func demoByHand(t *testing.T) {
	t.Parallel()
	p := start(t, "demo", "--addr", "127.0.0.1:0")
	page, err := visitor.Get(p.base + "/")
	if err != nil {
		t.Fatal(err)
	}
	page.Body.Close()
	if got := page.Header.Get("Content-Security-Policy"); page.StatusCode != 200 || !strings.Contains(got, "default-src 'self'") {
		t.Errorf("the page: %d with the policy %q", page.StatusCode, got)
	}
	before := p.state(t)

	p.must(t, "PUT", "/demo/switches", `{"duplicate":3}`)
	for _, side := range []string{"bank", "naive"} {
		p.must(t, "PUT", "/"+side+"/accounts/alice/withdrawals/tripled", `{"cents":100}`)
	}
	after := p.state(t)
	if got := before.Protected.Balance - after.Protected.Balance; got != 100 || after.Counts.DoubleEffects != 0 {
		t.Errorf("the protected side took %d cents for 100, %d double effects", got, after.Counts.DoubleEffects)
	}
	if got := before.Naive.Balance - after.Naive.Balance; got != 300 || after.Naive.DoubleEffects != before.Naive.DoubleEffects+2 {
		t.Errorf("the naive twin took %d cents; tripled it should be 300, with 2 more double effects than %d: %d",
			got, before.Naive.DoubleEffects, after.Naive.DoubleEffects)
	}

	p.must(t, "PUT", "/demo/switches", `{"loseRequest":true}`)
	if status, _ := p.ask("PUT", "/bank/accounts/alice/withdrawals/lost", `{"cents":100}`); status != 0 {
		t.Errorf("a lost request was answered with %d", status)
	}
	p.must(t, "PUT", "/bank/accounts/alice/withdrawals/lost", `{"cents":100}`) // the retry gets through
	p.must(t, "PUT", "/demo/switches", `{}`)

	p.killNow(t)
	if s := p.state(t); s.Counts.Lost != 0 || s.Counts.DoubleEffects != 0 || s.Protected.Balance != before.Protected.Balance-200 {
		t.Errorf("after the kill: %+v", s)
	}
	for _, tt := range []struct {
		path, body string
		status     int
	}{
		{"/demo/switches", `{"duplicate":21}`, 400},
		{"/demo/switches", `{"delayMs":-1}`, 400},
		{"/demo/switches", `nonsense`, 400},
	} {
		if status, answer := p.ask("PUT", tt.path, tt.body); status != tt.status {
			t.Errorf("PUT %s %s: %d %s; want %d", tt.path, tt.body, status, answer, tt.status)
		}
	}
	if status, _ := p.ask("POST", "/demo/kill", `{"when":"never"}`); status != 409 {
		t.Errorf("a kill at no time: %d", status)
	}
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := p.end(t); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
}

// killNow kills the worker while the event stream is listened to.
func (p *process) killNow(t *testing.T) {
	t.Helper()
	stream, err := visitor.Get(p.base + "/demo/events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	lines := bufio.NewScanner(stream.Body)
	changed := func() {
		for lines.Scan() {
			if lines.Text() == "event: changed" {
				return
			}
		}
		t.Fatalf("the event stream ended: %v", lines.Err())
	}
	changed() // once at the start
	was := p.state(t).Worker
	p.must(t, "POST", "/demo/kill", `{"when":"now"}`)
	changed()
	until(t, "another worker is up", func() bool {
		now := p.state(t).Worker
		return now.Up && now.PID != was.PID && now.Restarts == was.Restarts+1
	})
}

// demoLeavesNothing: when the demo itself is killed, its worker ends too; when
// it ends in good order, so does its directory. Another site cannot use it.
func demoLeavesNothing(t *testing.T) {
	t.Parallel()
	p := start(t, "demo", "--addr", "127.0.0.1:0", "--keep", filepath.Join(t.TempDir(), "kept"))
	r, err := http.NewRequest("POST", p.base+"/demo/kill", strings.NewReader(`{"when":"now"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	answer, err := visitor.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("a kill from another site: %d, want 403", answer.StatusCode)
	}
	worker := p.state(t).Worker.PID
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.end(t)
	until(t, fmt.Sprintf("worker %d has ended", worker), func() bool { return !alive(worker) })
}

func alive(pid int) bool {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		return !strings.Contains(string(stat), ") Z ") // nobody may be there to reap it
	}
	return syscall.Kill(pid, 0) == nil
}
