package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/wire"
)

// Status codes of a socket's end, beside those of RFC 6455. The ones from 4000
// on are for applications; 4401 is what many take for HTTP's 401.
const (
	statusUnauthorized  = websocket.StatusCode(4401)
	statusMisunderstood = websocket.StatusPolicyViolation
	statusComeBack      = websocket.StatusTryAgainLater
	statusAboutToStop   = websocket.StatusGoingAway
)

// mostSaid is what a reader's message may have in bytes. There is only one
// message that it can send.
const mostSaid = 256

// A socket writes messages to a WebSocket. It implements sink; what it reads
// arrives as moves.
type socket struct {
	conn    *websocket.Conn
	stall   time.Duration
	pending [][]byte
	moves   chan move
	left    context.CancelFunc // called when the reader has left
	running sync.WaitGroup     // the goroutines that read, and wait for pongs
	pinging chan struct{}      // holds a token while a pong is awaited
}

// push answers GET /operations/socket: every outcome of the caller's
// operations as messages, in the order of the log.
func (g *Gateway) push(w http.ResponseWriter, r *http.Request, who Identity) error {
	b, err := g.bounds(r.Context())
	if err != nil {
		return err
	}
	watch := g.engine.Watch(who.Tenant, who.Principal)
	defer watch.Close()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the origin was looked at, more strictly
	if err != nil {
		return nil // answered; checkUpgrade leaves only servers that cannot be taken over
	}
	conn.SetReadLimit(mostSaid)
	// The request's own context says nothing of a connection that was taken over.
	ctx, left := context.WithCancel(r.Context())
	defer left()
	s := &socket{
		conn: conn, stall: g.options.Stall, left: left,
		moves: make(chan move), pinging: make(chan struct{}, 1),
	}
	s.running.Go(func() { s.listen(ctx) })
	f := &feed{g: g, r: r, who: who, watch: watch, sink: s, moves: s.moves}
	f.begin(lastEventID(r), b)
	f.end(f.loop(ctx, f.outcomes))
	left()
	_ = conn.CloseNow()
	s.running.Wait()
	return nil
}

// listen reads what the reader says: where to go on, at most once. It also
// makes pongs and the reader's leaving known.
func (s *socket) listen(ctx context.Context) {
	for said := 0; ; said++ {
		kind, data, err := s.conn.Read(ctx)
		if err != nil {
			s.left()
			return
		}
		m := parseMove(data)
		if kind != websocket.MessageText || said > 0 {
			m.err = errMisunderstood
		}
		select {
		case s.moves <- m:
		case <-ctx.Done():
			return
		}
		if m.err != nil {
			return
		}
	}
}

var errMisunderstood = errors.New(`a reader says {"after": position}, once, and nothing else`)

// parseMove reads the one message that a reader can send. The position is a
// number, or a string as the gateway itself writes wide ones.
func parseMove(data []byte) move {
	var said struct {
		After json.RawMessage `json:"after"`
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&said) != nil || decoder.More() || len(said.After) == 0 {
		return move{err: errMisunderstood}
	}
	text := string(said.After)
	if text[0] == '"' {
		if json.Unmarshal(said.After, &text) != nil || text == "" {
			return move{err: errMisunderstood}
		}
	}
	if _, ok := parsePosition(text); !ok {
		return move{err: errMisunderstood}
	}
	return move{after: text}
}

// A message tells of one outcome.
type message struct {
	Type     string   `json:"type"`
	ID       semel.ID `json:"id"`
	Name     string   `json:"name"`
	Resource string   `json:"resource,omitempty"`
	Code     string   `json:"code,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Position wideInt  `json:"position"`
}

func (s *socket) operation(op *semel.Operation) error {
	m := message{
		Type: "operation_" + string(op.State), ID: op.ID, Name: op.Name,
		Resource: op.Resource, Position: wideInt(op.DonePosition),
	}
	if said := outcomeError(op); said != nil {
		m.Code, m.Reason = said.Code, said.Reason
	}
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding the outcome of operation %s: %w", op.ID, err)
	}
	s.pending = append(s.pending, data)
	return nil
}

func (s *socket) ready(position int64) {
	s.pending = append(s.pending, encodeMark(mark{Type: "ready", Position: wideInt(position)}))
}

func (s *socket) resync(position int64, reason string) {
	s.pending = append(s.pending, encodeMark(mark{Type: "resync", Reason: reason, Position: wideInt(position)}))
}

// alive asks for a pong, and cuts a reader that gives none. It does not wait:
// outcomes must not queue behind a round trip.
func (s *socket) alive() {
	select {
	case s.pinging <- struct{}{}:
	default:
		return // the last one is still awaited
	}
	s.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.stall)
		defer cancel()
		if s.conn.Ping(ctx) != nil {
			_ = s.conn.CloseNow()
		}
		<-s.pinging
	})
}

func (s *socket) flush() error {
	if len(s.pending) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.stall)
	defer cancel()
	for i, data := range s.pending {
		if err := s.conn.Write(ctx, websocket.MessageText, data); err != nil {
			return fmt.Errorf("writing to a socket: %w", err)
		}
		s.pending[i] = nil
	}
	s.pending = s.pending[:0]
	return nil
}

func (s *socket) end(why error) {
	var refused *refusedError
	code, reason := statusComeBack, "interrupted; come back"
	switch {
	case why == nil:
		code, reason = statusAboutToStop, "" // the reader has left, or the server takes it away
	case errors.Is(why, errDraining):
		code, reason = statusAboutToStop, why.Error()
	case errors.Is(why, errMisunderstood):
		code, reason = statusMisunderstood, why.Error()
	case errors.As(why, &refused):
		code, reason = statusUnauthorized, "no longer authorized"
	case len(s.pending) > 0: // it is the reader who did not read
		_ = s.conn.CloseNow()
		return
	}
	_ = s.conn.Close(code, reason) // one that is closed already has nobody to be told
}

// checkUpgrade refuses what asks for no WebSocket, in words that a client can
// act on. It is what RFC 6455, section 4.2.1 asks of a server.
func checkUpgrade(r *http.Request) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Header.Get("Sec-WebSocket-Key")))
	switch {
	case r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return refusal(upgradeRequired, "a WebSocket is opened by a GET of HTTP/1.1, not by a %s of %s", r.Method, wire.Shorten(r.Proto))
	case !hasToken(r.Header["Connection"], "upgrade"), !hasToken(r.Header["Upgrade"], "websocket"):
		return refusal(upgradeRequired, "the request does not ask for a WebSocket; /operations/events has the same outcomes as server-sent events")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return refusal(upgradeRequired, "the Sec-WebSocket-Version is %s; 13 is spoken", wire.Shorten(r.Header.Get("Sec-WebSocket-Version")))
	case err != nil || len(key) != 16 || len(r.Header["Sec-Websocket-Key"]) != 1:
		return refusal(upgradeRequired, "the Sec-WebSocket-Key is not 16 bytes in base64")
	}
	return nil
}

// hasToken reports whether a list of tokens has one, in any case.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for _, item := range strings.Split(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}
