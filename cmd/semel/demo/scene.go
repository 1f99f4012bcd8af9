package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/client"
)

const (
	amount = 2500 // cents of every withdrawal in the scene
	clicks = 5    // how often one click is sent at once
)

// A scene sends withdrawals to both sides through the faults, with a client
// that retries, and keeps its own account of what it was told.
type scene struct {
	demo      *Demo
	out       io.Writer
	protected *client.Client
	naive     *client.Client
	first     string // the key of the first withdrawal
	expected  int64  // balance, by what was acknowledged
}

// Play runs the scene and writes what was done and what came of it. An error
// means that something did not happen as it must, also on the naive side:
// were nothing doubled there, the faults would not have happened.
func (d *Demo) Play(ctx context.Context, out io.Writer) error {
	s := &scene{demo: d, out: out, expected: deposit}
	var err error
	if s.protected, err = s.client(Prefix); err != nil {
		return err
	}
	defer s.protected.Close()
	if s.naive, err = s.client(naivePrefix); err != nil {
		return err
	}
	defer s.naive.Close()
	fmt.Fprintf(out, "Both accounts begin with %s. Each withdrawal is one of %s.\n\n", money(deposit), money(amount))
	for i, step := range []struct {
		title string
		pays  int // effects that are right
		run   func(context.Context) error
	}{
		{"one withdrawal", 1, s.once},
		{"the same click five times at once", 1, s.clicked},
		{"the reply lost after the commit; the client asks again", 1, s.replyLost},
		{"the worker killed in the middle of a transaction; the client asks again", 1, s.killed},
		{"the same key with another amount: refused", 0, s.altered},
	} {
		before, err := d.take(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "  %d  %s\n", i+1, step.title)
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("scene %d, %s: %w", i+1, step.title, err)
		}
		after, err := d.take(ctx)
		if err != nil {
			return err
		}
		after.minus(before).print(out, d.paint, step.pays)
		if paid := after.protected.Effects - before.protected.Effects; paid != step.pays {
			return fmt.Errorf("scene %d, %s: the ledger has %d new rows, want %d", i+1, step.title, paid, step.pays)
		}
		if after.balance != s.expected {
			return fmt.Errorf("scene %d, %s: the balance is %d, by the answers it should be %d", i+1, step.title, after.balance, s.expected)
		}
	}
	return d.checkScene(ctx)
}

func (s *scene) client(prefix string) (*client.Client, error) {
	return client.New(s.demo.base+prefix, &client.Options{
		Authorize:  as(Visitor),
		Tries:      20, // a worker has the time to come back
		TryTimeout: 15 * time.Second,
		Wait:       semel.Backoff{First: 50 * time.Millisecond, Most: 500 * time.Millisecond},
	})
}

func withdrawal(key string, cents int64) client.Request {
	return client.Request{
		Method: http.MethodPut,
		Path:   "/accounts/" + account + "/withdrawals/{key}",
		Key:    key,
		Body:   map[string]int64{"cents": cents},
	}
}

// withdraw sends one intention to both sides and believes the answers.
func (s *scene) withdraw(ctx context.Context) (*client.Reply, error) {
	reply, err := s.protected.Send(ctx, withdrawal("", amount))
	if err != nil {
		return nil, err
	}
	if err := s.acknowledged(reply); err != nil {
		return nil, err
	}
	_, err = s.naive.Send(ctx, withdrawal(reply.Key, amount))
	return reply, err
}

// acknowledged notes an answer: the money counts as taken once.
func (s *scene) acknowledged(reply *client.Reply) error {
	s.expected -= amount
	var result struct {
		Balance int64 `json:"balance"`
	}
	if err := json.Unmarshal(reply.Body, &result); err != nil {
		return fmt.Errorf("the answer %q: %w", reply.Body, err)
	}
	if result.Balance != s.expected {
		return fmt.Errorf("the answer says the balance is %d; it should be %d", result.Balance, s.expected)
	}
	return nil
}

func (s *scene) once(ctx context.Context) error {
	reply, err := s.withdraw(ctx)
	if err == nil {
		s.first = reply.Key
	}
	return err
}

func (s *scene) clicked(ctx context.Context) error {
	var key string
	for _, side := range []*client.Client{s.protected, s.naive} {
		replies, errs := make([]*client.Reply, clicks), make([]error, clicks)
		var all sync.WaitGroup
		if key == "" {
			key = "click-" + s.first
		}
		for i := range clicks {
			all.Go(func() { replies[i], errs[i] = side.Send(ctx, withdrawal(key, amount)) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if side == s.naive {
			continue
		}
		replays := 0
		for _, r := range replies {
			if r.Replayed {
				replays++
			}
			if !bytes.Equal(r.Body, replies[0].Body) {
				return fmt.Errorf("two answers to one key: %q and %q", r.Body, replies[0].Body)
			}
		}
		if replays != clicks-1 {
			return fmt.Errorf("%d answers were replays, want %d", replays, clicks-1)
		}
		if err := s.acknowledged(replies[0]); err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) replyLost(ctx context.Context) error {
	s.demo.faults.set(Switches{LoseReply: true})
	defer s.demo.faults.set(Switches{})
	reply, err := s.withdraw(ctx)
	if err == nil && !(reply.Replayed && reply.Tries > 1) {
		err = fmt.Errorf("no reply was lost: answered at try %d", reply.Tries)
	}
	return err
}

func (s *scene) killed(ctx context.Context) error {
	restarts := s.demo.worker.state().Restarts
	if err := s.demo.kill(ctx, midTransaction); err != nil {
		return err
	}
	reply, err := s.withdraw(ctx)
	if err != nil {
		return err
	}
	if reply.Tries < 2 || s.demo.worker.state().Restarts == restarts {
		return fmt.Errorf("the worker was not killed: answered at try %d", reply.Tries)
	}
	return nil
}

func (s *scene) altered(ctx context.Context) error {
	_, err := s.protected.Send(ctx, withdrawal(s.first, amount+100))
	var refused *client.Error
	if !errors.Is(err, semel.ErrKeyReused) || !errors.As(err, &refused) || refused.Status != http.StatusUnprocessableEntity {
		return fmt.Errorf("want 422 for a key that is used, got: %w", errors.Join(err, errors.New("not refused as it must be")))
	}
	_, err = s.naive.Send(ctx, withdrawal(s.first, amount+100))
	return err
}

// checkScene looks at the whole once more.
func (d *Demo) checkScene(ctx context.Context) error {
	t, err := d.take(ctx)
	if err != nil {
		return err
	}
	errs := []error{t.check()}
	for _, i := range d.report(ctx).Invariants {
		if !i.OK {
			errs = append(errs, fmt.Errorf("it does not hold that %s: %s", i.Name, i.Detail))
		}
	}
	return errors.Join(errs...)
}
