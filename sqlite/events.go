package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/semel-dev/semel"
)

const eventColumns = `position, tenant, operation, number, name, schema, subject, version, data, correlation, publish, at`

const insertEvent = `INSERT INTO semel_events (` + eventColumns + `) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)`

// Append implements [semel.Ledger]. Positions are given at once. If one event
// cannot be appended, none is: a handler may go on after a conflict.
func (s *session) Append(ctx context.Context, events []*semel.Event) error {
	return s.ledger(ctx, func() error {
		start := s.position
		err := s.appendAll(events)
		if err == nil {
			s.wrote = s.wrote || len(events) > 0
			return nil
		}
		for _, e := range events {
			e.Position = 0
		}
		if s.position == start {
			return err
		}
		if _, undo := s.c.exec(`DELETE FROM semel_events WHERE position > ?`, start); undo != nil {
			s.wrote = true
			return errors.Join(err, fmt.Errorf("sqlite: taking events back: %w", undo))
		}
		s.position = start
		return err
	})
}

func (s *session) appendAll(events []*semel.Event) error {
	st, err := s.c.own(insertEvent)
	if err != nil {
		return err
	}
	for _, e := range events {
		position := s.position + 1
		_, err := st.exec(s.c.bind(position, e.Tenant, e.Operation[:], int64(e.Number), e.Name, e.Schema, e.Subject, e.Version,
			document(e.Data), document(e.Correlation), document(e.Publish), micros(e.At)))
		if err != nil {
			if taken(err) {
				return fmt.Errorf("%w: %q has version %d already", semel.ErrVersionConflict, e.Subject, e.Version)
			}
			return fmt.Errorf("sqlite: appending event %s: %w", e.ID(), err)
		}
		e.Position, s.position = position, position
	}
	return nil
}

func scanEvent(v []driver.Value) semel.Event {
	e := semel.Event{
		Position:    intOf(v[0]),
		Tenant:      stringOf(v[1]),
		Number:      int(intOf(v[3])),
		Name:        stringOf(v[4]),
		Schema:      stringOf(v[5]),
		Subject:     stringOf(v[6]),
		Version:     intOf(v[7]),
		Data:        bytesOf(v[8]),
		Correlation: bytesOf(v[9]),
		Publish:     bytesOf(v[10]),
		At:          moment(v[11]),
	}
	copy(e.Operation[:], bytesOf(v[2]))
	return e
}

const streamEvents = `SELECT ` + eventColumns + ` FROM semel_events
 WHERE tenant = ? AND subject = ? AND version > ? AND version > 0 ORDER BY version`

// Stream implements [semel.Ledger].
func (s *session) Stream(ctx context.Context, tenant, subject string, after int64) (events []semel.Event, err error) {
	err = s.ledger(ctx, func() error {
		return s.c.query(streamEvents, func(v []driver.Value) error {
			events = append(events, scanEvent(v))
			return nil
		}, tenant, subject, after)
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// Events implements [semel.Store].
func (s *Store) Events(ctx context.Context, after int64, limit int) (events []semel.Event, err error) {
	err = s.read(ctx, func(c *connection) error {
		return c.query(`SELECT `+eventColumns+` FROM semel_events WHERE position > ? ORDER BY position LIMIT ?`,
			func(v []driver.Value) error {
				events = append(events, scanEvent(v))
				return nil
			}, after, int64(limit))
	})
	if err != nil {
		return nil, fmt.Errorf("sqlite: reading events after %d: %w", after, err)
	}
	return events, nil
}

// Head implements [semel.Store].
func (s *Store) Head(ctx context.Context) (position int64, err error) {
	err = s.read(ctx, func(c *connection) (err error) {
		position, err = c.integer(`SELECT max(position) FROM semel_events`)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("sqlite: reading the log's head: %w", err)
	}
	return position, nil
}
