package docs_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// requestLine is a request as the README writes it.
var requestLine = regexp.MustCompile(`^\$ curl -u (\w+): -H 'Idempotency-Key: (\S+)' --json '(.+)' http://127\.0\.0\.1:8080(/\S+)$`)

// TestQuickStart does what the README tells its readers to do: it starts the
// program, sends the requests and compares the answers with those printed
// there. Before each of them the program is killed and started again.
func TestQuickStart(t *testing.T) {
	t.Parallel()
	blocks := read(t, "README.md").blocks(t)
	program := slices.IndexFunc(blocks, func(b block) bool { return b.info == "go" && strings.HasPrefix(b.text, "package main") })
	session := slices.IndexFunc(blocks, func(b block) bool { return b.info == "console" })
	if program < 0 || session < program {
		t.Fatal("README.md has no program with a console block of requests after it")
	}
	const printed = "127.0.0.1:8080"
	address := freeAddress(t)
	source := strings.ReplaceAll(blocks[program].text, printed, address)
	if source == blocks[program].text {
		t.Fatalf("the program does not listen at %s", printed)
	}
	binary, data := buildProgram(t, "README.md", source), t.TempDir()

	lines := strings.Split(strings.TrimSpace(blocks[session].text), "\n")
	replays := 0
	for i := 0; i+1 < len(lines); i += 2 {
		request := requestLine.FindStringSubmatch(lines[i])
		if request == nil {
			t.Fatalf("README.md: %q is not a request of the form %s", lines[i], requestLine)
		}
		stop := start(t, binary, data, address)
		body, replayed := send(t, "http://"+address+request[4], request[1], request[2], request[3])
		stop()
		if body != lines[i+1] {
			t.Errorf("README.md: %s\nis answered with %s, not %s", lines[i], body, lines[i+1])
		}
		if replayed {
			replays++
		}
	}
	if replays != 1 {
		t.Errorf("%d answers were replays, want 1", replays)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// start runs a server and waits until it takes connections. The function it
// returns kills the server, as a crash would.
func start(t *testing.T, binary, dir, address string) (stop func()) {
	t.Helper()
	server := exec.CommandContext(t.Context(), binary)
	server.Dir, server.Stderr = dir, os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the server does not listen at %s: %v", address, err)
		}
	}
	return func() {
		_ = server.Process.Kill()
		_ = server.Wait() // killed: it has no other end
	}
}

func send(t *testing.T, url, user, key, body string) (answer string, replayed bool) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(user, "")
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answerBytes, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s with key %s: %s: %s", url, key, response.Status, answerBytes)
	}
	return string(answerBytes), response.Header.Get("Idempotent-Replayed") == "true"
}
