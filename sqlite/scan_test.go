package sqlite

import (
	"strings"
	"testing"

	modernc "modernc.org/sqlite"
)

func TestScanFindsWhatAStatementDoes(t *testing.T) {
	t.Parallel()
	const trigger = `CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET x = CASE WHEN 1 THEN 2 END; SELECT 1; END`
	for _, test := range []struct {
		sql            string
		refused        string
		writes, schema bool
	}{
		{sql: ""},
		{sql: " ;; -- nothing\n/* at all */ ;"},
		{sql: "SELECT 1"},
		{sql: "select 'COMMIT; COMMIT'; values (1); explain commit"},
		{sql: "INSERT INTO a VALUES (1)", writes: true},
		{sql: "WITH x AS (SELECT 1) DELETE FROM a", writes: true},
		{sql: "REPLACE INTO a VALUES (1)", writes: true},
		{sql: "CREATE TABLE a (x)", writes: true, schema: true},
		{sql: "SELECT 1; ALTER TABLE a RENAME TO b", writes: true, schema: true},
		{sql: "PRAGMA user_version = 1", writes: true, schema: true},
		{sql: trigger, writes: true, schema: true},
		{sql: trigger + "; SELECT 1", writes: true, schema: true},
		{sql: "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; COMMIT", refused: "COMMIT", writes: true, schema: true},
		{sql: trigger + " /* ; */ ; end", refused: "END", writes: true, schema: true},
		{sql: "COMMIT", refused: "COMMIT"},
		{sql: "commit;", refused: "COMMIT"},
		{sql: "End Transaction", refused: "END"},
		{sql: "BEGIN", refused: "BEGIN"},
		{sql: "ROLLBACK TO x", refused: "ROLLBACK"},
		{sql: "savepoint x", refused: "SAVEPOINT"},
		{sql: "release x", refused: "RELEASE"},
		{sql: "attach ':memory:' as x", refused: "ATTACH"},
		{sql: "detach x", refused: "DETACH"},
		{sql: "VACUUM", refused: "VACUUM"},
		{sql: "-- a\n /* b */ \ufeff;COMMIT", refused: "COMMIT"},
		{sql: "SELECT ';' ; COMMIT", refused: "COMMIT"},
		{sql: `SELECT "a;""b" ; COMMIT`, refused: "COMMIT"},
		{sql: "SELECT `a;` ; COMMIT", refused: "COMMIT"},
		{sql: "SELECT [a;'] ; COMMIT", refused: "COMMIT"},
		{sql: "SELECT 'it''s' ; COMMIT", refused: "COMMIT"},
		{sql: "SELECT 1 -- ; \n ; COMMIT", refused: "COMMIT"},
		{sql: "SELECT 1 /* unfinished ; COMMIT"},
		{sql: "COMMITTED", writes: true},
		{sql: "(COMMIT)", writes: true},
	} {
		got := scan(test.sql)
		if want := (verbs{test.writes, test.schema, test.refused}); got != want {
			t.Errorf("scan(%q) = %+v, want %+v", test.sql, got, want)
		}
		if (got.refusal() != nil) != (test.refused != "") {
			t.Errorf("refusal of %q: %v", test.sql, got.refusal())
		}
	}
}

// FuzzScan compares the scanner with SQLite itself: whatever it lets through
// must leave the transaction open.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		"COMMIT", "SELECT 1; COMMIT", "/**/COMMIT", "/*/COMMIT", "SELECT '", "SELECT [;COMMIT", "\ufeffEND", "\vCOMMIT", "\xc3\xa9;COMMIT",
		"CREATE TABLE a (x); CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; COMMIT",
		"CREATE TRIGGER t; COMMIT", "CREATE TEMP TRIGGER END; COMMIT; END", "EXPLAIN COMMIT; COMMIT", "x'; COMMIT", "SELECT 1\x00; COMMIT",
		"CREATE TABLE trigger (x); END", "SELECT 1;;;--\nEND", "SELECT \"a\"\"; COMMIT", "`;`;COMMIT",
	} {
		f.Add(seed)
	}
	memory, err := modernc.NewConnector(":memory:")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		lower := strings.ToLower(sql)
		if scan(sql).refused != "" || strings.Contains(lower, "rollback") || strings.Contains(lower, "recursive") {
			return // refused; or ends it by a clause, which probing finds; or may not end
		}
		c, err := newConnection(t.Context(), memory, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		if _, err := c.exec("BEGIN"); err != nil {
			t.Fatal(err)
		}
		_ = c.script(sql) // nearly always an error
		if _, err := c.exec("BEGIN"); err == nil {
			t.Errorf("%q ended the transaction", sql)
		}
	})
}
