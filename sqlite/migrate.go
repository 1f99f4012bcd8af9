package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	modernc "modernc.org/sqlite"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// A migration is one numbered step of the schema. A step that was released is
// never edited: its checksum is compared with what was applied.
type migration struct {
	version  int
	name     string
	up, down string
}

func (m migration) checksum() string {
	sum := sha256.Sum256([]byte(m.up))
	return hex.EncodeToString(sum[:])
}

// readMigrations returns the steps in order, numbered from 1 without gaps.
func readMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.up.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var steps []migration
	for i, file := range names {
		base := strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".up.sql")
		number, name, _ := strings.Cut(base, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("sqlite: migration %q: want number %03d", file, i+1)
		}
		up, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		down, err := fs.ReadFile(files, "migrations/"+base+".down.sql")
		if err != nil {
			return nil, err
		}
		steps = append(steps, migration{version, name, string(up), string(down)})
	}
	return steps, nil
}

const createMigrations = `CREATE TABLE IF NOT EXISTS semel_migrations (
  version    INTEGER PRIMARY KEY,
  name       TEXT    NOT NULL,
  checksum   TEXT    NOT NULL,
  applied_at INTEGER NOT NULL
) STRICT`

// Migrate brings the schema up to date, each step in a transaction of its own.
// It refuses a schema that is newer than this program. [Open] calls it.
func (s *Store) Migrate(ctx context.Context) error {
	steps, err := readMigrations(migrationFiles)
	if err != nil {
		return err
	}
	for {
		applied := false
		err := s.write(ctx, func(c *connection) (err error) {
			applied, err = migrateOne(c, steps)
			return err
		})
		if err != nil {
			return fmt.Errorf("sqlite: migrating: %w", err)
		}
		if !applied {
			return nil
		}
	}
}

// migrateOne applies the first step that is missing.
func migrateOne(c *connection, steps []migration) (applied bool, err error) {
	if err := c.script(createMigrations); err != nil {
		return false, err
	}
	version, err := c.integer(`SELECT max(version) FROM semel_migrations`)
	switch {
	case err != nil:
		return false, err
	case version > int64(len(steps)):
		return false, fmt.Errorf("the schema has version %d, this program knows %d: use a newer one", version, len(steps))
	case version == int64(len(steps)):
		return false, nil
	}
	step := steps[version]
	if err := c.script(step.up); err != nil {
		return false, fmt.Errorf("step %d (%s): %w", step.version, step.name, err)
	}
	_, err = c.exec(`INSERT INTO semel_migrations (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)`,
		int64(step.version), step.name, step.checksum(), micros(now()))
	return true, err
}

// Validate compares the schema in the file with the one this program was made
// for, and names every difference in steps, tables, columns and indexes.
func (s *Store) Validate(ctx context.Context) error {
	steps, err := readMigrations(migrationFiles)
	if err != nil {
		return err
	}
	want, err := expectedSchema(ctx, steps)
	if err != nil {
		return fmt.Errorf("sqlite: building the schema to compare with: %w", err)
	}
	var have []string
	err = s.read(ctx, func(c *connection) (err error) {
		have, err = describe(c)
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlite: reading the schema: %w", err)
	}
	var differences []error
	for _, line := range want {
		if !slices.Contains(have, line) {
			differences = append(differences, fmt.Errorf("sqlite: schema lacks %s", line))
		}
	}
	for _, line := range have {
		if !slices.Contains(want, line) {
			differences = append(differences, fmt.Errorf("sqlite: schema has %s, which does not belong to it", line))
		}
	}
	return errors.Join(differences...)
}

// expectedSchema describes what the steps make of an empty database.
func expectedSchema(ctx context.Context, steps []migration) (lines []string, err error) {
	memory, err := modernc.NewConnector(":memory:")
	if err != nil {
		return nil, err
	}
	c, err := newConnection(ctx, memory, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	c.mu.Lock()
	defer c.mu.Unlock()
	for applied := true; applied; {
		if applied, err = migrateOne(c, steps); err != nil {
			return nil, err
		}
	}
	return describe(c)
}

// describe lists the schema's parts as lines of text that people can read.
func describe(c *connection) (lines []string, err error) {
	add := func(v []driver.Value) error {
		lines = append(lines, stringOf(v[0]))
		return nil
	}
	for _, query := range []string{
		`SELECT 'migration ' || version || ' (' || name || ') with checksum ' || checksum FROM semel_migrations ORDER BY version`,
		`SELECT 'column ' || t.name || '.' || c.name || ' ' || c.type || iif(c."notnull", ' NOT NULL', '') || iif(c.pk, ' key ' || c.pk, '')
		   FROM sqlite_schema t, pragma_table_info(t.name) c
		  WHERE t.type = 'table' AND t.name LIKE 'semel\_%' ESCAPE '\' ORDER BY t.name, c.cid`,
		`SELECT 'index ' || name || ': ' || sql FROM sqlite_schema
		  WHERE type = 'index' AND sql IS NOT NULL AND tbl_name LIKE 'semel\_%' ESCAPE '\' ORDER BY name`,
	} {
		if err := c.query(query, add); err != nil {
			return nil, err
		}
	}
	return lines, nil
}
