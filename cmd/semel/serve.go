package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/examples/bank"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/sqlite"
)

// grace is how long requests may take to end after a signal: longer than a
// caller waits by default, shorter than what a supervisor is patient for.
const grace = 20 * time.Second

// bodyPatience is for a request's body, and must be longer than the longest
// wait that a request can ask for, which it would otherwise end.
const bodyPatience = 90 * time.Second

func newServe() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the demo's bank as a plain server",
		Long: `Serve the bank over HTTP, with its data in one file. There is no chaos here:
it is what "semel demo" runs behind its faults, to be tried with your own tools.

The address is printed on standard output; port 0 takes a free one. Logs go to
standard error. On SIGTERM or SIGINT it takes no more requests, answers those
it has, and ends with 0; a second signal ends it at once.

  GET  /readyz                              200 once it takes commands, else 503
  GET  /livez                               200 while the process answers
  POST /commands/{name}                     open, deposit, withdraw, transfer
  PUT  /accounts/{account}/deposits/{key}
  PUT  /accounts/{account}/withdrawals/{key}
  GET  /accounts/{account}                  balance and newest entries
  GET  /operations, /operations/{id}        your operations

Every request says who asks: "Authorization: Bearer NAME". Any name is believed
and may use any account; so bind it to an address that only you can reach.`,
		Example: `  semel serve --addr 127.0.0.1:7314 --data bank.db
  semel serve --addr 127.0.0.1:0 --data /var/lib/bank/bank.db 2>>bank.log`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.stdout = cmd.OutOrStdout()
			o.log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			return serve(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.addr, "addr", "127.0.0.1:7314", "host and port to listen on; port 0 takes a free one")
	cmd.Flags().StringVar(&o.data, "data", "", "file that holds the data; made if it is not there (required)")
	cmd.Flags().DurationVar(&o.window, "window", 0, "how long answers are kept; a later repeat gets 410 and is not run (0 is 7 days)")
	_ = cmd.MarkFlagRequired("data")
	_ = cmd.MarkFlagFilename("data", "db")
	return cmd
}

type serveOptions struct {
	addr, data string
	window     time.Duration
	prefix     string // under which a proxy shows the gateway
	stdout     io.Writer
	log        *slog.Logger
	// hooks, if set, makes a handler for /demo/.
	hooks func(*semel.Engine[sqlite.Tx], *sql.DB) http.Handler
}

// serve runs the bank until ctx ends, and then drains.
func serve(ctx context.Context, o serveOptions) (err error) {
	store, err := sqlite.Open(ctx, o.data, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := bank.Create(ctx, store); err != nil {
		return err
	}
	engine := semel.New(store, &semel.Options{Logger: o.log, Window: o.window})
	bank.Register(engine)

	// The engine ends after the last request, not with the signal.
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	ran := make(chan error, 1)
	go func() { ran <- engine.Run(work) }()

	front := newFront(engine, store, o)
	listener, err := net.Listen("tcp", o.addr)
	if err != nil {
		endWork()
		return errors.Join(err, <-ran)
	}
	served := make(chan error, 1)
	go func() { served <- front.server.Serve(listener) }()
	fmt.Fprintf(o.stdout, "semel: serving the bank on http://%s\n", listener.Addr())

	select {
	case <-engine.Ready():
		front.gate.admit()
		o.log.InfoContext(ctx, "taking commands", slog.String("addr", listener.Addr().String()), slog.String("data", o.data))
	case err = <-ran:
		return errors.Join(err, front.server.Close())
	}
	select {
	case <-ctx.Done():
	case err = <-served: // it can no longer accept
	case err = <-ran:
		ran <- nil
	}
	front.drain(o.log)
	endWork()
	return errors.Join(err, <-ran)
}

// A front is the HTTP side of the server.
type front struct {
	server *http.Server
	gate   gate
	// leave ends the context of requests that only watch or read: they would
	// hold up the end, and can go on elsewhere where they stopped.
	leave context.CancelFunc
	// fresh are connections without a request so far, such as browsers open
	// in advance: Shutdown would wait seconds for each.
	fresh sync.Map
}

func newFront(engine *semel.Engine[sqlite.Tx], store *sqlite.Store, o serveOptions) *front {
	f := &front{}
	var leaving context.Context
	leaving, f.leave = context.WithCancel(context.Background())
	routes := bank.Routes(gateway.New(engine, &gateway.Options{
		Authenticate: bank.Authenticate, Prefix: o.prefix, Logger: o.log,
	}), store.Reader())

	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !f.gate.ready() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	if o.hooks != nil {
		mux.Handle("/demo/", o.hooks(engine, store.Reader()))
	}
	mux.Handle("/", f.gate.guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(leaving, cancel)()
			r = r.WithContext(ctx)
		} else {
			// http.Server.ReadTimeout would also end streams, which have no body.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyPatience))
		}
		routes.ServeHTTP(w, r)
	})))
	f.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(o.log.Handler(), slog.LevelWarn),
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateNew {
				f.fresh.Store(c, nil)
			} else {
				f.fresh.Delete(c)
			}
		},
	}
	return f
}

// drain takes no more requests and waits for those that have begun.
func (f *front) drain(log *slog.Logger) {
	log.Info("draining")
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	f.leave()
	if err := errors.Join(f.gate.shut(ctx), f.shutdown(ctx)); err != nil {
		log.Warn("requests were cut off", slog.Duration("after", grace), slog.Any("error", err))
		_ = f.server.Close() // it is the end either way
	}
}

func (f *front) shutdown(ctx context.Context) error {
	f.fresh.Range(func(c, _ any) bool {
		_ = c.(net.Conn).Close() // it has asked for nothing
		return true
	})
	return f.server.Shutdown(ctx)
}
