package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clients is how many send at the same time.
const clients = 12

var accounts = []string{"ada", "bob", "cyd", "dan", "eva", "fay", "gus", "hal", "ivy", "jon"}

// A driver plays the clients of one bank.
type driver struct {
	journal
	launch   launch
	patience time.Duration // how long anything accepted may take to be done
	name     string        // of the scenario, for its dice
	streams  int           // dice given out so far
	server   *server
}

func newDriver(t *testing.T, name string, l launch) *driver {
	dir := t.TempDir()
	l.data, l.log = filepath.Join(dir, "bank.db"), filepath.Join(dir, "log")
	d := &driver{launch: l, name: name, patience: slow}
	d.window = l.window
	t.Cleanup(func() {
		if d.server != nil {
			d.server.kill()
		}
		if said, err := os.ReadFile(l.log); err == nil && t.Failed() {
			t.Logf("the program's last words:\n%s", said[max(0, len(said)-4000):])
		}
	})
	return d
}

// start starts the program, armed or not, on the driver's file.
func (d *driver) start(ctx context.Context, crash string) (err error) {
	l := d.launch
	l.crash = crash
	d.server, err = start(ctx, l)
	return err
}

func (d *driver) dice() *rand.Rand {
	d.streams++
	return dice(d.name, d.streams)
}

// open opens the accounts and puts something into each.
func (d *driver) open(ctx context.Context) error {
	var opening, filling []*intention
	for _, a := range accounts {
		opening = append(opening, d.write(&intention{principal: "ann", command: "open", account: a}))
	}
	if err := d.settle(ctx, opening); err != nil {
		return err
	}
	for _, a := range accounts {
		filling = append(filling, d.write(&intention{principal: "ann", command: "deposit", account: a, cents: 1000}))
	}
	return d.settle(ctx, filling)
}

// intend decides on a command and writes it down.
func (d *driver) intend(r *rand.Rand) *intention {
	in := &intention{
		principal: []string{"ann", "ben", "cat"}[r.IntN(3)],
		account:   accounts[r.IntN(len(accounts))],
		cents:     1 + r.Int64N(300),
		route:     r.IntN(3),
		async:     r.IntN(10) < 3,
		twice:     r.IntN(5) == 0,
	}
	switch n := r.IntN(10); {
	case n < 3:
		in.command = "deposit"
	case n < 7:
		in.command = "withdraw"
		if n == 6 {
			in.cents += 1_000_000_000 // more than anybody has
		}
	default:
		in.command, in.to = "transfer", accounts[r.IntN(len(accounts))]
		if in.to == in.account {
			in.command, in.to = "deposit", ""
		}
	}
	return d.write(in)
}

// A load is what the clients send until the program dies, stop is closed, or
// it was enough.
type load struct {
	most int64         // intentions; 0 is no end
	pace time.Duration // between the requests of one client, 0 for none
	stop <-chan struct{}
}

func (d *driver) load(ctx context.Context, l load) {
	var group sync.WaitGroup
	var begun atomic.Int64
	for range clients {
		r := d.dice()
		group.Go(func() {
			c := client{driver: d, dice: r}
			for !d.server.dead() && (l.most == 0 || begun.Add(1) <= l.most) && l.wait(d.server) {
				c.next(ctx)
			}
		})
	}
	group.Wait()
}

// wait keeps the pace, and reports whether to go on.
func (l load) wait(s *server) bool {
	timer := time.NewTimer(l.pace)
	defer timer.Stop()
	select {
	case <-l.stop:
		return false
	case <-s.died:
		return false
	case <-timer.C:
		return true
	}
}

// A client sends one thing after another, as people do.
type client struct {
	*driver
	dice *rand.Rand
	last *intention
}

func (c *client) next(ctx context.Context) {
	if c.last != nil && c.dice.IntN(8) == 0 {
		c.send(ctx, c.last) // has it worked? it asks again
		return
	}
	in := c.intend(c.dice)
	c.last = in
	tries := 1
	if in.twice {
		tries = 3
	}
	var clicks sync.WaitGroup
	for range tries {
		clicks.Go(func() { c.send(ctx, in) })
	}
	clicks.Wait()
	if c.dice.IntN(4) == 0 {
		c.look(ctx, in)
	}
}

// look reads the account of what has just been completed: it must show it.
func (c *client) look(ctx context.Context, in *intention) {
	in.mu.Lock()
	completed := in.outcome != nil && in.outcome.done()
	in.mu.Unlock()
	if !completed {
		return
	}
	s, err := c.statement(ctx, in.account)
	if err != nil {
		return // not answered
	}
	c.looked.Add(1)
	for _, e := range s.Entries {
		if e.Operation == in.id {
			return
		}
	}
	c.wrong(projection, "%v is completed, and %s is shown without it, with %d entries", in, in.account, len(s.Entries))
}

// send makes one try and writes down what was heard, if anything was.
func (d *driver) send(ctx context.Context, in *intention) {
	r, err := in.request(d.server.base)
	if err != nil {
		d.wrong(unexpected, "%v cannot be sent: %v", in, err)
		return
	}
	in.mu.Lock()
	if in.first.IsZero() {
		in.first = time.Now()
	}
	before := in.known
	in.mu.Unlock()
	status, header, body, err := d.do(r.WithContext(ctx))
	if err != nil {
		return // not answered
	}
	d.heard(in, before, answer{
		status: status, body: string(body), replayed: header.Get("Idempotent-Replayed") == "true",
		contentType: header.Get("Content-Type"), operation: header.Get("X-Operation"),
		resource: header.Get("X-Resource"), location: header.Get("Location"),
	})
}

// do returns a whole answer or an error: half of one is none.
func (d *driver) do(r *http.Request) (status int, header http.Header, body []byte, err error) {
	w, err := d.server.client.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { err = errors.Join(err, w.Body.Close()) }()
	body, err = io.ReadAll(w.Body)
	return w.StatusCode, w.Header, body, err
}

// ask follows an accepted operation by its own address. It never sends the
// command: that would hide that it was lost.
func (d *driver) ask(ctx context.Context, in *intention) (done bool) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.server.base+"/operations/"+in.id, nil)
	if err != nil {
		d.wrong(unexpected, "%v cannot be asked for: %v", in, err)
		return true
	}
	r.Header = http.Header{"Authorization": {"Bearer " + in.principal}, "Prefer": {"wait=5"}}
	status, _, body, err := d.do(r)
	if err != nil || status == http.StatusServiceUnavailable {
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	switch status {
	case http.StatusOK:
	case http.StatusGone:
		d.heardGone(in, answer{status: status, body: string(body)})
		return true
	case http.StatusNotFound:
		d.wrong(lost, "%v was accepted with 202, and is not there", in)
		return true
	default:
		d.wrong(unexpected, "%v was answered %d %s when asked for", in, status, body)
		return true
	}
	var op struct {
		State string `json:"state"`
		Done  bool   `json:"done"`
	}
	if err := json.Unmarshal(body, &op); err != nil {
		d.wrong(unexpected, "%v reads %s", in, body)
	}
	if op.Done && op.State != "completed" && op.State != "rejected" {
		d.wrong(lost, "%v was accepted with 202, and is %s: %s", in, op.State, body)
	}
	return op.Done
}

var errDied = errors.New("the program died unasked")

// settle brings intentions to an end: what was accepted is followed, then all
// is sent again until it is answered. What takes too long is stuck.
func (d *driver) settle(ctx context.Context, open []*intention) error {
	late, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	err := d.each(open, func(in *intention) error { return d.finish(late, in) })
	if err == nil && late.Err() != nil && ctx.Err() == nil {
		for _, in := range open {
			if !in.settled() {
				d.wrong(stuck, "%v was not done within %s", in, d.patience)
			}
		}
	}
	return err
}

func (d *driver) finish(late context.Context, in *intention) error {
	in.mu.Lock()
	follow := in.accepted && in.outcome == nil
	in.mu.Unlock()
	if follow {
		err := poll(late, d.patience, func() (bool, error) {
			if d.server.dead() {
				return false, errDied
			}
			return d.ask(late, in), nil
		})
		if err != nil {
			return unlessLate(late, err)
		}
	}
	err := poll(late, d.patience, func() (bool, error) {
		if in.settled() {
			return true, nil
		}
		if d.server.dead() {
			return false, errDied
		}
		d.send(late, in)
		return in.settled(), nil
	})
	return unlessLate(late, err)
}

// unlessLate leaves it to who called to say what is late.
func unlessLate(late context.Context, err error) error {
	if err != nil && !errors.Is(err, errDied) && late.Err() != nil {
		return nil
	}
	return err
}

// repeat sends intentions once more, each of which has been answered.
func (d *driver) repeat(ctx context.Context, sample []*intention) error {
	return d.each(sample, func(in *intention) error {
		if d.server.dead() {
			return errDied
		}
		d.send(ctx, in)
		return nil
	})
}

// each calls f for all, by several clients at once.
func (d *driver) each(all []*intention, f func(*intention) error) error {
	var group sync.WaitGroup
	var next atomic.Int64
	errs := make(chan error, clients)
	for range clients {
		group.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(len(all)) {
					return
				}
				if err := f(all[i]); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	return <-errs
}

// A statement is what GET /accounts/{account} shows.
type statement struct {
	Account string  `json:"account"`
	Balance int64   `json:"balance"`
	Entries []entry `json:"entries"`
}

type entry struct {
	Operation string `json:"operation"`
	Command   string `json:"command"`
	Cents     int64  `json:"cents"`
	Balance   int64  `json:"balance"`
}

func (d *driver) statement(ctx context.Context, account string) (s statement, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.server.base+"/accounts/"+account, nil)
	if err != nil {
		return s, err
	}
	r.Header.Set("Authorization", "Bearer ann")
	status, _, body, err := d.do(r)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("reading the account %q: %d %s", account, status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

// report fails the test with what was found.
func (d *driver) report(t *testing.T) {
	t.Helper()
	for _, p := range d.problems {
		t.Errorf("%s: %s", p.kind, p.text)
	}
	if n := d.violations(); n > len(d.problems) {
		t.Errorf("and %d more", n-len(d.problems))
	}
}

// example returns a problem of one of the kinds.
func (d *driver) example(kinds []kind) string {
	for _, p := range d.problems {
		if slices.Contains(kinds, p.kind) {
			return string(p.kind) + ": " + p.text
		}
	}
	return ""
}
