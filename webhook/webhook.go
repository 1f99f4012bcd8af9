package webhook

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/semel-dev/semel"
)

const (
	// Command is the name of the command that delivers one webhook.
	Command = "webhook.deliver"
	// Principal is whose operations deliveries are. What anybody else submits
	// under the name [Command] is rejected.
	Principal = "semel:webhook"
	// Follower is the name under which the position is kept.
	Follower = "webhooks"
)

// An Endpoint is a URL that wants to be told of outcomes.
type Endpoint struct {
	// ID names the endpoint among those of its tenant and principal. It stays
	// when URL or Secrets change; deliveries under way then go to the new URL.
	ID  string
	URL string
	// Secrets sign every request, each with a signature of its own, so that a
	// receiver can change from one to the next. [NewSecret] makes one.
	Secrets []string
	// Events are the outcomes that are wanted: [semel.EventCompleted],
	// [semel.EventRejected], [semel.EventFailed], [semel.EventCanceled]. None
	// means all.
	Events []string
	// Commands are the names of the commands whose outcomes are wanted. None
	// means all.
	Commands []string
}

func (e *Endpoint) wants(event, command string) bool {
	return (len(e.Events) == 0 || slices.Contains(e.Events, event)) &&
		(len(e.Commands) == 0 || slices.Contains(e.Commands, command))
}

// Options are a sender's choices. Endpoints must be set.
type Options struct {
	// Endpoints returns those of a tenant and principal, and none if there are
	// none. It is called for every outcome and every attempt; while it returns
	// an error, the follower stands still.
	Endpoints func(ctx context.Context, tenant, principal string) ([]Endpoint, error)
	// Gone is called when a receiver has answered 410: it wants no more. The
	// delivery is a dead letter whether Gone is set or not; later ones are
	// made until Endpoints no longer names the endpoint.
	Gone func(ctx context.Context, tenant, principal, endpoint string) error

	Logger *slog.Logger // nil means slog.Default()

	// Retry is the policy for deliveries. 0 Attempts means 12, a zero Wait up
	// to 30 s at first and an hour at last: together up to five hours. A
	// Retry-After comes before Wait and is rounded up, to a day at most.
	Retry semel.Retry
	// Patience is the age from which a delivery is not tried again; 0 means 24
	// hours.
	Patience time.Duration
	// Concurrency is how many requests an endpoint may have under way; 0 means
	// 4. See the package's documentation for what is kept in order.
	Concurrency int
	// Timeout bounds one attempt as a whole; 0 means 15 s. Connecting and the
	// TLS handshake may take 5 s each.
	Timeout time.Duration
	// Poll is how long the follower waits, at most, before it looks for
	// outcomes again; 0 means 1 s. It begins with 50 ms.
	Poll time.Duration

	// Allow names addresses that are not of the public internet and may be
	// called nevertheless.
	Allow []netip.Prefix
	// Insecure takes http beside https.
	Insecure bool
	// RootCAs are trusted instead of the system's.
	RootCAs *x509.CertPool
	// Resolver is asked for addresses; nil means the system's.
	Resolver *net.Resolver
}

func (o Options) withDefaults() Options {
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.Patience = cmp.Or(o.Patience, 24*time.Hour)
	o.Concurrency = cmp.Or(o.Concurrency, 4)
	o.Timeout = cmp.Or(o.Timeout, 15*time.Second)
	o.Poll = cmp.Or(o.Poll, time.Second)
	o.Retry.Attempts = cmp.Or(o.Retry.Attempts, 12)
	if o.Retry.Wait == (semel.Backoff{}) {
		o.Retry.Wait = semel.Backoff{First: 30 * time.Second, Most: time.Hour}
	}
	o.Retry.Classify = classifyBefore(o.Retry.Classify)
	byClass := maps.Clone(o.Retry.ByClass)
	if byClass == nil {
		byClass = make(map[semel.Class]semel.Backoff)
	}
	maps.Copy(byClass, waits())
	o.Retry.ByClass = byClass
	return o
}

// A Sender follows the outcomes of an engine's operations and delivers them.
type Sender[Tx any] struct {
	engine  *semel.Engine[Tx]
	store   semel.Store[Tx]
	options Options
	log     *slog.Logger
	client  *http.Client

	// The rest belongs to Run.
	stored int64          // the durable position
	read   int64          // up to here, all but the late endpoints are served
	late   map[line]int64 // endpoints whose backlog was full, and up to where they are served
	again  time.Time      // when the late ones are looked at next
}

// New makes a sender for an engine that does not run yet, on the engine's own
// store, and registers [Command]. The first time, it sets the follower's
// position to the end of the log: outcomes from now on have webhooks.
func New[Tx any](ctx context.Context, engine *semel.Engine[Tx], store semel.Store[Tx], o *Options) (*Sender[Tx], error) {
	if o == nil || o.Endpoints == nil {
		return nil, errors.New("webhook: Options.Endpoints is not set: nobody would be told")
	}
	if o.Concurrency < 0 {
		return nil, fmt.Errorf("webhook: Options.Concurrency is %d; an endpoint has at least one lane", o.Concurrency)
	}
	options := o.withDefaults()
	s := &Sender[Tx]{
		engine: engine, store: store, options: options, log: options.Logger,
		client: options.client(), late: make(map[line]int64),
	}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("webhook: finding the position of follower %q: %w", Follower, err)
	}
	semel.Handle(engine, Command, s.deliver, &semel.HandleOptions{
		Guarantee: semel.AtLeastOnce,
		Retry:     options.Retry,
		Lease:     2*options.Timeout + 10*time.Second, // the hooks need some of it
	})
	return s, nil
}

// Check reports what is wrong with an endpoint. An application calls it before
// it stores one; a delivery to one that is wrong is a dead letter. The name in
// the URL is not resolved: its address is checked at every connection.
func (s *Sender[Tx]) Check(e Endpoint) error {
	if e.ID == "" || len(e.ID) > 255 || !utf8.ValidString(e.ID) {
		return fmt.Errorf("webhook: the endpoint's id %q is not valid UTF-8 of 1 to 255 bytes", e.ID)
	}
	if _, err := s.options.target(e.URL); err != nil {
		return fmt.Errorf("webhook: endpoint %q: %w", e.ID, err)
	}
	if _, err := decodeSecrets(e.Secrets); err != nil {
		return fmt.Errorf("webhook: endpoint %q: %w", e.ID, err)
	}
	for _, event := range e.Events {
		if !slices.Contains([]string{semel.EventCompleted, semel.EventRejected, semel.EventFailed, semel.EventCanceled}, event) {
			return fmt.Errorf("webhook: endpoint %q wants %q, which is no outcome", e.ID, event)
		}
	}
	return nil
}
