package docs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The servers that a session may be held with, as the line before its block
// names them.
const (
	// withProgram is the first program of the document. It is killed, as a
	// crash would, and started again before each request.
	withProgram = "<!-- run: program -->"
	// withServe is "semel serve", one for all of a document's sessions.
	withServe = "<!-- run: semel serve -->"
)

// printed are the addresses at which the documents' servers listen.
var printed = map[string]string{withProgram: "127.0.0.1:8080", withServe: "127.0.0.1:7314"}

// TestTranscripts does what the documents' readers are told to do: it starts
// the server, sends the requests, and compares the answers with those printed.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{withProgram, withServe} {
		found := 0
		for _, doc := range documents(t) {
			sessions := slices.DeleteFunc(doc.blocks(t), func(b block) bool { return b.info != "console" || b.before != kind })
			if len(sessions) == 0 {
				continue
			}
			found++
			t.Run(doc.path, func(t *testing.T) {
				t.Parallel()
				hold(t, doc, kind, sessions)
			})
		}
		if found == 0 {
			t.Errorf("no document has a block after a line %s", kind)
		}
	}
}

// hold holds a document's sessions with a server.
func hold(t *testing.T, doc document, kind string, sessions []block) {
	address := freeAddress(t)
	server := prepare(t, doc, kind, address)
	stop := server(t)
	for _, session := range sessions {
		for i, e := range exchanges(session.text) {
			if kind == withProgram {
				stop()
				stop = server(t)
			}
			r, err := parseCurl(e.command)
			if err != nil {
				t.Fatalf("%s:%d: request %d: %v", doc.path, session.line, i+1, err)
			}
			r.url = strings.ReplaceAll(r.url, printed[kind], address)
			got := strings.ReplaceAll(r.send(t), address, printed[kind])
			if steady(got) != steady(e.output) {
				t.Errorf("%s:%d: $ %s\nis answered with\n%s\nand not with\n%s", doc.path, session.line, e.command, got, e.output)
			}
		}
	}
	stop()
}

// prepare builds a server and returns how to start it on the same data.
func prepare(t *testing.T, doc document, kind, address string) func(*testing.T) (stop func()) {
	t.Helper()
	data := t.TempDir()
	if kind == withServe {
		binary := filepath.Join(data, "semel")
		build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/semel")
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building semel: %v\n%s", err, out)
		}
		return func(t *testing.T) func() {
			return start(t, data, "http://"+address+"/readyz", binary, "serve", "--addr", address, "--data", "bank.db")
		}
	}
	blocks := doc.blocks(t)
	program := slices.IndexFunc(blocks, func(b block) bool { return b.info == "go" && strings.HasPrefix(b.text, "package main") })
	if program < 0 {
		t.Fatalf("%s has no program", doc.path)
	}
	source := strings.ReplaceAll(blocks[program].text, printed[kind], address)
	if source == blocks[program].text {
		t.Fatalf("%s: the program does not listen at %s", doc.path, printed[kind])
	}
	binary := buildProgram(t, doc.path, source)
	return func(t *testing.T) func() { return start(t, data, "http://"+address+"/", binary) }
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

// start runs a server and waits until it answers url with less than 500. The
// function it returns kills the server.
func start(t *testing.T, dir, url, binary string, args ...string) (stop func()) {
	t.Helper()
	server := exec.CommandContext(t.Context(), binary, args...)
	server.Dir = dir
	var log bytes.Buffer
	server.Stderr = &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !answers(ctx, url) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = server.Process.Kill()
			_ = server.Wait()
			t.Fatalf("the server does not answer %s: %v\n%s", url, ctx.Err(), log.String())
		}
	}
	return func() {
		_ = server.Process.Kill()
		_ = server.Wait() // killed: it has no other end
		if t.Failed() {
			fmt.Fprint(os.Stderr, log.String())
		}
	}
}

func answers(ctx context.Context, url string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode < http.StatusInternalServerError
}

// An exchange is one command of a session and what it prints.
type exchange struct{ command, output string }

func exchanges(session string) []exchange {
	var all []exchange
	continued := false
	for line := range strings.Lines(session) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		if isCommand {
			all = append(all, exchange{})
		}
		e := &all[len(all)-1]
		if isCommand || continued {
			command, continued = strings.CutSuffix(command, "\\\n")
			e.command += strings.TrimSpace(command) + " "
			continue
		}
		e.output += line
	}
	return all
}

// changing is what differs from run to run: times, and positions in the log,
// which depend on whether a projection was caught up at that moment.
var changing = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z|(?m:^Date: .*$)|(?m:^id: \d+$)|"position": ?\d+`)

// steady returns an output without what differs from run to run, the headers
// in order.
func steady(output string) string {
	output = strings.TrimSpace(changing.ReplaceAllString(output, "…"))
	head, body, ok := strings.Cut(output, "\n\n")
	if !ok || !strings.HasPrefix(output, "HTTP/") {
		return output
	}
	lines := strings.Split(head, "\n")
	slices.Sort(lines[1:])
	return strings.Join(lines, "\n") + "\n\n" + body
}

// A curl is what the documents use of that program.
type curl struct {
	method, url string
	header      http.Header
	body        string
	withHeaders bool // -i
	most        time.Duration
	pretty      bool // | jq
	user        string
}

var word = regexp.MustCompile(`'[^']*'|[^\s']+`)

func parseCurl(command string) (c curl, err error) {
	var words []string
	for _, w := range word.FindAllString(command, -1) {
		words = append(words, strings.Trim(w, "'"))
	}
	if n := len(words); n > 2 && words[n-2] == "|" && words[n-1] == "jq" {
		c.pretty, words = true, words[:n-2]
	}
	if len(words) == 0 || words[0] != "curl" {
		return c, fmt.Errorf("%q is no request with curl", command)
	}
	c.header = http.Header{}
	c.most = 30 * time.Second
	for i := 1; i < len(words); i++ {
		option := words[i]
		if strings.HasPrefix(option, "http://") {
			c.url = option
			continue
		}
		if err := c.flag(option); err == nil {
			continue
		}
		if i++; i == len(words) {
			return c, fmt.Errorf("%s lacks its value", option)
		}
		if err := c.option(option, words[i]); err != nil {
			return c, err
		}
	}
	if c.method == "" {
		c.method = http.MethodGet
	}
	return c, nil
}

func (c *curl) flag(name string) error {
	switch name {
	case "-i":
		c.withHeaders = true
	case "-s", "-N", "-sN": // how curl shows its progress
	default:
		return fmt.Errorf("%s is no flag of those that the documents use", name)
	}
	return nil
}

func (c *curl) option(name, value string) (err error) {
	switch name {
	case "-X":
		c.method = value
	case "-H":
		header, content, _ := strings.Cut(value, ":")
		c.header.Set(header, strings.TrimSpace(content))
	case "-u":
		c.user = strings.TrimSuffix(value, ":")
	case "--json":
		c.body = value
		c.header.Set("Content-Type", "application/json")
		c.header.Set("Accept", "application/json")
		if c.method == "" {
			c.method = http.MethodPost
		}
	case "--max-time":
		c.most, err = time.ParseDuration(value + "s")
	default:
		return fmt.Errorf("%s is no option of those that the documents use", name)
	}
	return err
}

// send returns what curl would print.
func (c *curl) send(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), c.most)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, c.method, c.url, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = c.header
	if c.user != "" {
		r.SetBasicAuth(c.user, "")
	}
	r.Header.Set("Accept-Encoding", "identity")
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", c.method, c.url, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%s %s: %v", c.method, c.url, err)
	}
	var out bytes.Buffer
	if c.withHeaders {
		fmt.Fprintf(&out, "%s %s\n", response.Proto, response.Status)
		response.Header.Del("Connection") // the request asked for it, other than curl's
		for name, values := range response.Header {
			fmt.Fprintf(&out, "%s: %s\n", name, strings.Join(values, ", "))
		}
		out.WriteString("\n")
	}
	if !c.pretty {
		out.Write(body)
	} else if err := json.Indent(&out, body, "", "  "); err != nil {
		t.Errorf("jq cannot read %q: %v", body, err)
	}
	return out.String()
}
