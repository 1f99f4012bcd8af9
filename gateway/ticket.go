package gateway

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/semel-dev/semel/internal/wire"
)

// ticketLife is how long a ticket waits to be used. A page asks for one and
// opens its stream at once.
const ticketLife = 30 * time.Second

// mostUsed bounds what is remembered of used tickets, which is for as long as
// they would have lasted.
const mostUsed = 1 << 17

// Tickets open streams for who cannot set headers, which is every browser: a
// ticket stands in the URL, so it is good for one use and half a minute.
//
// A ticket is sealed, so that nothing has to be remembered of the ones that
// were never used, and its identity stays out of the logs that URLs end up
// in. What is remembered is which ones were used, in this process: gateways
// that share a key take each other's tickets, and each takes a ticket once.
type tickets struct {
	seal cipher.AEAD

	mu    sync.Mutex
	used  map[[32]byte]time.Time // until when it would have lasted
	clean int                    // forget the ended ones at this many
}

// sealed is what is in a ticket.
type sealed struct {
	Nonce     []byte // 256 random bits, by which it is known when it comes again
	Tenant    string
	Principal string
	Origin    string // of the page that asked for it; empty if it was none
	Expires   int64  // in milliseconds
}

const cleanFrom = 1024

// newTickets panics if the key is too short to be one.
func newTickets(key []byte) *tickets {
	switch {
	case len(key) == 0:
		key = make([]byte, 32)
		_, _ = rand.Read(key) // it never fails
	case len(key) < 32:
		panic(fmt.Sprintf("gateway: Options.TicketKey has %d bytes; a key has at least 32", len(key)))
	}
	derived, err := hkdf.Key(sha256.New, key, nil, "semel gateway ticket 1", 32)
	if err != nil {
		panic(fmt.Sprintf("gateway: deriving the key of tickets: %v", err))
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		panic(fmt.Sprintf("gateway: using the key of tickets: %v", err))
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(fmt.Sprintf("gateway: using the key of tickets: %v", err))
	}
	return &tickets{seal: aead, used: make(map[[32]byte]time.Time), clean: cleanFrom}
}

func (t *tickets) issue(who Identity, origin string, now time.Time) (ticket string, expires time.Time) {
	expires = now.Add(ticketLife).Truncate(time.Millisecond)
	s := sealed{make([]byte, 32), who.Tenant, who.Principal, origin, expires.UnixMilli()}
	_, _ = rand.Read(s.Nonce)   // it never fails
	plain, _ := json.Marshal(s) // strings, bytes and a number always encode
	return base64.RawURLEncoding.EncodeToString(t.seal.Seal(nil, nil, plain, nil)), expires
}

var (
	errNoTicket = errors.New("it is not a ticket of ours")
	errTooLate  = errors.New("it has expired")
	errUsed     = errors.New("it was used before")
	errStolen   = errors.New("another origin asked for it")
	errTooMany  = errors.New("too many tickets are used at the same time")
)

// redeem takes a ticket for good. One that another origin shows is taken as
// well: whoever lost it asks for a new one.
func (t *tickets) redeem(ticket, origin string, now time.Time) (Identity, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(ticket)
	if err != nil {
		return Identity{}, errNoTicket
	}
	plain, err := t.seal.Open(nil, nil, raw, nil)
	if err != nil {
		return Identity{}, errNoTicket
	}
	var s sealed
	if json.Unmarshal(plain, &s) != nil || len(s.Nonce) != 32 {
		return Identity{}, errNoTicket
	}
	expires := time.UnixMilli(s.Expires)
	if !now.Before(expires) {
		return Identity{}, errTooLate
	}
	if err := t.use([32]byte(s.Nonce), expires, now); err != nil {
		return Identity{}, err
	}
	if s.Origin != "" && origin != "" && origin != s.Origin {
		return Identity{}, errStolen
	}
	return Identity{Tenant: s.Tenant, Principal: s.Principal}, nil
}

func (t *tickets) use(nonce [32]byte, expires, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, used := t.used[nonce]; used {
		return errUsed
	}
	if len(t.used) >= t.clean || len(t.used) >= mostUsed {
		for nonce, expires := range t.used {
			if !now.Before(expires) {
				delete(t.used, nonce)
			}
		}
		t.clean = max(2*len(t.used), cleanFrom)
	}
	if len(t.used) >= mostUsed {
		return errTooMany
	}
	t.used[nonce] = expires
	return nil
}

// ticketed reports whether a request comes with a ticket, good or not.
func ticketed(r *http.Request) bool { return r.URL.Query().Has("ticket") }

// ticket answers POST /operations/tickets.
func (g *Gateway) ticket(w http.ResponseWriter, r *http.Request, who Identity) error {
	if err := g.mayRead(r, who); err != nil {
		return err
	}
	ticket, expires := g.tickets.issue(who, r.Header.Get("Origin"), time.Now())
	body, err := json.Marshal(struct {
		Ticket    string  `json:"ticket"`
		ExpiresAt instant `json:"expiresAt"`
	}{ticket, instant{expires}})
	if err != nil {
		return fmt.Errorf("encoding a ticket: %w", err)
	}
	write(w, http.StatusCreated, "application/json", body)
	return nil
}

// identifyReader says who opens a stream: by a ticket, or as everywhere else.
func (g *Gateway) identifyReader(r *http.Request) (who Identity, err error) {
	if ticketed(r) {
		who, err = g.redeem(r)
	} else {
		who, err = g.identify(r)
	}
	if err != nil {
		return Identity{}, err
	}
	return who, g.mayRead(r, who)
}

func (g *Gateway) redeem(r *http.Request) (Identity, error) {
	if err := g.checkOrigin(r); err != nil {
		return Identity{}, err
	}
	shown := r.URL.Query()["ticket"]
	if len(shown) != 1 {
		return Identity{}, refusal(unauthorized, "the request has %d tickets; one is taken", len(shown))
	}
	who, err := g.tickets.redeem(shown[0], r.Header.Get("Origin"), time.Now())
	switch {
	case errors.Is(err, errTooMany):
		return Identity{}, refusal(unavailable, "too many streams are opened at the same time; come back with a new ticket")
	case err != nil:
		return Identity{}, refusal(unauthorized, "the ticket is not taken: %s", err)
	}
	return who, nil
}

// identifySocket refuses pages of other sites before anything else: a browser
// sends their requests with the user's cookies, and asks nobody before.
func (g *Gateway) identifySocket(r *http.Request) (Identity, error) {
	if err := checkUpgrade(r); err != nil {
		return Identity{}, err
	}
	if err := g.checkOrigin(r); err != nil {
		return Identity{}, err
	}
	return g.identifyReader(r)
}

// checkOrigin takes pages of the gateway's own origin and of those listed in
// Options.Origins. Without the header it is not a page that asks.
func (g *Gateway) checkOrigin(r *http.Request) error {
	lines := r.Header["Origin"]
	if len(lines) == 0 {
		return nil
	}
	if len(lines) == 1 && (slices.Contains(g.options.Origins, lines[0]) || g.sameOrigin(r, lines[0])) {
		return nil
	}
	return refusal(originNotAllowed, "pages of the origin %s may not open this", wire.Shorten(strings.Join(lines, ", ")))
}

// sameOrigin compares with the origin that clients see. Where nobody said
// what that is, a server without TLS may stand behind a proxy that has it.
func (g *Gateway) sameOrigin(r *http.Request, origin string) bool {
	return origin == strings.ToLower(g.origin(r)) ||
		g.options.Origin == "" && r.TLS == nil && origin == strings.ToLower("https://"+r.Host)
}

// checkOrigins panics if what the program lists are not origins: a pattern, or
// a path after one, would be compared and never match, or seem to.
func checkOrigins(origins []string) {
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || strings.Contains(origin, "*") ||
			origin != strings.ToLower(u.Scheme+"://"+u.Host) {
			panic(fmt.Sprintf("gateway: Options.Origins has %q; an origin is a scheme and a host in lower case, such as https://shop.example", origin))
		}
	}
}
