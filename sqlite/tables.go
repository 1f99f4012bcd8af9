package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"math"
	"math/bits"
	"regexp"
	"time"
)

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// quote refuses names that would have to be escaped, here or in a query of the
// user's.
func quote(name string) (string, error) {
	if !plainName.MatchString(name) {
		return "", fmt.Errorf("sqlite: table name %q: want letters, digits and _, not beginning with a digit", name)
	}
	return `"` + name + `"`, nil
}

// Point implements [semel.Tables].
func (s *Store) Point(ctx context.Context, tx Tx, view, table string) error {
	quotedView, err := quote(view)
	if err != nil {
		return err
	}
	quotedTable, err := quote(table)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DROP VIEW IF EXISTS `+quotedView+`; CREATE VIEW `+quotedView+` AS SELECT * FROM `+quotedTable)
	if err != nil {
		return fmt.Errorf("sqlite: pointing view %q at table %q: %w", view, table, err)
	}
	return nil
}

// Drop implements [semel.Tables]. Dropping a table that is not there is no
// error, so that it can be repeated.
func (s *Store) Drop(ctx context.Context, tx Tx, table string) error {
	quoted, err := quote(table)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DROP TABLE IF EXISTS `+quoted); err != nil {
		return fmt.Errorf("sqlite: dropping table %q: %w", table, err)
	}
	return nil
}

// Checksum implements [semel.Tables]: the sum, modulo 2^256, of a SHA-256 of
// each row with its values' types. Two tables with the same rows in any order
// have the same sum, and rows that occur twice count twice.
func (s *Store) Checksum(ctx context.Context, tx Tx, table string) (sum string, rows int64, err error) {
	quoted, err := quote(table)
	if err != nil {
		return "", 0, err
	}
	result, err := tx.QueryContext(ctx, `SELECT * FROM `+quoted)
	if err != nil {
		return "", 0, fmt.Errorf("sqlite: reading table %q: %w", table, err)
	}
	defer result.Close()
	sum, rows, err = checksum(result)
	if err != nil {
		return "", 0, fmt.Errorf("sqlite: reading table %q: %w", table, err)
	}
	return sum, rows, nil
}

func checksum(result *sql.Rows) (sum string, rows int64, err error) {
	columns, err := result.Columns()
	if err != nil {
		return "", 0, err
	}
	values := make([]any, len(columns))
	targets := make([]any, len(columns))
	for i := range values {
		targets[i] = &values[i]
	}
	var total [4]uint64
	h := sha256.New()
	for result.Next() {
		if err := result.Scan(targets...); err != nil {
			return "", 0, err
		}
		h.Reset()
		for _, v := range values {
			digest(h, v)
		}
		var row [sha256.Size]byte
		h.Sum(row[:0])
		var carry uint64
		for i := range total {
			total[i], carry = bits.Add64(total[i], binary.LittleEndian.Uint64(row[i*8:]), carry)
		}
		rows++
	}
	var encoded [sha256.Size]byte
	for i, part := range total {
		binary.LittleEndian.PutUint64(encoded[i*8:], part)
	}
	return hex.EncodeToString(encoded[:]), rows, result.Err()
}

// digest writes one value so that no two different ones look the same.
func digest(h hash.Hash, v any) {
	var b [9]byte
	number := func(kind byte, n uint64) {
		b[0] = kind
		binary.BigEndian.PutUint64(b[1:], n)
		h.Write(b[:])
	}
	switch v := v.(type) {
	case nil:
		number('n', 0)
	case int64:
		number('i', uint64(v))
	case float64:
		number('f', math.Float64bits(v))
	case string:
		number('s', uint64(len(v)))
		h.Write([]byte(v))
	case []byte:
		number('b', uint64(len(v)))
		h.Write(v)
	case time.Time: // the driver reads columns declared DATE or the like as times
		number('t', uint64(v.UnixMicro()))
	default:
		s := fmt.Sprintf("%T %v", v, v)
		number('?', uint64(len(s)))
		h.Write([]byte(s))
	}
}
