package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/semel-dev/semel"
)

const (
	// batch is the most outcomes that are read at once.
	batch = 128
	// stride is how far the follower reads on without storing its position, as
	// long as nobody wants what it reads. Reading it again does no harm.
	stride = 1024
	// lateEvery is the wait between two looks at endpoints whose backlog was
	// full.
	lateEvery = 2 * time.Second
)

// A line names an endpoint among everybody's.
type line struct{ tenant, principal, endpoint string }

var lineEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// scope is the tenant of the endpoint's deliveries. The engine bounds what is
// accepted by tenant, and a receiver that is down shall not use up the bound
// of the tenant that it belongs to, nor of another receiver.
func (l line) scope() string {
	h := sha256.New()
	for _, part := range []string{l.tenant, l.principal, l.endpoint} {
		var size [4]byte
		binary.BigEndian.PutUint32(size[:], uint32(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	return "webhook:" + lineEncoding.EncodeToString(h.Sum(nil)[:16])
}

// Run submits a delivery for every outcome that an endpoint wants, until ctx
// ends; when the engine drains, the rest is left to the next run. Deliveries
// run in the engine. Errors are logged and tried again. Run may be called once
// for a sender. Several processes on one store do each other's work again, and
// nothing is delivered more often.
func (s *Sender[Tx]) Run(ctx context.Context) error {
	defer s.client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-s.engine.Ready():
	case <-ctx.Done():
		return nil
	}
	s.warnOfLoss(ctx)
	backoff := semel.Backoff{First: 100 * time.Millisecond, Most: 15 * time.Second}
	const idleFirst = 50 * time.Millisecond
	failures, idle := 0, idleFirst
	for {
		found, more, err := s.step(ctx)
		wait := time.Duration(0)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, semel.ErrClosed):
			<-ctx.Done() // connections are in use until the engine has ended
			return nil
		case err != nil:
			failures++
			s.log.ErrorContext(ctx, "webhooks stand still", slog.Int64("position", s.stored), slog.Int("failures", failures), slog.Any("error", err))
			wait = backoff.Wait(failures)
		case more:
			failures, idle = 0, idleFirst
			continue
		default:
			// Also when there were some: every look that finds some costs a
			// commit, so they shall be many.
			if found {
				idle = idleFirst
			}
			failures, wait = 0, min(idle, s.options.Poll)
			idle = min(2*idle, s.options.Poll)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.engine.Draining():
			<-ctx.Done()
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// warnOfLoss says so if the follower was away for longer than outcomes are kept.
func (s *Sender[Tx]) warnOfLoss(ctx context.Context) {
	horizon, err := s.engine.Horizon(ctx)
	if err == nil && horizon > s.stored {
		s.log.WarnContext(ctx, "outcomes may have been cleaned away before their webhooks were made",
			slog.Int64("position", s.stored), slog.Int64("horizon", horizon))
	}
}

// step reads outcomes once. It reports whether it found any, and whether there
// are more to be read at once.
func (s *Sender[Tx]) step(ctx context.Context) (found, more bool, err error) {
	ops, err := s.engine.Operations(ctx, semel.OperationQuery{All: true, After: s.read, Limit: batch})
	if err != nil {
		return false, false, err
	}
	wanted, err := s.tell(ctx, ops, func(l line) bool { _, late := s.late[l]; return !late })
	if err != nil {
		return false, false, err
	}
	if len(ops) > 0 {
		s.read = ops[len(ops)-1].DonePosition
	}
	if len(s.late) > 0 && !time.Now().Before(s.again) {
		if more, err = s.tellLate(ctx); err != nil {
			return false, false, err
		}
		if !more {
			s.again = time.Now().Add(lateEvery)
		}
	}
	served := s.read
	for _, position := range s.late {
		served = min(served, position)
	}
	if served > s.stored && (wanted || len(ops) == 0 || served-s.stored >= stride) {
		if err := s.move(ctx, served); err != nil {
			return false, false, err
		}
	}
	return len(ops) > 0, more || len(ops) == batch, nil
}

// tellLate goes on with the endpoints whose backlog was full. Their positions
// are kept in memory alone: the stored position stays behind the last of them.
// It reports whether one of them could go on at once.
func (s *Sender[Tx]) tellLate(ctx context.Context) (more bool, err error) {
	for _, l := range slices.Collect(maps.Keys(s.late)) {
		after := s.late[l]
		ops, err := s.engine.Operations(ctx, semel.OperationQuery{
			Tenant: l.tenant, Principal: l.principal, After: after, Limit: batch,
		})
		if err != nil {
			return false, err
		}
		delete(s.late, l) // tell notes it again if it has to
		if _, err := s.tell(ctx, ops, func(other line) bool { return other == l }); err != nil {
			s.late[l] = after
			return false, err
		}
		if _, again := s.late[l]; !again && len(ops) == batch {
			s.late[l] = ops[batch-1].DonePosition
			more = true
		}
	}
	return more, nil
}

// An entry is a delivery to be submitted.
type entry struct {
	line     line
	position int64
	command  semel.Command
}

// tell submits the deliveries of outcomes to the endpoints that serve takes.
// An endpoint whose backlog is full is noted in late. On any other error some
// are submitted and some are not; the same call again completes it.
func (s *Sender[Tx]) tell(ctx context.Context, ops []*semel.Operation, serve func(line) bool) (wanted bool, err error) {
	lanes, err := s.sort(ctx, ops, serve)
	if err != nil || len(lanes) == 0 {
		return false, err
	}
	var running sync.WaitGroup
	var mu sync.Mutex // guards what follows
	var errs []error
	full := make(map[line]int64)
	for _, entries := range lanes {
		// Side by side, so that the engine takes them as one group; in order
		// within a lane, because acceptance is the order of delivery.
		running.Go(func() {
			stopped, err := s.submit(ctx, entries)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
			if stopped != nil {
				l, before := stopped.line, stopped.position-1
				if first, ok := full[l]; !ok || before < first {
					full[l] = before
				}
			}
		})
	}
	running.Wait()
	if len(errs) > 0 {
		return true, errors.Join(errs...) // and forget who is full: all is done again
	}
	for l, before := range full {
		s.late[l] = before
		s.log.DebugContext(ctx, "endpoint's backlog is full; its outcomes wait", slog.String("tenant", l.tenant),
			slog.String("principal", l.principal), slog.String("endpoint", l.endpoint))
	}
	return true, nil
}

// sort asks who wants which outcome, and returns deliveries by lane.
func (s *Sender[Tx]) sort(ctx context.Context, ops []*semel.Operation, serve func(line) bool) (map[string][]entry, error) {
	type owner struct{ tenant, principal string }
	known := make(map[owner][]Endpoint)
	lanes := make(map[string][]entry)
	for _, op := range ops {
		event := eventOf(op.State)
		if op.Name == Command || event == "" { // the second: replayed since it was listed
			continue
		}
		of := owner{op.Tenant, op.Principal}
		endpoints, ok := known[of]
		if !ok {
			var err error
			if endpoints, err = s.options.Endpoints(ctx, of.tenant, of.principal); err != nil {
				return nil, fmt.Errorf("asking for endpoints of %q: %w", of.principal, err)
			}
			known[of] = endpoints
		}
		for i := range endpoints {
			l := line{op.Tenant, op.Principal, endpoints[i].ID}
			if !endpoints[i].wants(event, op.Name) || !serve(l) {
				continue
			}
			e, lane, err := s.entry(op, l)
			if err != nil {
				return nil, err
			}
			key := e.command.Tenant + "/" + strconv.Itoa(lane)
			lanes[key] = append(lanes[key], e)
		}
	}
	return lanes, nil
}

// entry makes the delivery of one outcome to one endpoint. Made again, it has
// the same key.
func (s *Sender[Tx]) entry(op *semel.Operation, l line) (e entry, lane int, err error) {
	body, err := encode(op)
	if err != nil {
		return e, 0, err
	}
	lane = s.lane(op)
	encoded, err := json.Marshal(delivery{
		Tenant: l.tenant, Principal: l.principal, Endpoint: l.endpoint,
		Operation: op.ID.String(), Event: eventOf(op.State), Lane: lane, Body: body,
	})
	if err != nil {
		return e, 0, fmt.Errorf("encoding a delivery to endpoint %q: %w", l.endpoint, err)
	}
	correlation, err := op.DecodeCorrelation()
	if err != nil {
		correlation = semel.Correlation{} // it is only lost to traces
	}
	return entry{line: l, position: op.DonePosition, command: semel.Command{
		Tenant: l.scope(), Principal: Principal, Name: Command,
		Key:  op.ID.String() + "-" + strconv.FormatInt(op.DonePosition, 10),
		Body: encoded, Correlation: correlation,
	}}, lane, nil
}

// lane keeps operations of one subject together and spreads the others.
func (s *Sender[Tx]) lane(op *semel.Operation) int {
	h := fnv.New32a()
	if subject := op.Subject(); subject != "" {
		h.Write([]byte(subject))
	} else {
		h.Write(op.ID[:])
	}
	return int(h.Sum32() % uint32(s.options.Concurrency))
}

// submit has the engine accept deliveries in order. It stops at the first for
// which the endpoint's backlog has no room.
func (s *Sender[Tx]) submit(ctx context.Context, entries []entry) (stopped *entry, err error) {
	for i := range entries {
		e := &entries[i]
		_, err := s.engine.Submit(ctx, e.command, semel.SubmitOptions{Async: true})
		switch {
		case err == nil:
		case errors.Is(err, semel.ErrKeyReused), errors.Is(err, semel.ErrKeyExpired):
			// Submitted before, perhaps by another version of this package or
			// with another number of lanes.
		case errors.Is(err, semel.ErrOverloaded):
			return e, nil
		default:
			return nil, fmt.Errorf("submitting the delivery of %s to endpoint %q: %w", e.command.Key, e.line.endpoint, err)
		}
	}
	return nil, nil
}

// open finds the follower's position, or begins at the end of the log.
func (s *Sender[Tx]) open(ctx context.Context) error {
	found, err := s.load(ctx)
	if err != nil || found {
		return err
	}
	head, err := s.store.Head(ctx)
	if err != nil {
		return err
	}
	if err := s.follow(ctx, head, 0); err != nil && !errors.Is(err, semel.ErrFenced) {
		return err
	}
	_, err = s.load(ctx) // another process may have been first
	return err
}

func (s *Sender[Tx]) load(ctx context.Context) (found bool, err error) {
	followers, err := s.store.Followers(ctx)
	if err != nil {
		return false, fmt.Errorf("reading followers: %w", err)
	}
	i := slices.IndexFunc(followers, func(f semel.Follower) bool { return f.Name == Follower && f.Live })
	if i < 0 {
		return false, nil
	}
	s.stored = followers[i].Position
	s.read = max(s.read, s.stored)
	return true, nil
}

// move stores how far all endpoints are served.
func (s *Sender[Tx]) move(ctx context.Context, to int64) error {
	err := s.follow(ctx, to, s.stored)
	if err == nil {
		s.stored = to
		return nil
	}
	// Another process has moved it, or a commit's end was not seen.
	if _, again := s.load(ctx); again != nil {
		return errors.Join(err, again)
	}
	if errors.Is(err, semel.ErrFenced) {
		return nil
	}
	return err
}

func (s *Sender[Tx]) follow(ctx context.Context, to, from int64) error {
	session, err := s.store.Begin(ctx, false)
	if err != nil {
		return fmt.Errorf("beginning: %w", err)
	}
	defer session.Rollback()
	ctx = context.WithoutCancel(ctx) // what has begun is finished
	if err := session.Follow(ctx, semel.Follower{Name: Follower, Generation: 1, Position: to, Live: true}, from); err != nil {
		return fmt.Errorf("moving from %d to %d: %w", from, to, err)
	}
	if err := session.Commit(ctx); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	return nil
}
