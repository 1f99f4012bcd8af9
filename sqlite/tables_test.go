package sqlite

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/semel-dev/semel"
)

func TestTables(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `CREATE TABLE totals_1 (x, y, at TIMESTAMP); CREATE TABLE totals_2 (x, y, at TIMESTAMP);
		INSERT INTO totals_1 VALUES (1, 'a', '2026-01-01 00:00:00'), (2, NULL, NULL), (2, NULL, NULL), (1.5, x'00', NULL);
		INSERT INTO totals_2 VALUES (2, NULL, NULL), (1.5, x'00', NULL), (2, NULL, NULL), (1, 'a', '2026-01-01 00:00:00')`)
	sum := func(table string) (sum string, rows int64) {
		must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) (err error) {
			sum, rows, err = s.Checksum(ctx, tx, table)
			return err
		}))
		return sum, rows
	}
	one, rows := sum("totals_1")
	two, _ := sum("totals_2")
	if one != two || rows != 4 || len(one) != 64 {
		t.Errorf("sums %s and %s of %d rows", one, two, rows)
	}
	for _, change := range []string{
		`UPDATE totals_2 SET y = '' WHERE x = 2`, `UPDATE totals_2 SET x = '1' WHERE x = 1`, `UPDATE totals_2 SET x = 1.0 WHERE x = '1'`,
		`INSERT INTO totals_2 VALUES (NULL, NULL, NULL)`, `DELETE FROM totals_2 WHERE x = 2`, `UPDATE totals_2 SET at = '2026-01-01 00:00:01'`,
	} {
		exec1(t, s, change)
		if next, _ := sum("totals_2"); next == two || next == one {
			t.Errorf("%s does not change the sum", change)
		} else {
			two = next
		}
	}
	point := func(table string) {
		must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) error { return s.Point(ctx, tx, "totals", table) }))
	}
	point("totals_1")
	if n := number(t, s, `SELECT count(*) FROM totals`); n != 4 {
		t.Errorf("the view has %d rows, want 4", n)
	}
	exec1(t, s, `DELETE FROM totals_2`)
	point("totals_2")
	if n := number(t, s, `SELECT count(*) FROM totals`); n != 0 {
		t.Errorf("the view has %d rows, want 0", n)
	}
	for range 2 {
		must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) error { return s.Drop(ctx, tx, "totals_1") }))
	}
	if n := number(t, s, `SELECT count(*) FROM sqlite_schema WHERE name = 'totals_1'`); n != 0 {
		t.Error("the table is still there")
	}
	for _, name := range []string{"", "1a", `a"b`, "a b", "a;b", "main.a", "ä"} {
		must(t, s.Update(t.Context(), func(ctx context.Context, tx Tx) error {
			_, _, err := s.Checksum(ctx, tx, name)
			if err == nil || s.Drop(ctx, tx, name) == nil || s.Point(ctx, tx, name, "t") == nil || s.Point(ctx, tx, "t", name) == nil {
				t.Errorf("name %q was taken", name)
			}
			return nil
		}))
	}
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := t.Context()
	must(t, s.Migrate(ctx)) // again
	must(t, s.Validate(ctx))
	exec1(t, s, `CREATE TABLE mine (x)`) // is not the store's business
	must(t, s.Validate(ctx))
	exec1(t, s, `ALTER TABLE semel_events ADD COLUMN extra TEXT; DROP INDEX semel_operations_due; UPDATE semel_migrations SET checksum = 'edited'`)
	err := s.Validate(ctx)
	if err == nil {
		t.Fatal("a changed schema was found valid")
	}
	for _, part := range []string{"semel_events.extra", "lacks index semel_operations_due", "checksum edited"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("no word of %q in: %v", part, err)
		}
	}
}

func TestMigrationsGoBack(t *testing.T) {
	t.Parallel()
	s := open(t)
	steps, err := readMigrations(migrationFiles)
	must(t, err)
	slices.Reverse(steps)
	for _, step := range steps {
		exec1(t, s, step.down)
	}
	if n := number(t, s, `SELECT count(*) FROM sqlite_schema WHERE name LIKE 'semel\_%' ESCAPE '\' AND name <> 'semel_migrations'`); n != 0 {
		t.Errorf("%d parts of the schema are left", n)
	}
}

func TestStatesAreThoseOfTheSchema(t *testing.T) {
	t.Parallel()
	s := open(t)
	var sql string
	must(t, s.Reader().QueryRowContext(t.Context(), `SELECT sql FROM sqlite_schema WHERE name = 'semel_operations'`).Scan(&sql))
	list := regexp.MustCompile(`CHECK \(state IN \(([^)]*)\)\)`).FindStringSubmatch(sql)
	if list == nil {
		t.Fatal("the schema has no list of states")
	}
	var states []semel.State
	for _, quoted := range strings.Split(list[1], ", ") {
		states = append(states, semel.State(strings.Trim(quoted, "'")))
	}
	if !slices.Equal(states, semel.States()) {
		t.Errorf("the schema has %v, the program %v", states, semel.States())
	}
	quoted := func(in func(semel.State) bool) string {
		var all []string
		for _, state := range states {
			if in(state) {
				all = append(all, "'"+string(state)+"'")
			}
		}
		return "state IN (" + strings.Join(all, ", ") + ")"
	}
	if want := quoted(semel.State.Unfinished); unfinished != want {
		t.Errorf("unfinished is %q, want %q", unfinished, want)
	}
}
