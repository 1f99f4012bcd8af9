package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

// operationColumns are in the order in which bindOperation binds and
// scanOperation reads them.
const operationColumns = `seq, id, tenant, principal, name, key, subject, fingerprint, body, correlation,
 state, attempts, epoch, holds, status, resource, result, code, reason, disposition,
 events, position, done_position, accepted_at, executed_at, done_at, due_at, expires_at`

const operationWidth = 28

// undecided is repeated word for word in the partial indexes: SQLite uses them
// only for queries that contain it. It compares a number, because every index's
// condition is evaluated for every operation that is stored.
const (
	undecided  = `done_position = 0`
	unfinished = `state IN ('accepted', 'running', 'waiting')`
)

func bindOperation(args []driver.NamedValue, o *semel.Operation) {
	for i, v := range [operationWidth]driver.Value{
		o.Seq, o.ID[:], o.Tenant, o.Principal, o.Name, o.Key, o.Subject(), o.Fingerprint[:], optional(o.Body), document(o.Correlation),
		string(o.State), int64(o.Attempts), o.Epoch, o.Holds, int64(o.Status), o.Resource, optional(o.Result), o.Code, o.Reason, string(o.Disposition),
		int64(o.Events), o.Position, o.DonePosition, micros(o.AcceptedAt), micros(o.ExecutedAt), micros(o.DoneAt), micros(o.DueAt), micros(o.ExpiresAt),
	} {
		args[i].Value = v
	}
}

func scanOperation(v []driver.Value) *semel.Operation {
	o := &semel.Operation{
		Seq:          intOf(v[0]),
		Tenant:       stringOf(v[2]),
		Principal:    stringOf(v[3]),
		Name:         stringOf(v[4]),
		Key:          stringOf(v[5]),
		Body:         bytesOf(v[8]),
		Correlation:  bytesOf(v[9]),
		State:        semel.State(stringOf(v[10])),
		Attempts:     int(intOf(v[11])),
		Epoch:        intOf(v[12]),
		Holds:        intOf(v[13]) != 0,
		Status:       int(intOf(v[14])),
		Resource:     stringOf(v[15]),
		Result:       bytesOf(v[16]),
		Code:         stringOf(v[17]),
		Reason:       stringOf(v[18]),
		Disposition:  semel.Disposition(stringOf(v[19])),
		Events:       int(intOf(v[20])),
		Position:     intOf(v[21]),
		DonePosition: intOf(v[22]),
		AcceptedAt:   moment(v[23]),
		ExecutedAt:   moment(v[24]),
		DoneAt:       moment(v[25]),
		DueAt:        moment(v[26]),
		ExpiresAt:    moment(v[27]),
	}
	copy(o.ID[:], bytesOf(v[1]))
	copy(o.Fingerprint[:], bytesOf(v[7]))
	if subject := stringOf(v[6]); subject != "" {
		o.Subjects = []string{subject}
	}
	return o
}

const insertOperation = `INSERT INTO semel_operations (` + operationColumns + `)
 VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`

// Insert implements [semel.Ledger].
func (s *session) Insert(ctx context.Context, ops []*semel.Operation) error {
	return s.ledger(ctx, func() error {
		st, err := s.c.own(insertOperation)
		if err != nil {
			return err
		}
		for _, o := range ops {
			s.seq++
			o.Seq = s.seq
			args := s.c.buffer(operationWidth)
			bindOperation(args, o)
			if _, err := st.exec(args); err != nil {
				if taken(err) {
					return fmt.Errorf("%w: operation %s has been stored by another session", semel.ErrFenced, o.ID)
				}
				return fmt.Errorf("sqlite: storing operation %s: %w", o.ID, err)
			}
			if err := s.enqueue(o); err != nil {
				return err
			}
		}
		return nil
	})
}

// enqueue gives an operation that holds its places.
func (s *session) enqueue(o *semel.Operation) error {
	if !o.Holds {
		return nil
	}
	for _, subject := range o.Subjects {
		added, err := s.c.exec(`INSERT OR IGNORE INTO semel_queue (tenant, subject, seq) VALUES (?, ?, ?)`, o.Tenant, subject, o.Seq)
		if err != nil {
			return fmt.Errorf("sqlite: queueing operation %s behind %q: %w", o.ID, subject, err)
		}
		s.queued += added
	}
	return nil
}

const updateOperation = `UPDATE semel_operations SET state = ?, attempts = ?, epoch = ?, holds = ?, status = ?, resource = ?, result = ?,
 code = ?, reason = ?, disposition = ?, events = ?, position = ?, done_position = ?,
 executed_at = ?, done_at = ?, due_at = ?, expires_at = ?, body = ?
 WHERE id = ? AND state = ? AND epoch = ? RETURNING seq`

// Update implements [semel.Ledger]. What a command was (its scope, key,
// subject, fingerprint, correlation and time of acceptance) never changes.
func (s *session) Update(ctx context.Context, changes []semel.Change) (stored []bool, err error) {
	stored = make([]bool, len(changes))
	err = s.ledger(ctx, func() error {
		for i, change := range changes {
			o := change.Operation
			var seq int64
			err := s.c.query(updateOperation, func(v []driver.Value) error { seq = intOf(v[0]); return nil },
				string(o.State), int64(o.Attempts), o.Epoch, o.Holds, int64(o.Status), o.Resource, optional(o.Result),
				o.Code, o.Reason, string(o.Disposition), int64(o.Events), o.Position, o.DonePosition,
				micros(o.ExecutedAt), micros(o.DoneAt), micros(o.DueAt), micros(o.ExpiresAt), optional(o.Body),
				o.ID[:], string(change.State), change.Epoch)
			if err != nil {
				return fmt.Errorf("sqlite: storing operation %s: %w", o.ID, err)
			}
			if seq == 0 {
				continue
			}
			stored[i] = true
			if err := s.requeue(o, change.State, seq); err != nil {
				return err
			}
		}
		return nil
	})
	return stored, err
}

// requeue takes an operation out of its queues, or back into them when a
// failure that had let go is replayed.
func (s *session) requeue(o *semel.Operation, from semel.State, seq int64) error {
	switch {
	case !o.Holds:
		removed, err := s.c.exec(`DELETE FROM semel_queue WHERE seq = ?`, seq)
		if err != nil {
			return fmt.Errorf("sqlite: taking operation %s out of its queues: %w", o.ID, err)
		}
		s.queued -= removed
	case from == semel.Failed:
		back := *o
		back.Seq = seq
		return s.enqueue(&back)
	}
	return nil
}

// most is the longest list of ids in one statement. Lists are padded to powers
// of two, so that few texts have to be prepared.
const most = 128

// Whether there is anything is asked of the indexes alone, and in one statement:
// most commands are new, and reading no row of many columns costs the driver as
// much as reading one.
var (
	lookupIDs        = lists(`SELECT id, 0 FROM semel_operations WHERE id IN %[1]s UNION ALL SELECT id, 1 FROM semel_tombstones WHERE id IN %[1]s`)
	lookupOperations = lists(`SELECT ` + operationColumns + ` FROM semel_operations WHERE id IN %[1]s`)
)

func lists(query string) (texts map[int]string) {
	texts = make(map[int]string)
	for n := 1; n <= most; n *= 2 {
		places := make([]string, n)
		for i := range places {
			places[i] = "?" + strconv.Itoa(i+1)
		}
		texts[n] = fmt.Sprintf(query, "("+strings.Join(places, ",")+")")
	}
	return texts
}

// Lookup implements [semel.Ledger].
func (s *session) Lookup(ctx context.Context, keys []semel.Lookup) ([]semel.Known, error) {
	known := make([]semel.Known, len(keys))
	err := s.ledger(ctx, func() error {
		for start := 0; start < len(keys); start += most {
			end := min(start+most, len(keys))
			if err := s.lookup(keys[start:end], known[start:end]); err != nil {
				return fmt.Errorf("sqlite: looking up operations: %w", err)
			}
		}
		if err := s.markBehind(keys, known); err != nil {
			return fmt.Errorf("sqlite: looking up queues: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return known, nil
}

// lookup fills in operations and tombstones.
func (s *session) lookup(keys []semel.Lookup, known []semel.Known) error {
	var expired map[semel.ID]bool
	stored := false
	err := s.listed(lookupIDs, keys, func(v []driver.Value) error {
		if intOf(v[1]) == 0 {
			stored = true
			return nil
		}
		if expired == nil {
			expired = make(map[semel.ID]bool)
		}
		expired[semel.ID(bytesOf(v[0]))] = true
		return nil
	})
	if err != nil || !stored && expired == nil {
		return err
	}
	found := make(map[semel.ID]*semel.Operation)
	err = s.listed(lookupOperations, keys, func(v []driver.Value) error {
		o := scanOperation(v)
		found[o.ID] = o
		return nil
	})
	if err != nil {
		return err
	}
	for i, key := range keys {
		known[i].Operation = found[key.ID]
		known[i].Expired = known[i].Operation == nil && expired[key.ID]
	}
	return nil
}

// listed runs one of the statements with a list of ids, padded with the last.
func (s *session) listed(texts map[int]string, keys []semel.Lookup, each func([]driver.Value) error) error {
	size := 1
	for size < len(keys) {
		size *= 2
	}
	st, err := s.c.own(texts[size])
	if err != nil {
		return err
	}
	args := s.c.buffer(size)
	for i := range args {
		args[i].Value = keys[min(i, len(keys)-1)].ID[:]
	}
	return s.c.each(context.Background(), st, args, each)
}

const lookupQueue = `SELECT 1 FROM semel_queue WHERE tenant = ? AND subject = ? AND seq < ? LIMIT 1`

func (s *session) markBehind(keys []semel.Lookup, known []semel.Known) error {
	if s.queued == 0 {
		return nil
	}
	for i, key := range keys {
		before := int64(math.MaxInt64)
		if o := known[i].Operation; o != nil {
			before = o.Seq
		}
		for _, subject := range key.Subjects {
			n, err := s.c.integer(lookupQueue, key.Tenant, subject, before)
			if err != nil {
				return err
			}
			if n == 1 {
				known[i].Behind = true
				break
			}
		}
	}
	return nil
}

// claimOperations goes through the undecided operations in the order of their
// acceptance and stops at the limit, so a long backlog is neither read nor
// sorted.
const claimOperations = `SELECT ` + operationColumns + ` FROM semel_operations AS o INDEXED BY semel_operations_open
 WHERE ` + undecided + ` AND ` + unfinished + ` AND due_at <= ?1 AND name IN (SELECT value FROM json_each(?2))
   AND NOT EXISTS (SELECT 1 FROM semel_queue AS own JOIN semel_queue AS older
         ON older.tenant = own.tenant AND older.subject = own.subject AND older.seq < own.seq
       WHERE own.seq = o.seq)
 ORDER BY seq LIMIT ?3`

// Claim implements [semel.Ledger].
func (s *session) Claim(ctx context.Context, c semel.Claim) (claimed []*semel.Operation, err error) {
	if len(c.Names) == 0 || c.Limit <= 0 {
		return nil, nil
	}
	names, err := json.Marshal(c.Names)
	if err != nil {
		return nil, err
	}
	err = s.ledger(ctx, func() error {
		at := now()
		err := s.c.query(claimOperations, func(v []driver.Value) error {
			claimed = append(claimed, scanOperation(v))
			return nil
		}, micros(at), string(names), int64(c.Limit))
		if err != nil {
			return fmt.Errorf("sqlite: looking for due operations: %w", err)
		}
		for _, o := range claimed {
			o.State = semel.Running
			o.Epoch++
			o.Attempts++
			o.DueAt = at.Add(c.Lease(o.Name)).Truncate(time.Microsecond)
			if err := s.take(o); err != nil {
				return fmt.Errorf("sqlite: claiming operation %s: %w", o.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return claimed, nil
}

func (s *session) take(o *semel.Operation) error {
	_, err := s.c.exec(`UPDATE semel_operations SET state = 'running', epoch = ?, attempts = ?, due_at = ? WHERE seq = ?`,
		o.Epoch, int64(o.Attempts), micros(o.DueAt), o.Seq)
	if err != nil {
		return err
	}
	return s.c.query(`SELECT subject FROM semel_queue WHERE seq = ?`, func(v []driver.Value) error {
		if subject := stringOf(v[0]); subject != o.Subject() {
			o.Subjects = append(o.Subjects, subject)
		}
		return nil
	}, o.Seq)
}

const executedOperations = `SELECT ` + operationColumns + ` FROM semel_operations
 WHERE state = 'executed' AND position <= ? ORDER BY position LIMIT ?`

// Executed implements [semel.Ledger].
func (s *session) Executed(ctx context.Context, position int64, limit int) (ops []*semel.Operation, err error) {
	err = s.ledger(ctx, func() error {
		return s.c.query(executedOperations, func(v []driver.Value) error {
			ops = append(ops, scanOperation(v))
			return nil
		}, position, int64(limit))
	})
	if err != nil {
		return nil, err
	}
	return ops, nil
}
