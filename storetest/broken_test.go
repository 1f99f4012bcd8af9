package storetest

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

type session = semel.Session[sqlite.Tx]

// broken is a real store that does what its hooks say.
type broken struct {
	*sqlite.Store
	begin      func(ctx context.Context, s *sqlite.Store, solo bool) (session, error)
	wrap       func(session) session
	operations func(semel.OperationQuery) semel.OperationQuery
}

func (b broken) Begin(ctx context.Context, solo bool) (session, error) {
	begin := b.begin
	if begin == nil {
		begin = func(ctx context.Context, s *sqlite.Store, solo bool) (session, error) { return s.Begin(ctx, solo) }
	}
	s, err := begin(ctx, b.Store, solo)
	if err != nil || b.wrap == nil {
		return s, err
	}
	return b.wrap(s), nil
}

func (b broken) Operations(ctx context.Context, q semel.OperationQuery) ([]*semel.Operation, error) {
	if b.operations != nil {
		q = b.operations(q)
	}
	return b.Store.Operations(ctx, q)
}

// wrapped breaks every session of a store.
func wrapped(wrap func(session) session) func(*sqlite.Store) closer {
	return func(s *sqlite.Store) closer { return broken{Store: s, wrap: wrap} }
}

// brokenStores are each wrong in one way, and caught by every named check.
var brokenStores = []struct {
	name   string
	alter  func(*sqlite.Store) closer
	caught string
}{
	{"forgets the epoch", wrapped(func(s session) session { return forgetsEpoch{s} }), "operation/update owner/paused failure/at-most-once"},
	{"says stored when it is not", wrapped(func(s session) session { return saysStored{s} }), "operation/update owner/paused"},
	{"acknowledges without a commit", wrapped(func(s session) session { return acknowledges{s} }), "session/commit effect/once"},
	{"acknowledges before the commit", commitsLate, "session/commit"},
	{"commits on rollback", wrapped(func(s session) session { return commitsAlways{s} }), "session/rollback failure/isolated"},
	{"moves a follower apart from its rows", positionApart, "follower/position"},
	{"moves a follower from anywhere", wrapped(func(s session) session { return followsBlindly{s} }), "follower/position projection/fenced"},
	{"keeps no tombstone", wrapped(func(s session) session { return keepsNoTombstone{s} }), "retention/window retention/sweep"},
	{"cleans up dead letters", wrapped(func(s session) session { return cleansUp{s, "failed"} }), "failure/exhausted retention/kept retention/sweep"},
	{"cleans up what waits", wrapped(func(s session) session { return cleansUp{s, "waiting"} }), "retention/kept retention/sweep"},
	{"loses the fingerprint", wrapped(func(s session) session { return losesFingerprint{s} }), "operation/fields effect/once"},
	{"overwrites a known operation", wrapped(func(s session) session { return overwrites{s} }), "operation/insert"},
	{"knows no repeats", wrapped(func(s session) session { return forgetful{s} }), "operation/lookup effect/once effect/reused effect/duplicates"},
	{"changes the stored answer", wrapped(func(s session) session { return embellishes{s} }), "operation/fields effect/once"},
	{"cuts times to seconds", wrapped(func(s session) session { return cutsTimes{s} }), "operation/fields"},
	{"finds more executed than shown", wrapped(func(s session) session { return completesEarly{s} }), "claim/executed projection/lag"},
	{"loses the queue", wrapped(func(s session) session { return losesQueue{s} }), "operation/lookup claim/queue order/sequence order/park"},
	{"sees nobody ahead", wrapped(func(s session) session { return neverBehind{s} }), "operation/lookup order/sequence order/park"},
	{"ends leases at once", wrapped(func(s session) session { return noLease{s} }), "claim/lease"},
	{"never says what is due", func(s *sqlite.Store) closer { return neverDue{s} }, "claim/lease failure/retry"},
	{"leaves holes in the log", func(s *sqlite.Store) closer { return leavesHoles{s} }, "log/positions log/capability"},
	{"reads the log out of order", func(s *sqlite.Store) closer { return shuffles{s} }, "log/positions order/sequence"},
	{"hides a session's own events", wrapped(func(s session) session { return &hidesOwn{session: s} }), "log/stream"},
	{"appends in spite of a conflict", wrapped(func(s session) session { return ignoresVersions{s} }), "log/version"},
	{"keeps what a member wrote that failed", wrapped(func(s session) session { return keepsWrites{s} }), "session/run failure/isolated effect/once"},
	{"skips outcomes", func(s *sqlite.Store) closer {
		return broken{Store: s, operations: func(q semel.OperationQuery) semel.OperationQuery {
			if q.After > 0 {
				q.After++
			}
			return q
		}}
	}, "listing/query listing/feed"},
	{"lists everyone's operations", func(s *sqlite.Store) closer {
		return broken{Store: s, operations: func(q semel.OperationQuery) semel.OperationQuery { q.All = true; return q }}
	}, "listing/query effect/scope"},
	{"counts rows and calls it a checksum", func(s *sqlite.Store) closer { return countsRows{s} }, "tables"},
	{"forgets no generation", wrapped(func(s session) session { return forgetsNothing{s} }), "follower/promote"},
	{"locks for a solo session at once", func(s *sqlite.Store) closer {
		return broken{Store: s, begin: func(ctx context.Context, s *sqlite.Store, _ bool) (session, error) { return s.Begin(ctx, false) }}
	}, "session/solo"},
	{"begins without looking at the context", func(s *sqlite.Store) closer {
		return broken{Store: s, begin: func(ctx context.Context, s *sqlite.Store, solo bool) (session, error) {
			return s.Begin(context.WithoutCancel(ctx), solo)
		}}
	}, "session/begin"},
}

// slow is sound: its commits are done when they should be, and answered late,
// as by a server far away. It waits without a timer: virtual time does not go
// on while somebody waits for a mutex.
type slow struct{ session }

func (s slow) Commit(ctx context.Context) error {
	err := s.session.Commit(ctx)
	for range 5000 {
		runtime.Gosched()
	}
	return err
}

type forgetsEpoch struct{ session }

func (s forgetsEpoch) Update(ctx context.Context, changes []semel.Change) ([]bool, error) {
	for i, c := range changes {
		known, err := s.Lookup(ctx, []semel.Lookup{{ID: c.Operation.ID}})
		if err != nil {
			return nil, err
		}
		if op := known[0].Operation; op != nil {
			changes[i].State, changes[i].Epoch = op.State, op.Epoch
		}
	}
	return s.session.Update(ctx, changes)
}

type saysStored struct{ session }

func (s saysStored) Update(ctx context.Context, changes []semel.Change) ([]bool, error) {
	stored, err := s.session.Update(ctx, changes)
	for i := range stored {
		stored[i] = true
	}
	return stored, err
}

type acknowledges struct{ session }

func (s acknowledges) Commit(context.Context) error { s.Rollback(); return nil }

type commitsAlways struct{ session }

func (s commitsAlways) Rollback() { _ = s.Commit(context.Background()) }

// lateStore commits when the next session begins, and never if there is none.
type lateStore struct {
	*sqlite.Store
	pending *session
}

func commitsLate(s *sqlite.Store) closer { return lateStore{s, new(session)} }

func (s lateStore) flush(end func(session)) {
	if late := *s.pending; late != nil {
		*s.pending = nil
		end(late)
	}
}

func (s lateStore) Begin(ctx context.Context, solo bool) (session, error) {
	s.flush(func(late session) { _ = late.Commit(ctx) })
	inner, err := s.Store.Begin(ctx, solo)
	return lateSession{inner, s}, err
}

func (s lateStore) Close() error {
	s.flush(func(late session) { late.Rollback() })
	return s.Store.Close()
}

type lateSession struct {
	session
	store lateStore
}

func (s lateSession) Commit(context.Context) error { *s.store.pending = s.session; return nil }

func (s lateSession) Rollback() {
	if *s.store.pending != s.session {
		s.session.Rollback()
	}
}

// apart moves followers in a transaction of their own, after the rows.
type apart struct {
	session
	store *sqlite.Store
	moves []func(context.Context, session) error
}

func positionApart(s *sqlite.Store) closer {
	return broken{Store: s, wrap: func(inner session) session { return &apart{session: inner, store: s} }}
}

func (s *apart) Follow(_ context.Context, f semel.Follower, from int64) error {
	s.moves = append(s.moves, func(ctx context.Context, later session) error { return later.Follow(ctx, f, from) })
	return nil
}

func (s *apart) Commit(ctx context.Context) error {
	if err := s.session.Commit(ctx); err != nil || len(s.moves) == 0 {
		return err
	}
	later, err := s.store.Begin(ctx, false)
	if err != nil {
		return err
	}
	defer later.Rollback()
	for _, move := range s.moves {
		if err := move(ctx, later); err != nil && !errors.Is(err, semel.ErrFenced) {
			return err
		}
	}
	return later.Commit(ctx)
}

type followsBlindly struct{ session }

func (s followsBlindly) Follow(ctx context.Context, f semel.Follower, from int64) error {
	err := s.session.Follow(ctx, f, from)
	if errors.Is(err, semel.ErrFenced) {
		_, err = s.Tx().ExecContext(ctx, `UPDATE semel_followers SET position = ? WHERE name = ?`, f.Position, f.Name)
	}
	return err
}

type keepsNoTombstone struct{ session }

func (s keepsNoTombstone) Sweep(ctx context.Context, w semel.Sweep) (semel.Swept, error) {
	swept, err := s.session.Sweep(ctx, w)
	if err == nil {
		_, err = s.Tx().ExecContext(ctx, `DELETE FROM semel_tombstones`)
	}
	return swept, err
}

type cleansUp struct {
	session
	state string
}

func (s cleansUp) Sweep(ctx context.Context, w semel.Sweep) (semel.Swept, error) {
	swept, err := s.session.Sweep(ctx, w)
	if err == nil {
		_, err = s.Tx().ExecContext(ctx, `DELETE FROM semel_operations WHERE state = ?`, s.state)
	}
	return swept, err
}

// storesOther inserts changed copies.
func storesOther(ctx context.Context, s session, ops []*semel.Operation, change func(*semel.Operation)) error {
	copies := make([]*semel.Operation, len(ops))
	for i, op := range ops {
		c := *op
		change(&c)
		copies[i] = &c
	}
	err := s.Insert(ctx, copies)
	for i, c := range copies {
		ops[i].Seq = c.Seq
	}
	return err
}

type losesFingerprint struct{ session }

func (s losesFingerprint) Insert(ctx context.Context, ops []*semel.Operation) error {
	return storesOther(ctx, s.session, ops, func(op *semel.Operation) { op.Fingerprint = semel.Fingerprint{} })
}

type embellishes struct{ session }

func (s embellishes) Insert(ctx context.Context, ops []*semel.Operation) error {
	return storesOther(ctx, s.session, ops, func(op *semel.Operation) { op.Result = append(slices.Clone(op.Result), '\n') })
}

type cutsTimes struct{ session }

func (s cutsTimes) Insert(ctx context.Context, ops []*semel.Operation) error {
	return storesOther(ctx, s.session, ops, func(op *semel.Operation) { op.AcceptedAt = op.AcceptedAt.Truncate(time.Second) })
}

type overwrites struct{ session }

func (s overwrites) Insert(ctx context.Context, ops []*semel.Operation) error {
	for _, op := range ops {
		if _, err := s.Tx().ExecContext(ctx, `DELETE FROM semel_operations WHERE id = ?`, op.ID[:]); err != nil {
			return err
		}
	}
	return s.session.Insert(ctx, ops)
}

// forgetful finds no operation, and ignores those that are there already.
type forgetful struct{ session }

func (s forgetful) Lookup(ctx context.Context, keys []semel.Lookup) ([]semel.Known, error) {
	known, err := s.session.Lookup(ctx, keys)
	for i := range known {
		known[i].Operation = nil
	}
	return known, err
}

func (s forgetful) Insert(ctx context.Context, ops []*semel.Operation) error {
	for _, op := range ops {
		if err := s.session.Insert(ctx, []*semel.Operation{op}); err != nil && !errors.Is(err, semel.ErrFenced) {
			return err
		}
	}
	return nil
}

type completesEarly struct{ session }

func (s completesEarly) Executed(ctx context.Context, _ int64, limit int) ([]*semel.Operation, error) {
	return s.session.Executed(ctx, math.MaxInt64, limit)
}

type losesQueue struct{ session }

func (s losesQueue) Insert(ctx context.Context, ops []*semel.Operation) error {
	if err := s.session.Insert(ctx, ops); err != nil {
		return err
	}
	_, err := s.Tx().ExecContext(ctx, `DELETE FROM semel_queue`)
	return err
}

type neverBehind struct{ session }

func (s neverBehind) Lookup(ctx context.Context, keys []semel.Lookup) ([]semel.Known, error) {
	known, err := s.session.Lookup(ctx, keys)
	for i := range known {
		known[i].Behind = false
	}
	return known, err
}

type noLease struct{ session }

func (s noLease) Claim(ctx context.Context, c semel.Claim) ([]*semel.Operation, error) {
	c.Lease = func(string) time.Duration { return 0 }
	return s.session.Claim(ctx, c)
}

type neverDue struct{ *sqlite.Store }

func (s neverDue) NextDue(context.Context) (time.Time, error) { return time.Time{}, nil }

// leavesHoles uses every second position.
type leavesHoles struct{ *sqlite.Store }

type holes struct{ session }

func (s leavesHoles) Begin(ctx context.Context, solo bool) (session, error) {
	inner, err := s.Store.Begin(ctx, solo)
	return holes{inner}, err
}

func (s holes) Append(ctx context.Context, events []*semel.Event) error {
	err := s.session.Append(ctx, events)
	for _, event := range events {
		event.Position *= 2
	}
	return err
}

func (s leavesHoles) Events(ctx context.Context, after int64, limit int) ([]semel.Event, error) {
	events, err := s.Store.Events(ctx, after/2, limit)
	for i := range events {
		events[i].Position *= 2
	}
	return events, err
}

func (s leavesHoles) Head(ctx context.Context) (int64, error) {
	head, err := s.Store.Head(ctx)
	return 2 * head, err
}

// shuffles swaps what stands at neighboring positions.
type shuffles struct{ *sqlite.Store }

func (s shuffles) Events(ctx context.Context, after int64, limit int) ([]semel.Event, error) {
	events, err := s.Store.Events(ctx, after, limit)
	for i := 0; i+1 < len(events); i += 2 {
		events[i], events[i+1] = events[i+1], events[i]
		events[i].Position, events[i+1].Position = events[i+1].Position, events[i].Position
	}
	return events, err
}

type hidesOwn struct {
	session
	own map[string]bool
}

func (s *hidesOwn) Append(ctx context.Context, events []*semel.Event) error {
	if s.own == nil {
		s.own = make(map[string]bool)
	}
	for _, event := range events {
		s.own[event.ID()+strconv.FormatInt(event.Version, 10)] = true
	}
	return s.session.Append(ctx, events)
}

func (s *hidesOwn) Stream(ctx context.Context, tenant, subject string, after int64) ([]semel.Event, error) {
	events, err := s.session.Stream(ctx, tenant, subject, after)
	return slices.DeleteFunc(events, func(event semel.Event) bool {
		return s.own[event.ID()+strconv.FormatInt(event.Version, 10)]
	}), err
}

type ignoresVersions struct{ session }

func (s ignoresVersions) Append(ctx context.Context, events []*semel.Event) error {
	for _, event := range events {
		event.Version = 0
	}
	return s.session.Append(ctx, events)
}

type keepsWrites struct{ session }

func (s keepsWrites) Run(ctx context.Context, members []semel.Member[sqlite.Tx]) (int, error) {
	for _, m := range members {
		if _, err := s.session.Run(ctx, []semel.Member[sqlite.Tx]{m}); err != nil {
			return -1, err
		}
	}
	return -1, nil
}

type countsRows struct{ *sqlite.Store }

func (s countsRows) Checksum(ctx context.Context, tx sqlite.Tx, table string) (string, int64, error) {
	_, rows, err := s.Store.Checksum(ctx, tx, table)
	return strconv.FormatInt(rows, 10), rows, err
}

type forgetsNothing struct{ session }

func (s forgetsNothing) Promote(ctx context.Context, name string, generation int) error {
	_, err := s.Tx().ExecContext(ctx, `UPDATE semel_followers SET live = (generation = ?) WHERE name = ?`, generation, name)
	return err
}
