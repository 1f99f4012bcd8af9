package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

func operationChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"operation/fields", "every field of an operation comes back as it was stored, times to the microsecond", checkOperationFields[Tx]},
		{"operation/insert", "an operation is stored once; another session's is never overwritten", checkInsert[Tx]},
		{"operation/lookup", "what is known of each id is answered in the order asked", checkLookup[Tx]},
		{"operation/update", "an operation changes only from the state and epoch that the change names", checkUpdate[Tx]},
	}
}

// operation makes an accepted deposit as the engine would, due at once.
func (s *stage[Tx]) operation(key string, subjects ...string) *semel.Operation {
	account := "nobody"
	if len(subjects) > 0 {
		account = subjects[0]
	}
	c := command(key, deposit{Account: account, Cents: 1})
	at := time.Now().Add(-time.Second).Truncate(time.Microsecond)
	return &semel.Operation{
		ID: c.ID(), Principal: c.Principal, Name: c.Name, Key: c.Key, Subjects: subjects,
		Fingerprint: sha256.Sum256([]byte(key)), Body: c.Body, Correlation: json.RawMessage(`{}`),
		State: semel.Accepted, Holds: len(subjects) > 0, AcceptedAt: at, DueAt: at,
	}
}

// difference names the first field in which two operations differ.
func difference(got, want *semel.Operation) error {
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"Seq", got.Seq, want.Seq}, {"ID", got.ID, want.ID}, {"Tenant", got.Tenant, want.Tenant},
		{"Principal", got.Principal, want.Principal}, {"Name", got.Name, want.Name}, {"Key", got.Key, want.Key},
		{"Subject", got.Subject(), want.Subject()}, {"Fingerprint", got.Fingerprint, want.Fingerprint},
		{"State", got.State, want.State}, {"Attempts", got.Attempts, want.Attempts}, {"Epoch", got.Epoch, want.Epoch},
		{"Holds", got.Holds, want.Holds}, {"Status", got.Status, want.Status}, {"Resource", got.Resource, want.Resource},
		{"Code", got.Code, want.Code}, {"Reason", got.Reason, want.Reason}, {"Disposition", got.Disposition, want.Disposition},
		{"Events", got.Events, want.Events}, {"Position", got.Position, want.Position}, {"DonePosition", got.DonePosition, want.DonePosition},
	} {
		if f.got != f.want {
			return fmt.Errorf("%s is %.200v, want %.200v", f.name, f.got, f.want)
		}
	}
	for _, f := range []struct {
		name      string
		got, want []byte
	}{{"Body", got.Body, want.Body}, {"Result", got.Result, want.Result}, {"Correlation", got.Correlation, want.Correlation}} {
		if !bytes.Equal(f.got, f.want) {
			return fmt.Errorf("%s has %d bytes, %.100q, want %d, %.100q", f.name, len(f.got), f.got, len(f.want), f.want)
		}
	}
	for _, f := range []struct {
		name      string
		got, want time.Time
	}{
		{"AcceptedAt", got.AcceptedAt, want.AcceptedAt}, {"ExecutedAt", got.ExecutedAt, want.ExecutedAt},
		{"DoneAt", got.DoneAt, want.DoneAt}, {"DueAt", got.DueAt, want.DueAt}, {"ExpiresAt", got.ExpiresAt, want.ExpiresAt},
	} {
		if !f.got.Equal(f.want) || f.got.IsZero() != f.want.IsZero() {
			return fmt.Errorf("%s is %v, want %v", f.name, f.got, f.want)
		}
	}
	return nil
}

// fullOperation has something unusual in every field.
func (s *stage[Tx]) fullOperation() *semel.Operation {
	at := func(us int) time.Time { return time.Date(2031, 2, 3, 4, 5, 6, us*1000, time.UTC) }
	id := sha256.Sum256([]byte("full"))
	return &semel.Operation{
		ID: semel.ID(id[:16]), Tenant: "Größe 日本 🏦", Principal: `o'hara "%" \ ;--`, Name: "pay/out",
		Key: strings.Repeat("~", semel.MaxKey), Subjects: []string{"account/ü ' \"", "second"},
		Fingerprint: sha256.Sum256([]byte("fingerprint")),
		Body:        []byte(`{"text":"` + strings.Repeat("日本🏦", 100_000) + `"}`),
		Correlation: json.RawMessage(`{"id":"c","origin":"/ü?a=b","retries":3}`),
		State:       semel.Failed, Attempts: 7, Epoch: 1 << 40, Holds: true,
		Status: 599, Resource: "accounts/ü", Result: append([]byte{0, 0xff, 0xfe, '\''}, bytes.Repeat([]byte{0, 1}, 500_000)...),
		Code: "no_luck", Reason: "100% \n ' ü", Disposition: semel.Exhausted,
		Events: 1 << 20, Position: 1 << 41, DonePosition: 1<<41 + 1,
		AcceptedAt: at(1), ExecutedAt: at(22), DoneAt: at(333), DueAt: at(4444), ExpiresAt: at(999_999),
	}
}

func checkOperationFields[Tx any](ctx context.Context, s *stage[Tx]) error {
	full, bare := s.fullOperation(), s.operation("bare")
	bare.Correlation, bare.DueAt = nil, time.Time{}
	if err := s.commit(ctx, func(session semel.Session[Tx]) error {
		return session.Insert(ctx, []*semel.Operation{full, bare})
	}); err != nil {
		return fmt.Errorf("inserting: %w", err)
	}
	if full.Seq <= 0 || bare.Seq <= full.Seq {
		return fmt.Errorf("the store set Seq to %d and %d, want growing numbers from 1", full.Seq, bare.Seq)
	}
	if err := s.readBack(ctx, full, bare); err != nil {
		return fmt.Errorf("inserted: %w", err)
	}
	// What the other lacks, to the other.
	changes := []semel.Change{
		{Operation: exchange(full, bare), State: full.State, Epoch: full.Epoch},
		{Operation: exchange(bare, full), State: bare.State, Epoch: bare.Epoch},
	}
	if err := s.commit(ctx, func(session semel.Session[Tx]) error {
		stored, err := session.Update(ctx, changes)
		if err == nil && (!stored[0] || !stored[1]) {
			err = fmt.Errorf("stored is %v", stored)
		}
		return err
	}); err != nil {
		return fmt.Errorf("updating: %w", err)
	}
	if err := s.reopen(ctx); err != nil {
		return err
	}
	if err := s.readBack(ctx, changes[0].Operation, changes[1].Operation); err != nil {
		return fmt.Errorf("updated: %w", err)
	}
	return nil
}

// exchange returns op with what may change taken from other.
func exchange(op, other *semel.Operation) *semel.Operation {
	c := *other
	c.Seq, c.ID, c.Tenant, c.Principal, c.Name, c.Key = op.Seq, op.ID, op.Tenant, op.Principal, op.Name, op.Key
	c.Subjects, c.Fingerprint, c.Body, c.Correlation, c.AcceptedAt = op.Subjects, op.Fingerprint, op.Body, op.Correlation, op.AcceptedAt
	c.Holds = false // an operation can leave its queues, and not enter them later
	return &c
}

// readBack reads operations in every way there is.
func (s *stage[Tx]) readBack(ctx context.Context, want ...*semel.Operation) error {
	listed, err := s.store.Operations(ctx, semel.OperationQuery{All: true, ByAcceptance: true})
	if err != nil || len(listed) != len(want) {
		return fmt.Errorf("%d operations are listed (error: %v), want %d", len(listed), err, len(want))
	}
	return s.session(ctx, func(session semel.Session[Tx]) error {
		for i, w := range want {
			if err := difference(listed[i], w); err != nil {
				return fmt.Errorf("listed: %w", err)
			}
			op, err := s.store.Operation(ctx, w.ID)
			if err != nil {
				return err
			}
			if err := difference(op, w); err != nil {
				return fmt.Errorf("read: %w", err)
			}
			known, err := session.Lookup(ctx, []semel.Lookup{{ID: w.ID}})
			if err != nil {
				return err
			}
			if err := difference(known[0].Operation, w); err != nil {
				return fmt.Errorf("looked up: %w", err)
			}
		}
		return nil
	})
}

func checkInsert[Tx any](ctx context.Context, s *stage[Tx]) error {
	first := s.operation("k", "a")
	insert := func(ops ...*semel.Operation) error {
		return s.commit(ctx, func(session semel.Session[Tx]) error { return session.Insert(ctx, ops) })
	}
	if err := insert(first); err != nil {
		return err
	}
	second := s.operation("k", "b")
	second.Result = []byte("another")
	if err := insert(s.operation("other", "b"), second); !errors.Is(err, semel.ErrFenced) {
		return fmt.Errorf("inserting a second one with the same id: error is %v, want %w", err, semel.ErrFenced)
	}
	if err := s.readBack(ctx, first); err != nil {
		return err
	}
	// Seq goes on after a restart.
	if err := s.reopen(ctx); err != nil {
		return err
	}
	third, fourth := s.operation("third", "a"), s.operation("fourth", "a")
	if err := insert(third, fourth); err != nil {
		return err
	}
	if third.Seq <= first.Seq || fourth.Seq <= third.Seq {
		return fmt.Errorf("the order of acceptance, Seq, goes %d, %d, %d", first.Seq, third.Seq, fourth.Seq)
	}
	return nil
}

func checkLookup[Tx any](ctx context.Context, s *stage[Tx]) error {
	holder, free := s.operation("holder", "a", "b"), s.operation("free", "c")
	free.Holds = false
	if err := s.commit(ctx, func(session semel.Session[Tx]) error {
		return session.Insert(ctx, []*semel.Operation{holder, free})
	}); err != nil {
		return err
	}
	look := func(key string, subjects ...string) semel.Lookup {
		return semel.Lookup{ID: command(key, deposit{}).ID(), Subjects: subjects}
	}
	elsewhere := look("new", "a")
	elsewhere.Tenant = "elsewhere"
	asked := []semel.Lookup{look("new", "b"), look("free", "c"), look("new"), look("holder", "a"), elsewhere,
		look("newer", "d", "c"), look("newest", "d", "b"), look("free", "c")}
	found := []*semel.Operation{nil, free, nil, holder, nil, nil, nil, free}
	behind := map[int]bool{0: true, 6: true}
	for i := range 300 { // more than fit into most statements
		asked = append(asked, look(fmt.Sprintf("absent-%d", i), fmt.Sprintf("s-%d", i)))
		found = append(found, nil)
	}
	return s.session(ctx, func(session semel.Session[Tx]) error {
		known, err := session.Lookup(ctx, asked)
		if err != nil || len(known) != len(asked) {
			return fmt.Errorf("%d answers to %d questions (error: %v)", len(known), len(asked), err)
		}
		for i, k := range known {
			if (k.Operation == nil) != (found[i] == nil) || k.Expired {
				return fmt.Errorf("question %d: found %t, expired %t", i, k.Operation != nil, k.Expired)
			}
			if k.Operation != nil && k.Operation.ID != asked[i].ID {
				return fmt.Errorf("question %d is answered with another operation", i)
			}
			if k.Operation == nil && k.Behind != behind[i] {
				return fmt.Errorf("question %d about %q: behind is %t, want %t", i, asked[i].Subjects, k.Behind, behind[i])
			}
		}
		return nil
	})
}

func checkUpdate[Tx any](ctx context.Context, s *stage[Tx]) error {
	op := s.operation("k", "a")
	op.State, op.Epoch = semel.Running, 5
	if err := s.commit(ctx, func(session semel.Session[Tx]) error {
		return session.Insert(ctx, []*semel.Operation{op})
	}); err != nil {
		return err
	}
	done := *op
	done.State, done.Holds, done.Result = semel.Rejected, false, []byte("mine")
	absent := *s.operation("absent", "b")
	for _, tt := range []struct {
		name   string
		change semel.Change
		want   bool
	}{
		{"an older epoch", semel.Change{Operation: &done, State: semel.Running, Epoch: 4}, false},
		{"a newer epoch", semel.Change{Operation: &done, State: semel.Running, Epoch: 6}, false},
		{"another state", semel.Change{Operation: &done, State: semel.Waiting, Epoch: 5}, false},
		{"an absent operation", semel.Change{Operation: &absent, State: semel.Accepted}, false},
		{"what it is", semel.Change{Operation: &done, State: semel.Running, Epoch: 5}, true},
		{"what it was", semel.Change{Operation: &done, State: semel.Running, Epoch: 5}, false},
	} {
		if err := s.commit(ctx, func(session semel.Session[Tx]) error {
			stored, err := session.Update(ctx, []semel.Change{tt.change})
			if err == nil && (len(stored) != 1 || stored[0] != tt.want) {
				err = fmt.Errorf("stored is %v", stored)
			}
			return err
		}); err != nil {
			return fmt.Errorf("a change from %s: %w", tt.name, err)
		}
		want := op
		if tt.want || tt.name == "what it was" {
			want = &done
		}
		if err := s.readBack(ctx, want); err != nil {
			return fmt.Errorf("after a change from %s: %w", tt.name, err)
		}
	}
	return nil
}
