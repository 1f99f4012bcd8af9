package bench

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/semel-dev/semel"
)

// A Push is what telling users of outcomes costs.
type Push struct {
	Connections int           // idle ones of each kind
	Streams     int           // bytes of memory for each idle stream of server-sent events
	Sockets     int           // bytes of memory for each idle WebSocket
	PerSecond   float64       // operations while the delay was measured
	P50, P99    time.Duration // from the answer to the sender until a connected user is told
}

// MeasurePush opens idle connections, closes them, and then measures how soon
// a connected user hears of outcomes at the given rate.
func MeasurePush(ctx context.Context, connections, perSecond int) (p Push, err error) {
	dir, err := os.MkdirTemp("", "semel-bench-")
	if err != nil {
		return Push{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := openSite(ctx, dir)
	if err != nil {
		return Push{}, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	p = Push{Connections: connections}
	if p.Streams, err = s.idle(connections, "GET /operations/events HTTP/1.1\r\n", "event: ready"); err != nil {
		return p, fmt.Errorf("opening streams: %w", err)
	}
	upgrade := "GET /operations/socket HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	if p.Sockets, err = s.idle(connections, upgrade, "101 Switching"); err != nil {
		return p, fmt.Errorf("opening sockets: %w", err)
	}
	delays, rate, err := s.delays(ctx, perSecond, 3*time.Second)
	if err != nil {
		return p, fmt.Errorf("measuring delays: %w", err)
	}
	slices.Sort(delays)
	p.PerSecond, p.P50, p.P99 = rate, delays[len(delays)/2], delays[len(delays)*99/100]
	return p, nil
}

// idle opens connections until each has said that it is ready, and returns the
// memory that one takes. The client's side is a bare socket in the same
// process; its few hundred bytes are counted too.
func (s *site) idle(connections int, request, ready string) (perConnection int, err error) {
	address := strings.TrimPrefix(s.base, "http://")
	before := memory()
	open := make([]net.Conn, 0, connections)
	defer func() {
		for _, c := range open {
			err = errors.Join(err, c.Close())
		}
	}()
	answer := make([]byte, 4096)
	for i := range connections {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return 0, err
		}
		open = append(open, c)
		if _, err := fmt.Fprintf(c, "%sHost: %s\r\nAuthorization: user%d\r\n\r\n", request, address, i); err != nil {
			return 0, err
		}
		said := ""
		for !strings.Contains(said, ready) {
			n, err := c.Read(answer)
			if err != nil {
				return 0, fmt.Errorf("connection %d said %q: %w", i, said, err)
			}
			said += string(answer[:n])
		}
	}
	return int(memory()-before) / connections, nil
}

// memory returns what is in use after everything unused was freed.
func memory() int64 {
	runtime.GC()
	runtime.GC() // what finalizers have let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// delays sends operations at a rate and notes for each how long after its
// answer the user's stream told of it.
func (s *site) delays(ctx context.Context, perSecond int, d time.Duration) ([]time.Duration, float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	told := make(map[string]time.Time)
	answered := make(map[string]time.Time)
	total := int(d.Seconds() * float64(perSecond))
	heard, err := s.listen(ctx, told, total)
	if err != nil {
		return nil, 0, err
	}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		fail error
	)
	start := time.Now()
	for i := range total {
		until := start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(until)) // an open loop: slow answers do not slow the senders
		wg.Go(func() {
			body, err := json.Marshal(withdraw{Account: account(mathrand.Uint32()), Cents: 1})
			var answer semel.Answer
			if err == nil {
				answer, err = s.engine.Submit(ctx, semel.Command{Principal: "listener", Name: "withdraw", Key: rand.Text(), Body: body}, semel.SubmitOptions{})
			}
			now := time.Now()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				fail = err
				return
			}
			answered[answer.Operation.ID.String()] = now
		})
	}
	wg.Wait()
	rate := float64(total) / time.Since(start).Seconds()
	if err := errors.Join(fail, <-heard); err != nil {
		return nil, 0, err
	}
	delays := make([]time.Duration, 0, total)
	for id, at := range answered {
		delays = append(delays, max(0, told[id].Sub(at)))
	}
	return delays, rate, nil
}

// listen reads one user's stream until it has told of a number of operations.
func (s *site) listen(ctx context.Context, told map[string]time.Time, total int) (<-chan error, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/operations/events", nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "listener")
	transport := &http.Transport{}
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return nil, err
	}
	heard := make(chan error, 1)
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() && lines.Text() != "event: ready" {
		continue
	}
	go func() {
		defer transport.CloseIdleConnections()
		defer answer.Body.Close()
		for len(told) < total && lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), `data: {"id":"`)
			if !ok {
				continue
			}
			id, _, _ := strings.Cut(data, `"`)
			told[id] = time.Now()
		}
		heard <- lines.Err()
	}()
	return heard, lines.Err()
}
