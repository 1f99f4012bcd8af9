package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

// A Request is a command to send: by its name, or by a route that is bound to
// one.
type Request struct {
	// Command is sent as POST {base}/commands/{Command}.
	Command string
	// Method and Path are a bound route instead, such as PUT and
	// "/accounts/alice/withdrawals/{key}", where the literal {key} stands for
	// the key. A path without it gets the key in a header. The path is taken
	// as it is otherwise: escape what is put into it. No Method means PUT.
	Method string
	Path   string

	// Key is the idempotency key; none means a new one. Store it before the
	// call if the intention must survive this process.
	Key string
	// Body is encoded as JSON once, before the first try; a []byte or
	// json.RawMessage is sent as it is, and nil as {}.
	Body any
	// Header is added to every try.
	Header http.Header
	// Deadline is when to stop trying, so that a command that makes sense only
	// today is not sent tomorrow; zero means never. An operation that the
	// server has accepted by then runs on.
	Deadline time.Time
	// Async asks for durable acceptance only: the reply may not be done.
	Async bool
}

// A Reply is the answer to a command.
type Reply struct {
	// Key is the one that was sent, made or given.
	Key string
	// Operation is the operation's id, if the server named it.
	Operation string
	// Done is false only for [Request.Async]: accepted durably, outcome open.
	Done bool
	// Status and Header are those of the HTTP answer that brought the reply.
	// Where the outcome was polled for, they are the poll's.
	Status int
	Header http.Header
	// Resource is what was created or changed, if the server named it.
	Resource string
	// Body is the result as JSON; empty if not done.
	Body []byte
	// Replayed is set when this command had been run for an earlier request,
	// such as a try whose reply was lost.
	Replayed bool
	// Tries counts the requests that were sent, polls included.
	Tries int

	command string
}

// Decode reads the result into v. The command has taken effect even where
// that returns an error, of [ClassMalformed].
func (r *Reply) Decode(v any) error {
	err := json.Unmarshal(r.Body, v)
	if err == nil {
		return nil
	}
	return &Error{
		Class:     ClassMalformed,
		Status:    r.Status,
		Command:   r.command,
		Key:       r.Key,
		Operation: r.Operation,
		Message:   "done, but its result cannot be decoded: " + clean(err.Error()),
		Count:     1,
		Err:       err,
	}
}

// A question is one HTTP request, ready to be asked again and again.
type question struct {
	method string
	url    string
	header http.Header
	body   []byte
}

func (q question) request(ctx context.Context) (*http.Request, error) {
	// A bytes.Reader gives the request a GetBody. With that and an
	// Idempotency-Key, http.Transport itself sends again, unseen by us, when a
	// reused connection turns out to be closed. With a server that keeps keys
	// this is harmless: one more repeat.
	r, err := http.NewRequestWithContext(ctx, q.method, q.url, bytes.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	r.Header = q.header.Clone()
	return r, nil
}

// prepare turns a request into a question. The key is fixed here, before
// anything is sent.
func (c *Client) prepare(ctx context.Context, r Request) (*sending, question, error) {
	body, err := r.fix()
	if err != nil {
		return nil, question{}, err
	}
	q := question{method: http.MethodPost, header: r.Header.Clone(), body: body}
	if q.header == nil {
		q.header = http.Header{}
	}
	path := "/commands/" + url.PathEscape(r.Command)
	if r.Path != "" {
		q.method, path = r.route()
	}
	q.url = c.base + path
	if !strings.Contains(r.Path, "{key}") {
		q.header.Set("Idempotency-Key", quote(r.Key))
	}
	q.header.Set("Content-Type", "application/json")
	q.header.Set("Accept", "application/json, application/problem+json")
	if prefer := c.prefer(); prefer == "" || r.Async {
		q.header.Set("Prefer", "respond-async")
	} else {
		q.header.Set("Prefer", prefer)
	}
	s := &sending{client: c, caller: ctx, deadline: r.Deadline, reply: Reply{Key: r.Key, command: r.name()}}
	return s, q, nil
}

// fix makes the key and encodes the body.
func (r *Request) fix() (body []byte, err error) {
	if (r.Command == "") == (r.Path == "") {
		return nil, fmt.Errorf("client: want either a command or a path, have %q and %q", r.Command, r.Path)
	}
	if r.Key == "" {
		r.Key = rand.Text()
	}
	if err := semel.CheckKey(r.Key); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if body, err = encode(r.Body); err != nil {
		return nil, fmt.Errorf("client: encoding the body of %s: %w", r.name(), err)
	}
	return body, nil
}

// intend turns a request into what is stored of it, and gives it its key.
func (c *Client) intend(r *Request) (*intention, error) {
	body, err := r.fix()
	if err != nil {
		return nil, err
	}
	if c.queue.file != nil {
		if err := checkSecrets(r.Header); err != nil {
			return nil, err
		}
	}
	i := &intention{Command: r.Command, Path: r.Path, Header: r.Header.Clone(), Body: body, Deadline: r.Deadline}
	if r.Path != "" {
		i.Method, _ = r.route()
	}
	return i, nil
}

// name is what errors call the request: it has no key in it, so that the
// errors of two sendings compare equal.
func (r Request) name() string {
	if r.Command != "" {
		return r.Command
	}
	method, _ := r.route()
	return method + " " + r.Path
}

func (r Request) route() (method, path string) {
	method = r.Method
	if method == "" {
		method = http.MethodPut
	}
	path = strings.ReplaceAll(r.Path, "{key}", url.PathEscape(r.Key))
	return method, "/" + strings.TrimLeft(path, "/")
}

func encode(body any) ([]byte, error) {
	switch b := body.(type) {
	case nil:
		return []byte("{}"), nil
	case []byte:
		return bytes.Clone(b), nil
	case json.RawMessage:
		return bytes.Clone(b), nil
	}
	return json.Marshal(body)
}

// quote writes the key as the structured-field string of
// draft-ietf-httpapi-idempotency-key-header-07.
func quote(key string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
}

// prefer asks the server to hold its answer; "" if it is not to.
func (c *Client) prefer() string {
	if c.options.Poll < time.Second {
		return ""
	}
	return "wait=" + strconv.FormatInt(int64(c.options.Poll/time.Second), 10)
}

func (c *Client) poll(id semel.ID) question {
	q := question{
		method: http.MethodGet,
		url:    c.base + "/operations/" + id.String(),
		header: http.Header{"Accept": {"application/json, application/problem+json"}},
	}
	if prefer := c.prefer(); prefer != "" {
		q.header.Set("Prefer", prefer)
	}
	return q
}
