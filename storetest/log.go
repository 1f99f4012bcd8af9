package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

func logChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"log/fields", "every field of an event comes back as it was appended", checkEventFields[Tx]},
		{"log/positions", "positions are dense and in the order of the commits, rollbacks leave no hole", checkPositions[Tx]},
		{"log/capability", "positions are given by Append if so declared, and only then", checkCapability[Tx]},
		{"log/stream", "a stream shows the versions of one subject, those of its own session included", checkStream[Tx]},
		{"log/version", "a version is given once; a conflict appends nothing", checkVersion[Tx]},
		{"follower/position", "a follower moves only from where it stands, together with what else its session writes", checkFollow[Tx]},
		{"follower/promote", "promoting a generation makes it live and forgets the others", checkPromote[Tx]},
	}
}

// event makes an event of an operation.
func (s *stage[Tx]) event(op *semel.Operation, number int) *semel.Event {
	return &semel.Event{
		Tenant: op.Tenant, Operation: op.ID, Number: number, Name: "deposited", Subject: op.Subject(),
		Data: json.RawMessage(`{"cents":1}`), Correlation: op.Correlation, At: time.Now().Truncate(time.Microsecond),
	}
}

func (s *stage[Tx]) append(ctx context.Context, events ...*semel.Event) error {
	return s.commit(ctx, func(session semel.Session[Tx]) error { return session.Append(ctx, events) })
}

// log reads the whole log in pages, once it has the given number of events.
func (s *stage[Tx]) log(ctx context.Context, want, page int) (events []semel.Event, err error) {
	if err := s.until(ctx, fmt.Sprintf("the log has %d events", want), func() (bool, error) {
		head, err := s.store.Head(ctx)
		if err == nil && head > int64(want) {
			err = fmt.Errorf("the head is %d", head)
		}
		return head == int64(want), err
	}); err != nil {
		return nil, err
	}
	for after := int64(0); ; {
		read, err := s.store.Events(ctx, after, page)
		if err != nil {
			return nil, err
		}
		if len(read) > page {
			return nil, fmt.Errorf("%d events were read, at most %d were asked for", len(read), page)
		}
		for _, event := range read {
			if event.Position != after+1 {
				return nil, fmt.Errorf("position %d follows %d", event.Position, after)
			}
			after = event.Position
		}
		if events = append(events, read...); len(read) < page {
			break
		}
	}
	if len(events) != want {
		return nil, fmt.Errorf("%d events were read, want %d", len(events), want)
	}
	return events, nil
}

func checkEventFields[Tx any](ctx context.Context, s *stage[Tx]) error {
	op := s.fullOperation()
	full := &semel.Event{
		Tenant: op.Tenant, Operation: op.ID, Number: 1 << 20, Name: "täglich", Schema: "https://example.com/schemas/ü/1",
		Subject: op.Subject(), Version: 7, Data: json.RawMessage(`{"text":"` + strings.Repeat("日本🏦 ' ", 100_000) + `"}`),
		Correlation: op.Correlation, Publish: json.RawMessage(`{"topic":"ü"}`), At: op.DoneAt,
	}
	bare := &semel.Event{Operation: s.operation("bare").ID, Name: "bare", Data: json.RawMessage(`null`), At: op.AcceptedAt}
	if err := s.append(ctx, full, bare); err != nil {
		return err
	}
	if err := s.reopen(ctx); err != nil {
		return err
	}
	events, err := s.log(ctx, 2, 10)
	if err != nil {
		return err
	}
	full.Position, bare.Position = 1, 2
	if err := eventDifference(&events[0], full); err != nil {
		return err
	}
	if err := eventDifference(&events[1], bare); err != nil {
		return err
	}
	return s.session(ctx, func(session semel.Session[Tx]) error {
		stream, err := session.Stream(ctx, full.Tenant, full.Subject, 0)
		if err != nil || len(stream) != 1 {
			return fmt.Errorf("the stream has %d events (error: %v), want 1", len(stream), err)
		}
		return eventDifference(&stream[0], full)
	})
}

func eventDifference(got, want *semel.Event) error {
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"Position", got.Position, want.Position}, {"Tenant", got.Tenant, want.Tenant}, {"Operation", got.Operation, want.Operation},
		{"Number", got.Number, want.Number}, {"Name", got.Name, want.Name}, {"Schema", got.Schema, want.Schema},
		{"Subject", got.Subject, want.Subject}, {"Version", got.Version, want.Version},
	} {
		if f.got != f.want {
			return fmt.Errorf("%s is %v, want %v", f.name, f.got, f.want)
		}
	}
	for _, f := range []struct {
		name      string
		got, want []byte
	}{{"Data", got.Data, want.Data}, {"Correlation", got.Correlation, want.Correlation}, {"Publish", got.Publish, want.Publish}} {
		if !bytes.Equal(f.got, f.want) {
			return fmt.Errorf("%s is %.100q, want %.100q", f.name, f.got, f.want)
		}
	}
	if !got.At.Equal(want.At) {
		return fmt.Errorf("the time At is %v, want %v", got.At, want.At)
	}
	return nil
}

func checkPositions[Tx any](ctx context.Context, s *stage[Tx]) error {
	var want []string
	for i := range 30 {
		op := s.operation(fmt.Sprint(i), "a")
		events := []*semel.Event{s.event(op, 0), s.event(op, 1), s.event(op, 2)}[:1+i%3]
		err := s.session(ctx, func(session semel.Session[Tx]) error {
			if err := session.Append(ctx, events[:1]); err != nil {
				return err
			}
			if err := session.Append(ctx, events[1:]); err != nil {
				return err
			}
			if i%4 == 3 {
				return nil // rolled back
			}
			for _, event := range events {
				want = append(want, event.ID())
			}
			return session.Commit(ctx)
		})
		if err != nil {
			return err
		}
	}
	for _, page := range []int{1, 7, 1000} {
		events, err := s.log(ctx, len(want), page)
		if err != nil {
			return fmt.Errorf("in pages of %d: %w", page, err)
		}
		for i, event := range events {
			if event.ID() != want[i] {
				return fmt.Errorf("position %d has event %s, want %s", i+1, event.ID(), want[i])
			}
		}
	}
	return nil
}

func checkCapability[Tx any](ctx context.Context, s *stage[Tx]) error {
	declared := s.store.Capabilities().PositionsAtCommit
	op := s.operation("k", "a")
	events := []*semel.Event{s.event(op, 0), s.event(op, 1)}
	if err := s.append(ctx, events...); err != nil {
		return err
	}
	for i, event := range events {
		want := int64(0)
		if declared {
			want = int64(i + 1)
		}
		if event.Position != want {
			return fmt.Errorf("PositionsAtCommit is %t, and Append set position %d, want %d", declared, event.Position, want)
		}
	}
	_, err := s.log(ctx, len(events), 10)
	return err
}

func versions(events []semel.Event) []int64 {
	v := []int64{}
	for _, event := range events {
		v = append(v, event.Version)
	}
	return v
}

func checkStream[Tx any](ctx context.Context, s *stage[Tx]) error {
	versioned := func(key, tenant, subject string, version int64) *semel.Event {
		event := s.event(s.operation(key, subject), 0)
		event.Tenant, event.Version = tenant, version
		return event
	}
	if err := s.append(ctx,
		versioned("1", "", "a", 1), versioned("2", "", "b", 1), versioned("3", "", "a", 2), versioned("4", "t", "a", 1),
		versioned("5", "", "a", 0), versioned("6", "", "a", 0), versioned("7", "", "a", 3)); err != nil {
		return err
	}
	return s.session(ctx, func(session semel.Session[Tx]) error {
		if err := session.Append(ctx, []*semel.Event{versioned("8", "", "a", 4), versioned("9", "t", "a", 2)}); err != nil {
			return err
		}
		for _, tt := range []struct {
			tenant, subject string
			after           int64
			want            []int64
		}{
			{"", "a", 0, []int64{1, 2, 3, 4}},
			{"", "a", 2, []int64{3, 4}},
			{"", "a", 4, []int64{}},
			{"", "b", 0, []int64{1}},
			{"t", "a", 0, []int64{1, 2}},
			{"t", "b", 0, []int64{}},
		} {
			events, err := session.Stream(ctx, tt.tenant, tt.subject, tt.after)
			if err != nil || !slices.Equal(versions(events), tt.want) {
				return fmt.Errorf("stream %q of tenant %q after %d: versions %v (error: %v), want %v", tt.subject, tt.tenant, tt.after, versions(events), err, tt.want)
			}
		}
		return nil
	})
}

func checkVersion[Tx any](ctx context.Context, s *stage[Tx]) error {
	versioned := func(key string, version int64) *semel.Event {
		event := s.event(s.operation(key, "a"), 0)
		event.Version = version
		return event
	}
	if err := s.append(ctx, versioned("1", 1)); err != nil {
		return err
	}
	if err := s.append(ctx, versioned("2", 1)); !errors.Is(err, semel.ErrVersionConflict) {
		return fmt.Errorf("a version that is taken: error is %v, want %w", err, semel.ErrVersionConflict)
	}
	// A handler whose events conflict has either written, which spoils the
	// session, or nothing of them is there.
	if err := s.session(ctx, func(session semel.Session[Tx]) error {
		spoiled, err := session.Run(ctx, []semel.Member[Tx]{{Call: func(ctx context.Context, _ Tx) error {
			err := session.Append(ctx, []*semel.Event{versioned("3", 2), versioned("4", 1)})
			if !errors.Is(err, semel.ErrVersionConflict) {
				return nil // found missing below
			}
			return err
		}}})
		if err != nil || spoiled >= 0 {
			return nil // rolled back
		}
		return session.Commit(ctx)
	}); err != nil {
		return err
	}
	_, err := s.log(ctx, 1, 10)
	return err
}

// stands compares where the followers are.
func (s *stage[Tx]) stands(ctx context.Context, want ...semel.Follower) error {
	followers, err := s.store.Followers(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(followers, func(a, b semel.Follower) int {
		return strings.Compare(fmt.Sprintf("%s %9d", a.Name, a.Generation), fmt.Sprintf("%s %9d", b.Name, b.Generation))
	})
	if !slices.Equal(followers, want) {
		return fmt.Errorf("followers are %v, want %v", followers, want)
	}
	return nil
}

func checkFollow[Tx any](ctx context.Context, s *stage[Tx]) error {
	at := func(position int64) semel.Follower {
		return semel.Follower{Name: "f", Generation: 1, Position: position, Live: true}
	}
	follow := func(f semel.Follower, from int64) error {
		return s.commit(ctx, func(session semel.Session[Tx]) error { return session.Follow(ctx, f, from) })
	}
	if err := follow(at(7), 5); !errors.Is(err, semel.ErrFenced) {
		return fmt.Errorf("a follower that is not there moves from 5: error is %v, want %w", err, semel.ErrFenced)
	}
	for _, step := range []struct{ from, to int64 }{{0, 0}, {0, 3}, {3, 10}, {10, 10}} {
		if err := follow(at(step.to), step.from); err != nil {
			return fmt.Errorf("moving from %d to %d: %w", step.from, step.to, err)
		}
	}
	for _, from := range []int64{0, 3, 9, 11} {
		if err := follow(at(20), from); !errors.Is(err, semel.ErrFenced) {
			return fmt.Errorf("moving from %d while it stands at 10: error is %v, want %w", from, err, semel.ErrFenced)
		}
		if err := s.stands(ctx, at(10)); err != nil {
			return err
		}
	}
	// Rolled back with everything else.
	if err := s.session(ctx, func(session semel.Session[Tx]) error { return session.Follow(ctx, at(20), 10) }); err != nil {
		return err
	}
	if err := s.stands(ctx, at(10)); err != nil {
		return fmt.Errorf("after a rollback: %w", err)
	}
	other := semel.Follower{Name: "g", Generation: 1, Position: 2, Live: true}
	next := semel.Follower{Name: "f", Generation: 2, Position: 1}
	if err := errors.Join(follow(other, 0), follow(next, 0), s.reopen(ctx)); err != nil {
		return err
	}
	return s.stands(ctx, at(10), next, other)
}

func checkPromote[Tx any](ctx context.Context, s *stage[Tx]) error {
	other := semel.Follower{Name: "g", Generation: 4, Position: 2, Live: true}
	err := s.commit(ctx, func(session semel.Session[Tx]) error {
		return errors.Join(
			session.Follow(ctx, semel.Follower{Name: "f", Generation: 1, Position: 9, Live: true}, 0),
			session.Follow(ctx, semel.Follower{Name: "f", Generation: 2, Position: 5}, 0),
			session.Follow(ctx, semel.Follower{Name: "f", Generation: 3, Position: 9}, 0),
			session.Follow(ctx, other, 0),
			session.Promote(ctx, "f", 3))
	})
	if err != nil {
		return err
	}
	live := semel.Follower{Name: "f", Generation: 3, Position: 9, Live: true}
	if err := s.stands(ctx, live, other); err != nil {
		return err
	}
	// Who follows a generation that is forgotten is fenced.
	err = s.commit(ctx, func(session semel.Session[Tx]) error {
		return session.Follow(ctx, semel.Follower{Name: "f", Generation: 2, Position: 6}, 5)
	})
	if !errors.Is(err, semel.ErrFenced) {
		return fmt.Errorf("moving a forgotten generation: error is %v, want %w", err, semel.ErrFenced)
	}
	return s.stands(ctx, live, other)
}
