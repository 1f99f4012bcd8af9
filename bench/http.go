package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/sqlite"
)

// site is an engine behind a gateway on a loopback port.
type site struct {
	engine *semel.Engine[sqlite.Tx]
	server *http.Server
	base   string
	served chan error
	close  func() error
}

func openSite(ctx context.Context, dir string) (*site, error) {
	engine, stop, err := openEngine(ctx, dir, nil)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	s := &site{engine: engine, base: "http://" + listener.Addr().String(), served: make(chan error, 1)}
	s.server = &http.Server{
		Handler: gateway.New(engine, &gateway.Options{Authenticate: func(r *http.Request) (gateway.Identity, error) {
			return gateway.Identity{Principal: r.Header.Get("Authorization")}, nil
		}}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() { s.served <- s.server.Serve(listener) }()
	s.close = func() error {
		err := s.server.Close()
		if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return errors.Join(err, stop())
	}
	return s, nil
}

// openHTTP sends each operation over HTTP and loopback, with connections that
// are kept. Client and server share the machine.
func openHTTP(ctx context.Context, dir string) (*entry, error) {
	s, err := openSite(ctx, dir)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024}
	client := &http.Client{Transport: transport}
	return &entry{
		do: func(ctx context.Context, _ int) error {
			return s.withdraw(ctx, client, "bench")
		},
		commits: func() int64 { return s.engine.Stats().Commits },
		close: func() error {
			transport.CloseIdleConnections()
			return s.close()
		},
	}, nil
}

// withdraw sends one operation and reads its answer.
func (s *site) withdraw(ctx context.Context, client *http.Client, principal string) error {
	body, err := json.Marshal(withdraw{Account: account(mathrand.Uint32()), Cents: 1})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/commands/withdraw", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Idempotency-Key", rand.Text())
	r.Header.Set("Authorization", principal)
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("answered %s: %s", answer.Status, said)
	}
	return err
}
