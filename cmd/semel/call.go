package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/semel-dev/semel/client"
)

// What "semel call" ends with besides exitOK, exitFailed and exitUsage.
const (
	exitRejected = 3
	exitConflict = 4
	exitOpen     = 5
)

// A codedError ends the process with a code of its own.
type codedError struct {
	error
	code int
}

func (e *codedError) Unwrap() error { return e.error }

func usage(format string, args ...any) error {
	return &codedError{fmt.Errorf(format, args...), exitUsage}
}

func newCall() *cobra.Command {
	var o callOptions
	cmd := &cobra.Command{
		Use:   "call COMMAND [BODY] | METHOD PATH [BODY]",
		Short: "Send a command so that it happens once",
		Long: `Send a command to a gateway: curl that happens once. A key is made before the
first try, unless you give one, and every try carries it; failures that may
pass are tried again for as long as --wait says.

The command is named, or a route is given by its METHOD (POST, PUT, PATCH or
DELETE) and PATH, in which {key} stands for the key. BODY is JSON: as it is,
@FILE, or - for standard input. Without it {} is sent.

The result is printed on standard output, as it came or, with -o json, in an
object that says more. Everything else goes to standard error.

With --queue the command is on disk before the first byte is sent. What has no
outcome when --wait has passed, or when this process dies, stays in the file
and is sent on by --drain. With --async beside it nothing is sent at all before
that. No credentials are written to the file: drain it as the same user, since
for another one the same key is another command.

The exit code says how it ended:

  0  completed, or nothing left to do
  1  failed or unavailable; nothing is kept, so repeat it with the same --key
  2  the command line is wrong
  3  rejected: the business's no
  4  conflict: the key was used for something else, or is too old
  5  not known yet: accepted, or kept in the queue

SEMEL_TOKEN holds the token that is sent as "Authorization: Bearer TOKEN", and
SEMEL_SERVER the server, where the flags do not. Other users of this machine
can see what is in a command line, --token included.`,
		Example: `  export SEMEL_SERVER=http://127.0.0.1:7314 SEMEL_TOKEN=me
  semel call open '{"account":"alice"}'
  semel call PUT '/accounts/alice/deposits/{key}' '{"cents":5000}'
  semel call withdraw --key rent-may '{"account":"alice","cents":100}' -o json
  semel call withdraw --queue ~/.bank-queue @withdrawal.json
  semel call --queue ~/.bank-queue --list
  semel call --queue ~/.bank-queue --drain --wait 8h`,
		Args: cobra.MaximumNArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.stdin, o.stdout, o.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return o.call(cmd.Context(), args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.server, "server", os.Getenv("SEMEL_SERVER"), "base URL of the gateway (with --queue, the one the file is for)")
	f.StringVar(&o.token, "token", "", "token to send (better in SEMEL_TOKEN)")
	f.StringArrayVarP(&o.headers, "header", "H", nil, `another header, as "Name: value"; may be repeated`)
	f.StringVar(&o.key, "key", "", "idempotency key of this intention (none makes one)")
	f.DurationVar(&o.wait, "wait", time.Minute, "how long to try, and to wait for the outcome")
	f.BoolVar(&o.async, "async", false, "do not wait for the outcome")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	f.StringVar(&o.queue, "queue", "", "file that keeps what has no outcome yet")
	f.BoolVar(&o.list, "list", false, "list what is in the queue")
	f.BoolVar(&o.drain, "drain", false, "send what is in the queue, and print the outcomes")
	f.StringVar(&o.cancel, "cancel", "", "take the command with this key out of the queue, if it was not sent")
	f.StringVar(&o.forget, "forget", "", "forget the failed command with this key")
	_ = cmd.MarkFlagFilename("queue")
	return cmd
}

type callOptions struct {
	server, token, key, output, queue, cancel, forget string
	headers                                           []string
	wait                                              time.Duration
	async, list, drain                                bool

	stdin          io.Reader
	stdout, stderr io.Writer
}

func (o *callOptions) call(ctx context.Context, args []string) error {
	if err := o.check(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.wait, fmt.Errorf("--wait %v has passed", o.wait))
	defer cancel()
	if o.managesQueue() {
		return o.manage(ctx)
	}
	r, err := o.request(args)
	if err != nil {
		return err
	}
	file, c, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if file != nil {
		defer func() { _ = file.Close() }() // what counts was on disk before
	}
	if file != nil && o.async {
		p, err := c.Submit(ctx, r)
		if err != nil {
			return err
		}
		return o.report(result{Key: p.Key, Command: name(r), State: "pending"}, nil)
	}
	reply, err := c.Send(ctx, r)
	return o.report(resultOf(r, reply, err), err)
}

func (o *callOptions) managesQueue() bool {
	return o.list || o.drain || o.cancel != "" || o.forget != ""
}

// check finds what is wrong with the command line as a whole.
func (o *callOptions) check(args []string) error {
	modes := 0
	for _, given := range []bool{o.list, o.drain, o.cancel != "", o.forget != ""} {
		if given {
			modes++
		}
	}
	switch {
	case o.output != "text" && o.output != "json":
		return usage("output %q: want text or json", o.output)
	case o.wait <= 0:
		return usage("wait %v: want more than 0", o.wait)
	case modes > 1:
		return usage("--list, --drain, --cancel and --forget exclude each other")
	case modes == 1 && o.queue == "":
		return usage("say which queue, with --queue FILE")
	case modes == 1 && len(args) > 0:
		return usage("%q: nothing is sent with --list, --drain, --cancel or --forget beside it", args[0])
	case modes == 0 && len(args) == 0:
		return usage("a command is missing, or --list, --drain, --cancel or --forget")
	}
	return nil
}

// request makes a request of the arguments.
func (o *callOptions) request(args []string) (client.Request, error) {
	r := client.Request{Key: o.key, Async: o.async, Header: http.Header{}}
	switch method := args[0]; {
	case method == "GET" || method == "HEAD":
		return r, usage("%s changes nothing, and needs no call: use curl", method)
	case method == "POST" || method == "PUT" || method == "PATCH" || method == "DELETE":
		if len(args) < 2 || !strings.HasPrefix(args[1], "/") {
			return r, usage("%s wants a path that begins with /", method)
		}
		r.Method, r.Path, args = method, args[1], args[2:]
	default:
		r.Command, args = args[0], args[1:]
	}
	if len(args) > 1 {
		return r, usage("%q: what comes after the body", args[1])
	}
	for _, h := range o.headers {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return r, usage("header %q: want Name: value", h)
		}
		r.Header.Add(name, strings.TrimSpace(value))
	}
	if len(args) == 0 {
		return r, nil
	}
	body, err := o.body(args[0])
	if err != nil {
		return r, err
	}
	if !json.Valid(body) {
		return r, usage("the body is not JSON: %.60q", body)
	}
	r.Body = body
	return r, nil
}

func (o *callOptions) body(arg string) ([]byte, error) {
	switch file, isFile := strings.CutPrefix(arg, "@"); {
	case arg == "-":
		return io.ReadAll(o.stdin)
	case isFile:
		return os.ReadFile(file)
	}
	return []byte(arg), nil
}

// connect opens the queue, if there is one, and makes the client.
func (o *callOptions) connect(ctx context.Context) (*client.PendingFile, *client.Client, error) {
	var file *client.PendingFile
	if o.queue != "" {
		var err error
		if file, err = openQueue(ctx, o.queue); err != nil {
			return nil, nil, err
		}
		for _, d := range file.Damage {
			fmt.Fprintf(o.stderr, "semel: %s: %v\n", o.queue, d)
		}
		if file.Saved != "" {
			fmt.Fprintf(o.stderr, "semel: the file as it was is kept as %s\n", file.Saved)
		}
		if o.server == "" {
			o.server = file.Server
		}
	}
	token := o.token
	if token == "" {
		token = os.Getenv("SEMEL_TOKEN")
	}
	err := usage("say which server, with --server URL or SEMEL_SERVER")
	var c *client.Client
	if o.server != "" {
		c, err = client.New(o.server, &client.Options{
			Authorize: func(r *http.Request) error {
				if token != "" {
					r.Header.Set("Authorization", "Bearer "+token)
				}
				return nil
			},
			Tries:   math.MaxInt, // --wait is the limit
			Pending: file,
		})
	}
	if err != nil && file != nil {
		err = errors.Join(err, file.Close())
	}
	return file, c, err
}

// openQueue waits for other processes that have the file: a script may well
// run several calls at a time.
func openQueue(ctx context.Context, path string) (*client.PendingFile, error) {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		file, err := client.OpenPending(path, nil)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return file, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; %w", err, context.Cause(ctx))
		}
	}
}

// A result is what -o json prints.
type result struct {
	Key       string          `json:"key"`
	Command   string          `json:"command"`
	State     string          `json:"state"` // a client.PendingState, "pending", or "unavailable"
	Operation string          `json:"operation,omitempty"`
	Resource  string          `json:"resource,omitempty"`
	Status    int             `json:"status,omitempty"`
	Replayed  bool            `json:"replayed,omitempty"`
	Tries     int             `json:"tries,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Code      string          `json:"code,omitempty"`
	Error     string          `json:"error,omitempty"`
}

func name(r client.Request) string {
	if r.Command != "" {
		return r.Command
	}
	return r.Method + " " + r.Path
}

// resultOf says what a reply or an error comes to.
func resultOf(r client.Request, reply *client.Reply, err error) result {
	out := result{Key: r.Key, Command: name(r)}
	if err == nil {
		out.Key, out.Operation, out.Resource, out.Status = reply.Key, reply.Operation, reply.Resource, reply.Status
		out.Replayed, out.Tries, out.Result, out.State = reply.Replayed, reply.Tries, reply.Body, "accepted"
		if reply.Done {
			out.State = "completed"
		}
		return out
	}
	out.Error = err.Error()
	if no, ok := errors.AsType[*client.Rejected](err); ok {
		out.State, out.Code, out.Error, out.Key, out.Operation = "rejected", no.Code, no.Reason, no.Key, no.Operation
		return out
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		out.State = "failed"
		return out
	}
	out.Key, out.Operation, out.Status, out.State = e.Key, e.Operation, e.Status, "failed"
	class := func(c client.Class) bool { return errors.Is(err, c) }
	switch {
	case e.Kept:
		out.State = "pending"
	case class(client.ClassReused) || class(client.ClassExpired) || class(client.ClassConflict):
		out.State = "conflict"
	case class(client.ClassFailed):
	case e.Operation != "" && class(client.ClassCanceled):
		out.State = "accepted"
	case class(client.ClassCanceled) || !final(err):
		out.State = "unavailable"
	}
	return out
}

// final reports whether a request would be answered the same again.
func final(err error) bool {
	for _, c := range []client.Class{client.ClassTLS, client.ClassUnauthorized, client.ClassForbidden, client.ClassTooLarge, client.ClassInvalid} {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}

// code is the exit code for the state.
func (r *result) code() int {
	switch r.State {
	case "completed", "canceled":
		return exitOK
	case "rejected":
		return exitRejected
	case "conflict":
		return exitConflict
	case "pending", "accepted", "waiting", "sending":
		return exitOpen
	}
	return exitFailed
}

// report prints the result and turns it into the error that has its code.
func (o *callOptions) report(r result, cause error) error {
	if err := o.print(r); err != nil {
		return err
	}
	said := fmt.Sprintf("%s: %s", r.Command, r.State)
	if r.Tries > 1 {
		said += fmt.Sprintf(" after %d tries", r.Tries)
	}
	if r.Replayed {
		said += ", replayed"
	}
	if r.Operation != "" {
		said += ", operation " + r.Operation
	}
	said += ", key " + r.Key
	if r.Code != "" {
		said += " (" + r.Code + ")"
	}
	if r.Error != "" {
		said += ": " + strings.TrimPrefix(r.Error, r.Command+": ")
	}
	if r.code() == exitOK {
		fmt.Fprintln(o.stderr, "semel:", said)
		return nil
	}
	if r.State == "unavailable" {
		said += "; it may have happened: repeat it with the same key to find out"
	}
	return &codedError{&saidError{said, cause}, r.code()}
}

// A saidError has a text of its own, and keeps its cause.
type saidError struct {
	text  string
	cause error
}

func (e *saidError) Error() string { return e.text }
func (e *saidError) Unwrap() error { return e.cause }

// print writes what belongs on standard output.
func (o *callOptions) print(r result) error {
	if o.output == "json" {
		return json.NewEncoder(o.stdout).Encode(r)
	}
	if len(r.Result) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(o.stdout, "%s\n", r.Result)
	return err
}
