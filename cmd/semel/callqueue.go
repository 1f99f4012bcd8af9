package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/semel-dev/semel/client"
)

// manage does what is asked about the queue itself.
func (o *callOptions) manage(ctx context.Context) error {
	if _, err := os.Stat(o.queue); err != nil {
		return err // it is not made to be found empty
	}
	file, c, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // what counts was on disk before
	defer c.Close()
	switch {
	case o.list:
		return o.printQueue(c.List())
	case o.cancel != "":
		err = c.Cancel(o.cancel)
		if errors.Is(err, client.ErrMayHaveHappened) {
			return &codedError{err, exitOpen}
		}
		return err
	case o.forget != "":
		return c.Acknowledge(o.forget)
	}
	return o.drainQueue(ctx, c)
}

func (o *callOptions) printQueue(list []*client.Pending) error {
	if o.output == "json" {
		for _, p := range list {
			if err := o.print(pendingResult(p)); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	if len(list) > 0 {
		fmt.Fprintln(w, "KEY\tSTATE\tSINCE\tCOMMAND")
	}
	for _, p := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Key, p.State, p.Created.Local().Format(time.DateTime), name(p.Request))
	}
	return w.Flush()
}

func pendingResult(p *client.Pending) result {
	r := result{Key: p.Key, Command: name(p.Request), State: string(p.State), Operation: p.Operation, Tries: p.Tries}
	if p.Err != nil {
		r.Error = p.Err.Error()
	}
	return r
}

// drainQueue sends what is pending, prints the outcomes and forgets those that
// need nobody's attention.
func (o *callOptions) drainQueue(ctx context.Context, c *client.Client) error {
	run, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- c.Run(run) }()
	open := -1
	late := c.Drain(ctx, func(p client.Progress) {
		if p.Open() == open {
			return
		}
		open = p.Open()
		fmt.Fprintf(o.stderr, "semel: %d open, %d completed, %d rejected, %d failed\n", open, p.Completed, p.Rejected, p.Failed)
		if p.Err != nil {
			fmt.Fprintln(o.stderr, "semel: last error:", p.Err)
		}
	})
	stop()
	if err := <-ran; err != nil {
		return err
	}
	worst := exitOK
	for _, p := range c.List() {
		r := pendingResult(p)
		if p.State.Done() {
			reply, err := c.Await(ctx, p)
			r = resultOf(p.Request, reply, err)
			r.State = string(p.State)
		}
		if o.output == "json" || p.State == client.PendingCompleted {
			if err := o.print(r); err != nil {
				return err
			}
		}
		said := fmt.Sprintf("semel: %s: %s, key %s", r.Command, r.State, r.Key)
		if r.Error != "" {
			said += ": " + r.Error
		}
		fmt.Fprintln(o.stderr, said)
		if p.State.Done() && p.State != client.PendingFailed {
			if err := c.Acknowledge(p.Key); err != nil {
				return err
			}
		}
		worst = worse(worst, r.code())
	}
	switch worst {
	case exitOK:
		return nil
	case exitOpen:
		return &codedError{late, exitOpen}
	}
	return &codedError{errors.New("not everything in the queue was completed"), worst}
}

// worse orders exit codes: what is open can still become anything, a failure
// wants somebody, a no is an answer.
func worse(a, b int) int {
	for _, code := range []int{exitOpen, exitFailed, exitConflict, exitRejected} {
		if a == code || b == code {
			return code
		}
	}
	return exitOK
}
