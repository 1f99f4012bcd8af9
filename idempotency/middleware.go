package idempotency

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/wire"
)

// An Identity is who asks: part of every key's scope. It must be stable: a
// user's id, not a session's. The Principal is never empty.
type Identity = wire.Identity

// A Challenge is an error for [Options].Authenticate to return, alone or
// wrapped: the value of the answer's WWW-Authenticate header, such as
// `Bearer realm="bank"`.
type Challenge = wire.Challenge

// Options are the middleware's choices. Authenticate is required; for
// everything else the zero value is fit for production.
type Options struct {
	// Authenticate says who sends a request with a key. An error gives 401,
	// with WWW-Authenticate if it is or wraps a [Challenge]; one that wraps
	// [semel.ErrUnavailable] gives 503. Its text is logged and not shown.
	Authenticate func(*http.Request) (Identity, error)
	// Authorize, if set, is asked before every request with a key, also before
	// one that is only a repeat and never reaches the handler. An error gives
	// 403, or 503 as above. Authorization in front of the middleware does as
	// well; within the handler it does not keep a stored answer from who has
	// lost the permission since.
	Authorize func(*http.Request, Identity) error
	// Required refuses unsafe requests without a key, with 400. Otherwise they
	// are passed on as they are, without a [Unit].
	Required bool

	// Route names the route, which is part of every key's scope: it must not
	// change while keys are kept. Nil means the pattern of [http.ServeMux] if
	// one has matched already, otherwise method and path. At most 255 bytes of
	// it count.
	Route func(*http.Request) string
	// Headers are stored with the answer, besides Cache-Control,
	// Content-Disposition, Content-Encoding, Content-Language, Content-Type,
	// ETag, Last-Modified, Link, Location, Retry-After and Vary. The others
	// are sent with the first answer only.
	Headers []string
	// Final, if set, decides which answers from 400 to 499 are stored and
	// repeated; see the package's table for nil.
	Final func(status int) bool

	MaxBody   int64 // most bytes of a request's body; 0 means 1 MiB
	MaxAnswer int   // most bytes of an answer's body; 0 means 1 MiB

	Logger *slog.Logger // nil means slog.Default()
}

// kept are the headers that are stored without being asked for: those that
// belong to the body and those that lead on from it. Cookies are not among
// them: they may hold a session.
var kept = []string{"Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type",
	"Etag", "Last-Modified", "Link", "Location", "Retry-After", "Vary"}

const mebibyte = 1 << 20

func withDefaults(o Options) Options {
	if o.Route == nil {
		o.Route = route
	}
	if o.Final == nil {
		o.Final = final
	}
	if o.MaxBody == 0 {
		o.MaxBody = mebibyte
	}
	if o.MaxAnswer == 0 {
		o.MaxAnswer = mebibyte
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	headers := append([]string(nil), kept...)
	for _, name := range o.Headers {
		headers = append(headers, http.CanonicalHeaderKey(name))
	}
	o.Headers = headers
	return o
}

func route(r *http.Request) string {
	if r.Pattern != "" {
		return r.Pattern
	}
	return r.Method + " " + r.URL.EscapedPath()
}

// final is the package's table for 400 to 499.
func final(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, // who asks
		http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
		http.StatusMisdirectedRequest, http.StatusUpgradeRequired, http.StatusRequestHeaderFieldsTooLarge, // how
		http.StatusLocked, http.StatusTooEarly, http.StatusPreconditionRequired, http.StatusTooManyRequests: // when
		return false
	}
	return true
}

type middleware[Tx any] struct {
	engine  *semel.Engine[Tx]
	options Options
}

// New returns middleware that keeps keys and answers in the store of an
// engine, which must run. It panics if o.Authenticate is missing: without it
// every caller would share every other's keys.
//
// Wrap it around one route, or around a whole router. What stands behind it
// may be called more than once for a request, each time with the body from
// its beginning; the effect in the [Unit] of only one call is committed.
func New[Tx any](engine *semel.Engine[Tx], o *Options) func(http.Handler) http.Handler {
	if o == nil || o.Authenticate == nil {
		panic("idempotency: Options.Authenticate is required")
	}
	m := &middleware[Tx]{engine: engine, options: withDefaults(*o)}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, next) })
	}
}

// safe reports whether a method asks for no change (RFC 9110, section 9.2.1).
func safe(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

func (m *middleware[Tx]) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	lines := r.Header["Idempotency-Key"]
	switch {
	case safe(r.Method),
		len(lines) == 0 && !m.options.Required,
		r.Context().Value(callKey{}) != nil: // another one around this one has the key
		next.ServeHTTP(w, r)
		return
	}
	p, err := m.read(w, r, lines)
	if err == nil {
		err = m.once(w, r, next, p)
	}
	if err != nil {
		m.refuse(w, r, err)
	}
}

// parcel is a request as it is sent on: a command, and the body that the
// handler reads.
type parcel struct {
	command semel.Command
	what    description
	body    []byte
}

// read finds out who asks for what. Nothing is stored before it is through.
func (m *middleware[Tx]) read(w http.ResponseWriter, r *http.Request, lines []string) (parcel, error) {
	who, err := m.identify(r)
	if err != nil {
		return parcel{}, err
	}
	key, err := wire.ParseKey(lines)
	if err != nil {
		return parcel{}, err
	}
	body, err := m.readBody(w, r)
	if err != nil {
		return parcel{}, err
	}
	name := clip(m.options.Route(r))
	c := semel.Command{
		Tenant: who.Tenant, Principal: who.Principal, Name: name, Key: key,
		Correlation: correlate(r, who, name),
	}
	return parcel{command: c, what: describe(r, body), body: body}, nil
}

// clip makes a route fit to be a command's name. Routes that it makes the same
// still have different fingerprints.
func clip(name string) string {
	name = strings.ToValidUTF8(name, "�")
	if len(name) <= semel.MaxKey {
		return name
	}
	end := semel.MaxKey
	for !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end]
}

// correlate leaves out what is malformed: a tracing header must not keep a
// payment from being made.
func correlate(r *http.Request, who Identity, name string) semel.Correlation {
	c := semel.Correlation{
		ID: wire.ParseToken(r.Header["X-Correlation-Id"]), UserID: who.Principal, Name: name,
		Origin: r.URL.EscapedPath(), CreatedAt: time.Now().UTC(),
	}
	c.TraceID, c.SpanContext, _ = wire.ParseTraceparent(r.Header["Traceparent"])
	const most = 512
	c.Origin = c.Origin[:min(len(c.Origin), most)]
	return c
}

func (m *middleware[Tx]) identify(r *http.Request) (Identity, error) {
	who, err := m.options.Authenticate(r)
	switch {
	case errors.Is(err, semel.ErrUnavailable):
		return Identity{}, err
	case err != nil:
		m.options.Logger.DebugContext(r.Context(), "authentication refused", slog.Any("error", err))
		refused := wire.Refuse(wire.Unauthorized, "the request's credentials are missing or refused")
		var challenge Challenge
		if errors.As(err, &challenge) {
			refused.Challenge = string(challenge)
		}
		return Identity{}, refused
	case who.Principal == "":
		return Identity{}, fmt.Errorf("authenticate returned an identity without a principal: %w", semel.ErrUnavailable)
	case m.options.Authorize == nil:
		return who, nil
	}
	if err := m.options.Authorize(r, who); errors.Is(err, semel.ErrUnavailable) {
		return Identity{}, err
	} else if err != nil {
		m.options.Logger.DebugContext(r.Context(), "authorization refused", slog.String("principal", who.Principal), slog.Any("error", err))
		return Identity{}, wire.Refuse(wire.Forbidden, "the caller may not send this request")
	}
	return who, nil
}

// readBody reads the whole body, before anything of the engine is held.
func (m *middleware[Tx]) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	most := m.options.MaxBody
	if r.ContentLength > most {
		return nil, wire.Refuse(wire.PayloadTooLarge, "the body has %d bytes; at most %d are taken", r.ContentLength, most)
	}
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, wire.Refuse(wire.PayloadTooLarge, "the body is longer than the %d bytes that are taken", most)
	case err != nil:
		return nil, wire.Refuse(wire.MalformedBody, "the body ends early, after %d bytes", len(body))
	case r.ContentLength > int64(len(body)), len(r.PostForm) > 0, r.MultipartForm != nil:
		// Two requests that differ in their bodies only would have the same
		// fingerprint, and the second one the first one's answer.
		return nil, errBodyTaken
	}
	return body, nil
}

var errBodyTaken = errors.New("the body was read before the idempotency middleware: put it in front of what reads bodies")

// refuse answers a request that came to nothing. Errors that the client is not
// meant to read are logged here, and here only.
func (m *middleware[Tx]) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var refused *wire.Refusal
	if !errors.As(err, &refused) {
		refused = translate(err)
		m.log(r.Context(), refused.Kind, err)
	}
	refused.Answer(w)
}

func (m *middleware[Tx]) log(ctx context.Context, kind wire.Kind, err error) {
	level := slog.LevelError
	switch {
	case ctx.Err() != nil, kind.Status < http.StatusInternalServerError:
		level = slog.LevelDebug // the client left, or is told what it did wrong
	case errors.Is(err, semel.ErrOverloaded), errors.Is(err, semel.ErrClosed):
		level = slog.LevelWarn
	}
	m.options.Logger.LogAttrs(ctx, level, "request refused", slog.String("problem", kind.Slug), slog.Any("error", err))
}

// translate turns an error of the engine into what the client is told.
func translate(err error) *wire.Refusal {
	switch {
	case errors.Is(err, errBodyTaken):
		return wire.Refuse(wire.OperationFailed, "the server cannot tell this request from others; nothing was done")
	case errors.Is(err, errAnswerTooLarge):
		return wire.Refuse(wire.OperationFailed, "the answer is longer than the server keeps; nothing was stored")
	case errors.Is(err, semel.ErrInvalid):
		return wire.Refuse(wire.InvalidCommand, "%s", wire.About(err))
	case errors.Is(err, semel.ErrKeyReused):
		return wire.Refuse(wire.KeyReused, "the key was first used with another request; a new intention needs a new key")
	case errors.Is(err, semel.ErrKeyExpired):
		return wire.Refuse(wire.KeyExpired, "the deduplication window of this key has passed; the answer is no longer kept, and the request is never run again")
	case errors.Is(err, semel.ErrOutcomeUnknown): // before its causes
	case errors.Is(err, semel.ErrOverloaded):
		return wire.Refuse(wire.Overloaded, "too much is queued; nothing was stored, send again later with the same key")
	case errors.Is(err, semel.ErrUnavailable):
		return wire.Refuse(wire.Unavailable, "the store cannot be reached; send again later with the same key")
	case errors.Is(err, semel.ErrClosed):
		return wire.Refuse(wire.Unavailable, "the server is about to stop or has not started; send again with the same key")
	}
	// Whatever it was, it may have come after a commit.
	return wire.Refuse(wire.OutcomeUnknown, "it is not known whether this took effect; sending again with the same key resolves it")
}
