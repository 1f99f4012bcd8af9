package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/wire"
)

// An Engine is what the gateway needs of a [semel.Engine], whatever its
// transactions are.
type Engine interface {
	Submit(ctx context.Context, c semel.Command, o semel.SubmitOptions) (semel.Answer, error)
	Operation(ctx context.Context, tenant, principal string, id semel.ID) (*semel.Operation, error)
	Operations(ctx context.Context, q semel.OperationQuery) ([]*semel.Operation, error)
	Await(ctx context.Context, tenant, principal string, id semel.ID) (*semel.Operation, error)
	Watch(tenant, principal string) *semel.Watch
	Head(ctx context.Context) (int64, error)
	Horizon(ctx context.Context) (int64, error)
	Commands() []string
}

// An Identity is who asks. It is part of every key's scope, so it must be
// stable: a user's id, not a session's. Tenant is empty in a system with one;
// Principal never is.
type Identity = wire.Identity

// A Challenge is an error for [Options].Authenticate to return, alone or
// wrapped: the value of the answer's WWW-Authenticate header, such as
// `Bearer realm="bank"`.
type Challenge = wire.Challenge

// Options are the gateway's choices. Authenticate is required; for everything
// else the zero value is fit for production.
type Options struct {
	// Authenticate says who asks. An error gives 401, with WWW-Authenticate
	// if it is or wraps a [Challenge]; one that wraps [semel.ErrUnavailable]
	// gives 503. The error's text is logged and not shown.
	Authenticate func(*http.Request) (Identity, error)
	// Authorize, if set, is asked before every command, also before one that
	// is only a repeat. An error gives 403, or 503 as above. Reading one's own
	// operations needs no more than being their principal.
	Authorize func(ctx context.Context, who Identity, command string) error

	Wait    time.Duration // how long a caller waits who does not say; 0 means 10 s, negative not at all
	MaxWait time.Duration // the most that Prefer: wait can ask for; 0 means 60 s

	MaxBody   int64 // most bytes of a command's body; 0 means 64 KiB
	MaxHeader int   // most bytes of all headers, each counted with 32 more; 0 means 16 KiB
	// MaxUpload is how long a body may take to arrive; 0 means 30 s. How long
	// headers may take is for [http.Server].ReadHeaderTimeout to say.
	MaxUpload time.Duration

	// Prefix is the path under which clients see the gateway. Empty means that
	// it is at the root or behind [http.StripPrefix], which shows by itself;
	// behind a proxy that takes a prefix away it must be set.
	Prefix string
	// Origin is the scheme and host under which clients see the gateway, such
	// as "https://api.example.com"; empty means those of the request.
	Origin string

	Heartbeat time.Duration // between signs of life on a silent stream; 0 means 15 s
	Stall     time.Duration // how long a stream's reader may take none of it before it is cut; 0 means 10 s

	// Reauthorize is how often an open stream is asked about again; 0 means
	// every minute, negative never. Authenticate is called with the request
	// that opened it and has to return the same identity; then comes Recheck.
	// What a ticket opened cannot be authenticated again: without Recheck it
	// ends, for its page to come back with a new ticket.
	Reauthorize time.Duration
	// Recheck, if set, is asked whether a caller may read outcomes: before a
	// ticket, before a stream, and while one is open. An error ends it; one
	// that wraps [semel.ErrUnavailable] asks the reader to come back.
	Recheck func(ctx context.Context, who Identity) error

	// Origins are the web pages that may open sockets and use tickets, besides
	// those of the gateway's own origin: "https://shop.example", compared as
	// they are. There is no pattern for all.
	Origins []string
	// TicketKey seals tickets, in at least 32 bytes. Gateways that share it
	// take each other's tickets; each takes one ticket once, so with n of them
	// a ticket may be used n times in its half minute. Empty means a random
	// key: behind a load balancer the stream then has to be opened where its
	// ticket came from.
	TicketKey []byte

	// Window is the engine's deduplication window, and the shortest if
	// commands have their own; 0 means 7 days as there. It is compared with
	// Repeatability-First-Sent only.
	Window time.Duration

	Logger *slog.Logger // nil means slog.Default()
}

// A Gateway serves an engine's commands and operations over HTTP. Bind routes
// before it serves; all else may happen concurrently.
type Gateway struct {
	engine  Engine
	options Options
	mux     *http.ServeMux
	tickets *tickets
}

// New returns a gateway to an engine. It panics if o.Authenticate is missing:
// without it every caller would share every other's keys. It panics as well if
// o.Origins or o.TicketKey are not what they should be.
func New(engine Engine, o *Options) *Gateway {
	if o == nil || o.Authenticate == nil {
		panic("gateway: Options.Authenticate is required")
	}
	checkOrigins(o.Origins)
	g := &Gateway{engine: engine, options: withDefaults(*o), mux: http.NewServeMux(), tickets: newTickets(o.TicketKey)}
	g.handle("POST /commands/{name}", g.post)
	g.handle("PUT /commands/{name}/{key}", g.put)
	g.handle("GET /operations", g.list)
	g.handle("GET /operations/{id}", g.read)
	g.route("GET /operations/{id}/events", g.identifyReader, g.follow)
	g.route("GET /operations/events", g.identifyReader, g.outcomes)
	g.route("GET /operations/socket", g.identifySocket, g.push)
	g.handle("POST /operations/tickets", g.ticket)
	g.mux.HandleFunc("GET /openapi.yaml", describe)
	return g
}

func withDefaults(o Options) Options {
	setDuration := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	setDuration(&o.Wait, 10*time.Second)
	setDuration(&o.MaxWait, 60*time.Second)
	setDuration(&o.Heartbeat, 15*time.Second)
	setDuration(&o.Stall, 10*time.Second)
	setDuration(&o.MaxUpload, 30*time.Second)
	setDuration(&o.Reauthorize, time.Minute)
	setDuration(&o.Window, 7*24*time.Hour)
	if o.MaxBody == 0 {
		o.MaxBody = 64 << 10
	}
	if o.MaxHeader == 0 {
		o.MaxHeader = 16 << 10
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Origin = strings.TrimSuffix(o.Origin, "/")
	if o.Prefix = strings.Trim(o.Prefix, "/"); o.Prefix != "" {
		o.Prefix = "/" + o.Prefix
	}
	return o
}

// A serve answers one request of a known caller. Before it has begun to write
// it may return an error instead, which becomes problem details.
type serve func(w http.ResponseWriter, r *http.Request, who Identity) error

func (g *Gateway) handle(pattern string, s serve) { g.route(pattern, g.identify, s) }

func (g *Gateway) route(pattern string, identify func(*http.Request) (Identity, error), s serve) {
	g.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		who, err := identify(r)
		if err == nil {
			err = s(w, r, who)
		}
		if err != nil {
			g.refuse(w, r, err)
		}
	})
}

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if r.ContentLength != 0 {
		// Also for what is refused: the server reads some of a body before it
		// answers. Where it is not supported, the server's own limit holds.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.options.MaxUpload))
	}
	if size := headerSize(r.Header); size > g.options.MaxHeader {
		g.refuse(w, r, refusal(headersTooLarge, "the headers count %d bytes; at most %d are taken", size, g.options.MaxHeader))
		return
	}
	r = g.withoutPrefix(r)
	// The mux would redirect an unclean path, to a place that lacks the
	// prefix, and some clients would follow a POST with a GET.
	if p := r.URL.EscapedPath(); path.Clean(p) != p {
		g.refuse(w, r, refusal(notFound, "there is nothing at %q", p))
		return
	}
	handler, pattern := g.mux.Handler(r)
	if pattern == "" {
		g.nowhere(w, r, handler)
		return
	}
	g.mux.ServeHTTP(w, r)
}

// headerSize counts as HTTP/2 does (RFC 9113, section 6.5.2), so that many
// small headers are as dear as a few large ones.
func headerSize(h http.Header) int {
	size := 0
	for name, values := range h {
		for _, value := range values {
			size += len(name) + len(value) + 32
		}
	}
	return size
}

// withoutPrefix takes the configured prefix off unless somebody before has.
func (g *Gateway) withoutPrefix(r *http.Request) *http.Request {
	prefix := g.options.Prefix
	if prefix == "" || !strings.HasPrefix(r.URL.Path, prefix+"/") {
		return r
	}
	stripped := new(http.Request)
	*stripped = *r
	stripped.URL = new(url.URL)
	*stripped.URL = *r.URL
	stripped.URL.Path = strings.TrimPrefix(r.URL.Path, prefix)
	stripped.URL.RawPath = strings.TrimPrefix(r.URL.RawPath, prefix)
	return stripped
}

// base returns the path under which the client sees the gateway. A mux and
// [http.StripPrefix] leave the request line as it came: what they took away is
// the difference.
func (g *Gateway) base(r *http.Request) string {
	if g.options.Prefix != "" {
		return g.options.Prefix
	}
	seen, _, _ := strings.Cut(r.RequestURI, "?")
	if !strings.HasPrefix(seen, "/") { // absolute form, as proxies send it
		u, err := url.Parse(seen)
		if err != nil {
			return ""
		}
		seen = u.EscapedPath()
	}
	base, ok := strings.CutSuffix(seen, r.URL.EscapedPath())
	if !ok || strings.HasPrefix(base, "//") { // "//host" at the start of a link would lead elsewhere
		return ""
	}
	return strings.TrimSuffix(base, "/")
}

// origin returns the scheme and host under which the client sees the gateway.
func (g *Gateway) origin(r *http.Request) string {
	switch {
	case g.options.Origin != "":
		return g.options.Origin
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// nowhere answers a request that no route takes, with the methods that the
// path does take if it is only that.
func (g *Gateway) nowhere(w http.ResponseWriter, r *http.Request, mux http.Handler) {
	verdict := statusOnly{header: http.Header{}}
	mux.ServeHTTP(&verdict, r)
	if verdict.status == http.StatusMethodNotAllowed {
		allow := verdict.header.Get("Allow")
		w.Header().Set("Allow", allow)
		g.refuse(w, r, refusal(methodNotAllowed, "%s takes %s, not %s", r.URL.EscapedPath(), allow, r.Method))
		return
	}
	g.refuse(w, r, refusal(notFound, "there is nothing at %q", r.URL.EscapedPath()))
}

// A statusOnly keeps what the mux would have said of an unknown route, for it
// to be said as problem details.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }

func (g *Gateway) identify(r *http.Request) (Identity, error) {
	who, err := g.options.Authenticate(r)
	switch {
	case errors.Is(err, semel.ErrUnavailable):
		return Identity{}, err
	case err != nil:
		g.options.Logger.DebugContext(r.Context(), "authentication refused", slog.Any("error", err))
		refused := refusal(unauthorized, "the request's credentials are missing or refused")
		var challenge Challenge
		if errors.As(err, &challenge) {
			refused.challenge = string(challenge)
		}
		return Identity{}, refused
	case who.Principal == "":
		return Identity{}, fmt.Errorf("authenticate returned an identity without a principal: %w", semel.ErrUnavailable)
	}
	return who, nil
}

func (g *Gateway) authorize(r *http.Request, who Identity, command string) error {
	if g.options.Authorize == nil {
		return nil
	}
	err := g.options.Authorize(r.Context(), who, command)
	if err == nil || errors.Is(err, semel.ErrUnavailable) {
		return err
	}
	g.options.Logger.DebugContext(r.Context(), "authorization refused",
		slog.String("principal", who.Principal), slog.String("command", command), slog.Any("error", err))
	return refusal(forbidden, "the caller may not send the command %q", command)
}
