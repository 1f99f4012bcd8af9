// Package demo is what "semel demo" shows: the bank in a worker of its own, a
// naive twin beside it, and between them and the visitor a network that
// doubles, delays and loses, and a hand that kills.
//
//	browser or scene ── chaos ──┬── worker: the bank, a child process
//	                            └── naive twin, in this process
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/semel-dev/semel/client"
	"github.com/semel-dev/semel/cmd/semel/page"
	"github.com/semel-dev/semel/js"
)

const (
	// Visitor is the principal of everything that is sent through the chaos.
	Visitor = "visitor"

	account = "alice"
	banker  = "banker"  // opens the account
	deposit = 1_000_000 // cents that both accounts begin with
	// Prefix is where the front shows the bank; the worker's links carry it.
	Prefix      = "/bank"
	naivePrefix = "/naive"
)

// Options are a demonstration's choices.
type Options struct {
	// Addr is where the page is served.
	Addr string
	// Dir holds the databases; it must exist and be empty.
	Dir string
	// Worker is the command that serves the bank: it gets the data file as
	// last argument, prints its address, and ends when its standard input does.
	Worker []string
	// Color marks what is right and wrong by colour as well as by words.
	Color bool
}

// A Demo is a running demonstration.
type Demo struct {
	worker    *worker
	twin      *naive
	twinBase  string
	protected *tally
	naive     *tally
	faults    *faults
	bell      *bell
	paint     painter
	opening   string // id of the operation that put the first money in
	data      string
	base      string
	servers   []*http.Server
	log       *os.File

	mu   sync.Mutex
	last report
}

// Start opens both accounts and serves the page. The caller calls Stop.
func Start(ctx context.Context, o Options) (*Demo, error) {
	d := &Demo{faults: &faults{}, bell: newBell(), paint: newPainter(o.Color), data: filepath.Join(o.Dir, "bank.db")}
	d.protected, d.naive = newTally(d.bell.ring), newTally(d.bell.ring)
	var err error
	if d.log, err = os.Create(filepath.Join(o.Dir, "worker.log")); err != nil {
		return nil, err
	}
	command := append(append([]string{}, o.Worker...), d.data)
	d.worker = newWorker(command, d.log, d.bell.ring)
	go d.worker.supervise()
	if err := d.open(ctx, o); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

func (d *Demo) open(ctx context.Context, o Options) error {
	var err error
	if d.twin, err = openNaive(ctx, filepath.Join(o.Dir, "naive.db")); err != nil {
		return err
	}
	if err = d.twin.open(ctx, account, deposit); err != nil {
		return err
	}
	if d.twinBase, err = d.serve("127.0.0.1:0", d.twin.handler()); err != nil {
		return err
	}
	if err = d.worker.await(ctx); err != nil {
		return fmt.Errorf("%w; its log is %s", err, d.log.Name())
	}
	if err = d.openAccount(ctx); err != nil {
		return err
	}
	d.base, err = d.serve(o.Addr, d.front())
	return err
}

// openAccount prepares the protected side, with no chaos in between.
func (d *Demo) openAccount(ctx context.Context) error {
	base, _ := d.worker.target()
	c, err := client.New(base, &client.Options{Authorize: as(banker)})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Call(ctx, "open", map[string]any{"account": account}, nil); err != nil {
		return fmt.Errorf("opening the account: %w", err)
	}
	paid, err := c.Call(ctx, "deposit", map[string]any{"account": account, "cents": deposit}, nil)
	if err != nil {
		return fmt.Errorf("putting money in: %w", err)
	}
	d.opening = intention{principal: banker, name: "deposit", key: paid.Key}.id()
	return nil
}

// as signs requests with a name, which the bank believes.
func as(name string) func(*http.Request) error {
	return func(r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+name)
		return nil
	}
}

// front is everything that the browser sees.
func (d *Demo) front() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/demo/", d.control())
	mux.Handle(Prefix+"/", newChaos(Prefix, d.worker.target, d.protected, d.faults))
	mux.Handle(naivePrefix+"/", newChaos(naivePrefix, func() (string, bool) { return d.twinBase, true }, d.naive, d.faults))
	mux.Handle("/", serveFiles(page.Files))
	mux.Handle("/js/", http.StripPrefix("/js", serveFiles(js.Files)))
	return http.NewCrossOriginProtection().Handler(mux)
}

// serveFiles serves the page and what it imports.
func serveFiles(files fs.FS) http.Handler {
	server := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		server.ServeHTTP(w, r)
	})
}

// serve starts a server and returns its base URL.
func (d *Demo) serve(addr string, h http.Handler) (string, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // connections are cut on purpose here
	}
	// Both browsers and Go's transport send again by themselves when a kept
	// connection turns out to be cut: that would blur the counts.
	s.SetKeepAlivesEnabled(false)
	d.servers = append(d.servers, s)
	go s.Serve(listener) //nolint:errcheck // it ends by Shutdown, or the page does not answer
	return "http://" + listener.Addr().String(), nil
}

// URL is where the page is.
func (d *Demo) URL() string { return d.base + "/" }

// API is where the bank is, behind the faults.
func (d *Demo) API() string { return d.base + Prefix + "/" }

// Data is the file with the bank's data.
func (d *Demo) Data() string { return d.data }

// Stop ends everything, the worker by draining, and says what did not go well.
func (d *Demo) Stop() error {
	close(d.bell.end)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var errs []error
	for i := len(d.servers) - 1; i >= 0; i-- {
		if err := d.servers[i].Shutdown(ctx); err != nil {
			errs = append(errs, d.servers[i].Close())
		}
	}
	if err := d.worker.stop(); err != nil {
		errs = append(errs, fmt.Errorf("stopping the worker: %w", err))
	}
	if d.twin != nil {
		errs = append(errs, d.twin.db.Close())
	}
	return errors.Join(append(errs, d.log.Close())...)
}
