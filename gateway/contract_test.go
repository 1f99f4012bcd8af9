package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/getkin/kin-openapi/openapi3"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

// A contract is the OpenAPI document beside what the server was seen to do.
type contract struct {
	t    *testing.T
	bank *bank
	doc  *openapi3.T

	mu   sync.Mutex
	seen map[string]bool // "POST /commands/{name} 409 operation-rejected"
}

// readContract reads the document from the server itself.
func readContract(t *testing.T, b *bank) *contract {
	t.Helper()
	a := b.do("", "GET", "/openapi.yaml", "")
	if a.status != 200 || a.header.Get("Content-Type") != "application/yaml" {
		t.Fatalf("the document is %d %v", a.status, a.header)
	}
	doc, err := openapi3.NewLoader().LoadFromData([]byte(a.body))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Fatalf("the document breaks OpenAPI's own rules: %v", err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("the document is of OpenAPI %s", doc.OpenAPI)
	}
	return &contract{t: t, bank: b, doc: doc, seen: map[string]bool{}}
}

// route finds the path of the document that a request is for. One without
// wildcards counts before others.
func (c *contract) route(path string) string {
	var found string
	for pattern := range c.doc.Paths.Map() {
		if matches(pattern, path) && (found == "" || !strings.Contains(pattern, "{")) {
			found = pattern
		}
	}
	return found
}

func matches(pattern, path string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if want[i] != got[i] && !strings.HasPrefix(want[i], "{") {
			return false
		}
	}
	return true
}

// notOurs are headers that net/http adds to an answer.
var notOurs = []string{"Date", "Content-Length", "Content-Type", "Transfer-Encoding", "Connection"}

// check compares one answer with the document.
func (c *contract) check(method, path string, a answer) {
	c.t.Helper()
	slug, _ := a.problem()
	pattern := c.route(path)
	op := (*openapi3.Operation)(nil)
	if pattern != "" {
		op = c.doc.Paths.Value(pattern).GetOperation(method)
	}
	if op == nil {
		c.checkWithoutRoute(method, path, slug)
		return
	}
	status := strconv.Itoa(a.status)
	response := op.Responses.Value(status)
	if response == nil && a.status >= 400 {
		status = status[:1] + "XX"
		response = op.Responses.Value(status)
	}
	if response == nil {
		c.t.Errorf("%s %s answers with %d %s, which the document does not have", method, pattern, a.status, a.body)
		return
	}
	c.see(method, pattern, status, slug)
	if problems := listed(response.Value.Extensions["x-problems"]); slug != "" && !slices.Contains(problems, slug) {
		c.t.Errorf("%s %s answers with %d %s; the document has %v", method, pattern, a.status, slug, problems)
	}
	c.checkHeaders(shared(response, method+" "+pattern+" "+status), response.Value, a)
	c.checkBody(method+" "+pattern+" "+status, response.Value, a)
}

// shared names an answer that several routes have by what they share.
func shared(response *openapi3.ResponseRef, where string) string {
	if response.Ref != "" {
		return response.Ref
	}
	return where
}

func (c *contract) see(words ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[strings.TrimSpace(strings.Join(words, " "))] = true
}

func (c *contract) checkWithoutRoute(method, path, slug string) {
	c.t.Helper()
	if problems := listed(c.doc.Extensions["x-problems-without-route"]); !slices.Contains(problems, slug) {
		c.t.Errorf("%s %s, which the document does not have, is answered with %q; it has %v for that", method, path, slug, problems)
	}
	c.see(slug)
}

func listed(extension any) (list []string) {
	items, _ := extension.([]any)
	for _, item := range items {
		list = append(list, fmt.Sprint(item))
	}
	return list
}

func (c *contract) checkHeaders(where string, response *openapi3.Response, a answer) {
	c.t.Helper()
	for name := range a.header {
		known := slices.Contains(notOurs, name)
		for documented := range response.Headers {
			known = known || http.CanonicalHeaderKey(documented) == name
		}
		if !known {
			c.t.Errorf("%s: the header %s is not in the document", where, name)
		}
	}
	for name, header := range response.Headers {
		values := a.header.Values(name)
		switch {
		case len(values) == 0 && header.Value.Required:
			c.t.Errorf("%s: the header %s is missing", where, name)
		case len(values) > 1:
			c.t.Errorf("%s: the header %s is there %d times", where, name, len(values))
		case len(values) == 1:
			c.see("header", where, http.CanonicalHeaderKey(name))
			c.fits(where+": header "+name, header.Value.Schema, values[0])
		}
	}
}

func (c *contract) checkBody(where string, response *openapi3.Response, a answer) {
	c.t.Helper()
	if len(response.Content) == 0 {
		if a.body != "" {
			c.t.Errorf("%s: there is a body, %s", where, a.body)
		}
		return
	}
	contentType := a.header.Get("Content-Type")
	media := response.Content[contentType]
	if media == nil {
		c.t.Errorf("%s: the Content-Type %q is not in the document", where, contentType)
		return
	}
	if strings.HasSuffix(contentType, "json") {
		c.fitsJSON(where+": body", media.Schema, a.body)
	}
}

func (c *contract) fitsJSON(where string, schema *openapi3.SchemaRef, text string) {
	c.t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		c.t.Errorf("%s: %v in %s", where, err, text)
		return
	}
	c.fits(where, schema, value)
}

func (c *contract) fits(where string, schema *openapi3.SchemaRef, value any) {
	c.t.Helper()
	if err := schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
		c.t.Errorf("%s: %v does not fit: %v", where, value, err)
	}
}

// schema returns one of the document's schemas by its name.
func (c *contract) schema(name string) *openapi3.SchemaRef {
	s := c.doc.Components.Schemas[name]
	if s == nil {
		c.t.Fatalf("the document has no schema %s", name)
	}
	return s
}

// promises lists what the document says of answers, in the words of see.
func (c *contract) promises() (answers, headers []string) {
	for pattern, item := range c.doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status, response := range op.Responses.Map() {
				where := method + " " + pattern + " " + status
				for name := range response.Value.Headers {
					headers = append(headers, "header "+shared(response, where)+" "+http.CanonicalHeaderKey(name))
				}
				problems := listed(response.Value.Extensions["x-problems"])
				if len(problems) == 0 {
					answers = append(answers, where)
				}
				for _, slug := range problems {
					answers = append(answers, where+" "+slug)
				}
			}
		}
	}
	return append(answers, listed(c.doc.Extensions["x-problems-without-route"])...), headers
}

// A troubled engine fails as it is told, since a test cannot make a real one
// lose the reply to a commit.
type troubled struct {
	gateway.Engine
	trouble error
}

func (e *troubled) Submit(ctx context.Context, c semel.Command, o semel.SubmitOptions) (semel.Answer, error) {
	return semel.Answer{}, e.trouble
}

func (e *troubled) Operation(context.Context, string, string, semel.ID) (*semel.Operation, error) {
	return nil, e.trouble
}

func (e *troubled) Operations(context.Context, semel.OperationQuery) ([]*semel.Operation, error) {
	return nil, e.trouble
}

func (e *troubled) Head(context.Context) (int64, error) { return 0, e.trouble }

// rare is an answer between an operation's effect and a slow projection that
// has to show it.
const rare = "header #/components/responses/accepted X-Resource"

// TestContract compares the document with the running server, in both
// directions: every answer is in the document, and every answer in the
// document was given.
func TestContract(t *testing.T) {
	t.Parallel()
	options := func(o *gateway.Options, _ *semel.Options) {
		o.MaxBody, o.MaxHeader, o.Wait, o.MaxUpload = 200, 2000, 20*time.Second, time.Second
		o.Recheck = func(_ context.Context, who gateway.Identity) error {
			if who.Principal == "mallory" {
				return fmt.Errorf("no")
			}
			return nil
		}
	}
	b := open(t, options)
	c := readContract(t, b)
	c.tryCommands("POST")
	c.tryCommands("PUT")
	c.tryOperations()
	c.tryStreams()
	c.trySocket()
	c.tryTrouble()
	c.check("GET", "/openapi.yaml", b.do("", "GET", "/openapi.yaml", ""))
	c.check("GET", "/openapi.yaml", b.do("", "GET", "/openapi.yaml", "", "X-Correlation-ID: "+strings.Repeat("x", 2000)))
	c.check("GET", "/nowhere", b.do("alice", "GET", "/nowhere", ""))
	c.check("DELETE", "/operations", b.do("alice", "DELETE", "/operations", ""))

	answers, headers := c.promises()
	for _, promise := range append(answers, headers...) {
		if !c.seen[promise] && promise != rare {
			t.Errorf("the document has %q, and the server was not seen to do so", promise)
		}
	}
	if len(answers) < 80 {
		t.Errorf("only %d answers are in the document", len(answers))
	}
}

// try sends a request and compares the answer.
func (c *contract) try(who, method, path, body string, headers ...string) answer {
	c.t.Helper()
	a := c.bank.do(who, method, path, body, headers...)
	plain, _, _ := strings.Cut(path, "?")
	c.check(method, plain, a)
	return a
}

// tryCommands provokes every answer that a command can have.
func (c *contract) tryCommands(method string) {
	b := c.bank
	c.t.Helper()
	const valid, none = `{"account":"contract","cents":1}`, ""
	send := func(who, command, key, body string, headers ...string) answer {
		c.t.Helper()
		if key = method + key; method == "PUT" {
			return c.try(who, method, "/commands/"+command+"/"+key, body, headers...)
		}
		return c.try(who, method, "/commands/"+command, body, append(headers, "Idempotency-Key: "+key)...)
	}
	account := fmt.Sprintf(`{"account":%q,"cents":1}`, method)
	// With all headers once as the first answer and once as the repeat.
	now := time.Now().UTC().Format(http.TimeFormat)
	all := func(key string) []string {
		return []string{"Repeatability-Request-ID: " + method + key, "Repeatability-First-Sent: " + now, "Prefer: wait=20"}
	}
	for range 2 {
		send("alice", "deposit", "created", account, all("created")...)
		send("alice", "deposit", "completed", account, all("completed")...)
		send("alice", "refuse", "refused", none, all("refused")...)
		send("alice", "teapot", "teapot", none, all("teapot")...)
		send("alice", "break", "failed", none, all("failed")...)
		send("alice", "hold", "held", fmt.Sprintf(`{"Gate":%q}`, method), append(all("held")[:2], "Prefer: respond-async")...)
	}
	gate := fmt.Sprintf(`{"Gate":%q}`, method)
	send("alice", "hold", "second", gate, "Prefer: wait=0")
	queued := send("alice", "hold", "canceled", gate, "Prefer: respond-async").operation(c.t)
	id, err := semel.ParseID(queued.ID)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := b.engine.Cancel(c.t.Context(), "", "alice", id); err != nil {
		c.t.Fatal(err)
	}
	send("alice", "hold", "canceled", gate)
	b.release(method)
	if method == "POST" {
		c.try("alice", method, "/commands/deposit", valid)
	}
	odd := []string{"Repeatability-Request-ID: ä", "Repeatability-First-Sent: " + now}
	old := []string{"Repeatability-Request-ID: " + method + "old", "Repeatability-First-Sent: Tue, 15 Nov 1994 08:12:31 GMT"}
	send("alice", "deposit", "odd", valid, odd...)
	send("alice", "deposit", "old", valid, old...)
	send("alice", "deposit", "k", `{"account"`, all("k")...)
	send("alice", "deposit", "k", `{"account":1}`, all("k")...)
	send("", "deposit", "k", valid)
	b.revoked.Store("revoked", true)
	send("revoked", "deposit", "k", valid, all("k")...)
	send("alice", "nothing", "k", valid, all("k")...)
	send("alice", "deposit", "k", strings.Repeat(" ", 300), all("k")...)
	send("alice", "deposit", "k", valid, append(all("k"), "Content-Type: text/plain")...)
	send("alice", "deposit", "created", valid, all("created")...)
	send("alice", "deposit", "k", valid, append(all("k"), "X-Correlation-ID: "+strings.Repeat("x", 2000))...)
	c.trySlow(method, "/commands/deposit"+map[string]string{"PUT": "/slow"}[method], all("slow")...)
	send("alice", "deposit", "expired", account)
	b.expire()
	send("alice", "deposit", "expired", account, all("expired")...)
}

// trySlow sends a body that never comes.
func (c *contract) trySlow(method, path string, headers ...string) {
	c.t.Helper()
	if method == "PUT" { // the key is in the path
		headers = []string{"Repeatability-First-Sent: " + time.Now().UTC().Format(http.TimeFormat)}
	}
	body, never := io.Pipe()
	defer never.Close()
	r := c.bank.request(c.t.Context(), "alice", method, path, append([]string{"x"}, headers...)...)
	r.Body, r.ContentLength, r.GetBody = body, -1, nil
	response, err := c.bank.client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	c.check(method, path, answer{response.StatusCode, response.Header, string(text)})
}

// expire lets all deduplication windows pass.
func (b *bank) expire() { b.sweep(8 * 24 * time.Hour) }

func (c *contract) tryOperations() {
	b := c.bank
	c.t.Helper()
	large := "X-Correlation-ID: " + strings.Repeat("x", 2000)
	a := c.try("alice", "PUT", "/commands/deposit/read", `{"account":"read","cents":1}`)
	path := "/" + a.header.Get("X-Operation")
	read := c.try("alice", "GET", path, "", "Prefer: wait=1")
	c.try("alice", "GET", path, "", "Prefer: wait=1", "If-None-Match: "+read.header.Get("ETag"))
	c.try("", "GET", path, "")
	c.try("bob", "GET", path, "")
	c.try("alice", "GET", path, "", large)
	held := c.try("alice", "PUT", "/commands/hold/read", `{"Gate":"read"}`, "Prefer: respond-async").operation(c.t)
	c.try("alice", "GET", "/operations/"+held.ID, "")
	b.release("read")
	c.try("alice", "GET", "/operations?limit=1", "")
	c.try("alice", "GET", "/operations?limit=0", "")
	c.try("", "GET", "/operations", "")
	c.try("alice", "GET", "/operations", "", large)
	c.try("alice", "PUT", "/commands/deposit/gone", `{"account":"read","cents":1}`)
	b.expire()
	gone := "/operations/" + semel.Command{Principal: "alice", Name: "deposit", Key: "gone"}.ID().String()
	c.try("alice", "GET", gone, "")
	c.try("alice", "GET", gone+"/events", "")
}

func (c *contract) tryStreams() {
	b := c.bank
	c.t.Helper()
	large := "X-Correlation-ID: " + strings.Repeat("x", 2000)
	a := b.do("alice", "PUT", "/commands/refuse/streams", "")
	one := "/" + a.header.Get("X-Operation") + "/events"
	c.try("alice", "GET", one, "", "Last-Event-ID: 99999999")
	c.try("bob", "GET", one, "")
	for _, path := range []string{one, "/operations/events"} {
		stream := b.stream("alice", path+"?after=0")
		c.check("GET", path, answer{stream.response.StatusCode, stream.response.Header, ""})
		for e := stream.must(); ; e = stream.must() {
			name := "Operation"
			switch e.name {
			case "ready":
				name = "Ready"
			case "resync":
				name = "Resync"
			}
			c.fitsJSON("event "+e.name, c.schema(name), e.data)
			if e.name == "operation.rejected" {
				break
			}
		}
		stream.close()
		c.try("", "GET", path, "")
		c.try("mallory", "GET", path, "")
		c.try("", "GET", path+"?ticket=x", "", "Origin: https://elsewhere.example")
		c.try("alice", "GET", path, "", large)
	}
	c.try("alice", "POST", "/operations/tickets", "")
	c.try("", "POST", "/operations/tickets", "")
	c.try("mallory", "POST", "/operations/tickets", "")
	c.try("alice", "POST", "/operations/tickets", "", large)
}

func (c *contract) trySocket() {
	b := c.bank
	c.t.Helper()
	const path = "/operations/socket"
	var one semel.ID
	for _, command := range []string{"refuse", "break", "deposit"} {
		b.do("alice", "PUT", "/commands/"+command+"/socket", map[string]string{"deposit": `{"account":"socket","cents":1}`}[command])
	}
	b.do("alice", "PUT", "/commands/hold/socket1", `{"Gate":"socket"}`, "Prefer: wait=0")
	queued := b.do("alice", "PUT", "/commands/hold/socket2", `{"Gate":"socket"}`, "Prefer: wait=0").operation(c.t)
	one, err := semel.ParseID(queued.ID)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := b.engine.Cancel(c.t.Context(), "", "alice", one); err != nil {
		c.t.Fatal(err)
	}
	b.release("socket")
	// The upgrade itself speaks; what it says is what the document has.
	conn, response := b.dial("alice", "?after=999999")
	c.check("GET", path, answer{response.StatusCode, response.Header, ""})
	say := `{"after": "0"}`
	c.fitsJSON("what the reader says", c.schema("Move"), say)
	if err := conn.Write(c.t.Context(), websocket.MessageText, []byte(say)); err != nil {
		c.t.Fatal(err)
	}
	missing := map[string]bool{"resync": true, "operation_completed": true, "operation_rejected": true, "operation_failed": true, "operation_canceled": true}
	for len(missing) > 0 {
		text := b.hear(conn)
		c.fitsJSON("a message", c.schema("Message"), text)
		var m struct{ Type string }
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			c.t.Fatal(err)
		}
		delete(missing, m.Type)
	}
	_ = conn.Close(websocket.StatusNormalClosure, "")
	c.try("alice", "GET", path, "")
	handshake := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}
	c.try("", "GET", path, "", handshake...)
	c.try("mallory", "GET", path, "", handshake...)
	c.try("alice", "GET", path, "", append(handshake, "Origin: https://elsewhere.example")...)
	c.try("alice", "GET", path, "", append(handshake, "X-Correlation-ID: "+strings.Repeat("x", 2000))...)
}

// tryTrouble asks a gateway whose engine is in trouble.
func (c *contract) tryTrouble() {
	b := c.bank
	c.t.Helper()
	for _, trouble := range []error{semel.ErrUnavailable, semel.ErrOverloaded, errors.New("the disk says EIO")} {
		recheck := func(context.Context, gateway.Identity) error { return trouble }
		for _, hook := range []func(context.Context, gateway.Identity) error{nil, recheck} {
			g := gateway.New(&troubled{b.engine, trouble}, &gateway.Options{Authenticate: authenticate, Logger: quiet, Recheck: hook})
			ask := func(method, path string, headers ...string) {
				c.t.Helper()
				r := httptest.NewRequest(method, path, bytes.NewReader([]byte("{}")))
				for _, header := range append(headers, "Authorization: Bearer alice", "Idempotency-Key: trouble", "Prefer: wait=1") {
					name, value, _ := strings.Cut(header, ": ")
					r.Header.Set(name, value)
				}
				w := httptest.NewRecorder()
				g.ServeHTTP(w, r)
				body, err := io.ReadAll(w.Result().Body)
				if err != nil {
					c.t.Fatal(err)
				}
				c.check(method, path, answer{w.Code, w.Header(), string(body)})
			}
			ask("POST", "/commands/deposit")
			ask("PUT", "/commands/deposit/trouble")
			if errors.Is(trouble, semel.ErrOverloaded) { // nobody is too busy to read
				continue
			}
			id := "/operations/aaaaaaaaaaaaaaaaaaaaaaaaaa"
			for _, path := range []string{id, id + "/events", "/operations", "/operations/events"} {
				ask("GET", path)
			}
			ask("GET", "/operations/socket", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
			if hook != nil && errors.Is(trouble, semel.ErrUnavailable) {
				ask("POST", "/operations/tickets")
			}
		}
	}
}

// TestContractListsAllKinds compares the document's lists with the code's.
func TestContractListsAllKinds(t *testing.T) {
	t.Parallel()
	c := readContract(t, open(t, nil))
	var kinds []string
	answered := map[string]bool{}
	answers, _ := c.promises()
	for _, promise := range answers {
		answered[promise[strings.LastIndex(promise, " ")+1:]] = true
	}
	for _, kind := range gateway.Problems() {
		kinds = append(kinds, semel.ProblemTypes+kind.Slug)
		if !answered[kind.Slug] {
			t.Errorf("no answer of the document has the problem %s", kind.Slug)
		}
	}
	if got := listed(c.schema("Problem").Value.Properties["type"].Value.Enum); !slices.Equal(got, kinds) {
		t.Errorf("the document has the problems %v, the gateway %v", got, kinds)
	}
	var states []string
	for _, s := range semel.States() {
		states = append(states, string(s))
	}
	if got := listed(c.schema("State").Value.Enum); !slices.Equal(got, states) {
		t.Errorf("the document has the states %v, the engine %v", got, states)
	}
}
