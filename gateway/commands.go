package gateway

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/wire"
)

// A sending is what a route knows of a command before the headers and the
// body are read.
type sending struct {
	name    string
	key     string   // from the path
	keyed   bool     // the path has a key
	members []member // from the path
}

func (g *Gateway) post(w http.ResponseWriter, r *http.Request, who Identity) error {
	return g.send(w, r, who, sending{name: r.PathValue("name")})
}

func (g *Gateway) put(w http.ResponseWriter, r *http.Request, who Identity) error {
	return g.send(w, r, who, sending{name: r.PathValue("name"), key: r.PathValue("key"), keyed: true})
}

// send takes a command, waits as long as the caller likes, and answers.
func (g *Gateway) send(w http.ResponseWriter, r *http.Request, who Identity, s sending) error {
	err := g.take(w, r, who, s)
	if err != nil && repeatable(r.Header) && translated(err).status() < http.StatusInternalServerError {
		w.Header().Set("Repeatability-Result", "rejected")
	}
	return err
}

func (g *Gateway) take(w http.ResponseWriter, r *http.Request, who Identity, s sending) error {
	if err := g.authorize(r, who, s.name); err != nil {
		return err
	}
	key, err := s.readKey(r)
	if err != nil {
		return err
	}
	if err := g.checkFirstSent(r, semel.Command{Tenant: who.Tenant, Principal: who.Principal, Name: s.name, Key: key}); err != nil {
		return err
	}
	body, err := g.readBody(w, r)
	if err != nil {
		return err
	}
	if body, err = splice(body, s.members); err != nil {
		return err
	}
	c := semel.Command{
		Tenant: who.Tenant, Principal: who.Principal,
		Name: s.name, Key: key, Body: body,
		Correlation: g.correlate(r, who, s.name),
	}
	if len(s.members) > 0 {
		c.Correlation.Resource, c.Correlation.ResourceID = s.members[0].name, s.members[0].value
	}
	w.Header().Add("Vary", "Prefer")
	wish := g.wishes(w, r, g.options.Wait)
	started := time.Now()
	answer, err := g.engine.Submit(r.Context(), c, semel.SubmitOptions{Async: wish <= 0, Wait: max(wish, 0)})
	if err != nil {
		return explain(err, c)
	}
	keepOpen(w, time.Since(started))
	if repeatable(r.Header) {
		w.Header().Set("Repeatability-Result", "accepted")
	}
	return g.answer(w, r, answer)
}

func (s sending) readKey(r *http.Request) (string, error) {
	inHeader, given, err := headerKey(r.Header)
	switch {
	case err != nil:
		return "", err
	case s.keyed:
	case !given:
		return parseKey(nil)
	default:
		return inHeader, nil
	}
	if err := checkKey(s.key, "the key in the path"); err != nil {
		return "", err
	}
	if given && inHeader != s.key {
		return "", refusal(keyInvalid, "the key in the header, %s, is not the one in the path, %s", wire.Shorten(inHeader), wire.Shorten(s.key))
	}
	return s.key, nil
}

// checkFirstSent refuses a command that says itself that it comes after the
// deduplication window: what was kept of its key may be gone by now, down to
// the last mark, and it would run again. While its operation is still there,
// it is a repeat as any other.
func (g *Gateway) checkFirstSent(r *http.Request, c semel.Command) error {
	sent, given, err := parseFirstSent(r.Header)
	if err != nil || !given || time.Since(sent) <= g.options.Window {
		return err
	}
	_, err = g.engine.Operation(r.Context(), c.Tenant, c.Principal, c.ID())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, semel.ErrNotFound), errors.Is(err, semel.ErrKeyExpired):
		refused := refusal(keyExpired, "the command was first sent at %s, before the deduplication window of %v; it is not run", sent.Format(time.RFC3339), g.options.Window)
		refused.otherStatus = http.StatusPreconditionFailed
		return refused
	}
	return fmt.Errorf("looking for operation %s: %w", c.ID(), unavailableUnless(err))
}

// readBody returns the request's body. An empty one stands for a command
// without members.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if err := checkContentType(r.Header["Content-Type"]); err != nil {
		return nil, err
	}
	most := g.options.MaxBody
	if r.ContentLength > most {
		return nil, refusal(payloadTooLarge, "the body has %d bytes; at most %d are taken", r.ContentLength, most)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close") // or the server would wait for the rest
		return nil, refusal(requestTimeout, "after %v only %d bytes of the body have come", g.options.MaxUpload, len(body))
	case errors.As(err, &tooLarge):
		return nil, refusal(payloadTooLarge, "the body is longer than the %d bytes that are taken", most)
	case err != nil:
		return nil, refusal(malformedBody, "the body ends early, after %d bytes", len(body))
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // it would end the wait for the outcome
	if len(body) == 0 {
		return []byte("{}"), nil
	}
	return body, nil
}

func checkContentType(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	kind, parameters, err := mime.ParseMediaType(lines[0])
	charset, given := parameters["charset"]
	switch {
	case err != nil || len(lines) > 1 || kind != "application/json" && (!strings.HasPrefix(kind, "application/") || !strings.HasSuffix(kind, "+json")):
		return refusal(unsupportedMediaType, "the Content-Type is %s; application/json is taken", wire.Shorten(lines[0]))
	case given && !strings.EqualFold(charset, "utf-8"):
		return refusal(unsupportedMediaType, "the charset is %s; JSON is UTF-8", wire.Shorten(charset))
	}
	return nil
}

// wishes returns how long to wait for the outcome, 0 or less for not at all,
// and says in the answer which preferences it followed.
func (g *Gateway) wishes(w http.ResponseWriter, r *http.Request, otherwise time.Duration) time.Duration {
	lines := r.Header["Prefer"]
	if len(lines) == 0 {
		return otherwise
	}
	p := parsePrefer(lines)
	p.wait = min(p.wait, g.options.MaxWait)
	if applied := p.applied(); applied != "" {
		w.Header().Set("Preference-Applied", applied)
	}
	switch {
	case p.hasWait:
		return p.wait
	case p.async:
		return 0
	}
	return otherwise
}

// explain adds to an engine's error what only the gateway knows.
func explain(err error, c semel.Command) error {
	switch {
	case errors.Is(err, semel.ErrUnknownCommand):
		return refusal(unknownCommand, "no handler takes the command %s here", wire.Shorten(c.Name))
	case errors.Is(err, semel.ErrKeyReused), errors.Is(err, semel.ErrKeyExpired):
		refused := translate(err)
		refused.operation = link(c.ID())
		return refused
	case errors.Is(err, semel.ErrInvalid) && strings.HasPrefix(aboutCommand(err), "malformed JSON"):
		return refusal(malformedBody, "%s", aboutCommand(err))
	}
	return err
}

// keepOpen takes the server's write timeout off an answer that was waited for:
// it has run since the request came, and might cut the answer it waited for.
func keepOpen(w http.ResponseWriter, waited time.Duration) {
	if waited > time.Second {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // where it is not supported there is none
	}
}

// answer says how an operation stands to who sent its command.
func (g *Gateway) answer(w http.ResponseWriter, r *http.Request, a semel.Answer) error {
	op, h := a.Operation, w.Header()
	h.Set("X-Operation", link(op.ID))
	if op.Resource != "" {
		h.Set("X-Resource", escapeReference(op.Resource))
	}
	if a.Replayed && op.State != semel.Failed { // a failure is not an answer to keep
		h.Set("Idempotent-Replayed", "true")
	}
	switch op.State {
	case semel.Completed:
		status := within(op.Status, 200, 299, http.StatusOK)
		if status == http.StatusCreated && op.Resource != "" {
			h.Set("Location", g.locate(r, op.Resource))
		}
		write(w, status, "application/json", op.Result)
	case semel.Rejected:
		// 5xx would ask the client to try again, and get the same for ever.
		write(w, within(op.Status, 400, 499, http.StatusConflict), "application/problem+json", op.Result)
	case semel.Failed:
		p := newProblem(operationFailed, failure(op))
		p.Code, p.Disposition, p.Operation = failureCode(op), op.Disposition, link(op.ID)
		writeProblem(w, p)
	case semel.Canceled:
		p := newProblem(operationCanceled, "the operation was canceled before it ran")
		p.Code, p.Operation = "canceled", link(op.ID)
		writeProblem(w, p)
	default:
		body, err := encodeOperation(op)
		if err != nil {
			return err
		}
		path := g.base(r) + "/" + link(op.ID)
		h.Set("Location", path)
		h.Set("Operation-Location", g.origin(r)+path)
		h.Set("Retry-After", "1")
		write(w, http.StatusAccepted, "application/json", body)
	}
	return nil
}

func within(status, low, high, otherwise int) int {
	if status < low || status > high {
		return otherwise
	}
	return status
}

// link names an operation relative to the gateway.
func link(id semel.ID) string { return "operations/" + id.String() }

// locate makes a link of what a handler named as its resource.
func (g *Gateway) locate(r *http.Request, resource string) string {
	escaped := escapeReference(resource)
	if strings.Contains(escaped, "://") {
		return escaped
	}
	return g.base(r) + "/" + strings.TrimLeft(escaped, "/")
}

// escapeReference percent-encodes what may not stand in a URI (RFC 3986), and
// leaves what a handler has encoded itself. Resources are often made of what
// clients sent.
func escapeReference(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
