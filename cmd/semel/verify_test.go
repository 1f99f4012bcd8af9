package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	_ "modernc.org/sqlite" // to do the damage with
)

// bankData returns a bank's file after a server that had drained.
func bankData(t *testing.T) string {
	t.Helper()
	data := filepath.Join(t.TempDir(), "bank.db")
	p := serveBank(t, data)
	p.fund(t)
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.end(t); code != exitOK {
		t.Fatalf("serve ended with %d", code)
	}
	return data
}

// verifySound: a bank is sound while it runs, after a kill and after a drain,
// and verifying leaves the file and its directory as they were.
func verifySound(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "bank.db")
	p := serveBank(t, data)
	p.fund(t)
	sound := func(when string, args ...string) {
		if code, out, errs := execute(t, append([]string{"verify", data}, args...)...); code != exitOK || !strings.Contains(out, "statement") {
			t.Errorf("%s: %d\n%s%s", when, code, out, errs)
		}
	}
	sound("while it runs")
	p.must(t, "PUT", "/accounts/alice/withdrawals/4", `{"cents":100}`)
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.end(t)
	sound("after a kill")

	data = bankData(t)
	before, files := content(t, data)
	sound("after a drain", "--drained")
	if after, now := content(t, data); after != before || now != files {
		t.Errorf("verifying changed the file, or left %q where %q was", now, files)
	}
	other := filepath.Join(t.TempDir(), "other.db")
	if err := os.WriteFile(other, []byte("not a database, but long enough to be taken for one at first sight"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := execute(t, "verify", other); code != exitFailed || !strings.Contains(errs, "not a database") {
		t.Errorf("a file that is no database: %d %s", code, errs)
	}
	if code, _, errs := execute(t, "verify", filepath.Join(t.TempDir(), "none.db")); code != exitFailed || !strings.Contains(errs, "none.db") {
		t.Errorf("a file that is not there: %d %s", code, errs)
	}
}

func content(t *testing.T, data string) (file, names string) {
	t.Helper()
	text, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names += e.Name() + " "
	}
	return string(text), names
}

// verifyDamage plants damage of each kind in a file and wants it named.
func verifyDamage(t *testing.T) {
	t.Parallel()
	sound, _ := content(t, bankData(t))
	for _, tt := range []struct{ name, damage, want string }{
		{"ledger row lost", `DELETE FROM ledger WHERE cents < 0`, "is missing, which moved -2500 cents"},
		{"ledger row doubled", `INSERT INTO ledger SELECT * FROM ledger WHERE cents < 0`, "more than once"},
		{"statement changed", `UPDATE statement_1 SET balance = balance + 1 WHERE command = 'deposit'`, "table statement_1 differs from a fold of the log"},
		{"optional projection changed", `UPDATE daily_1 SET cents = 0`, "table daily_1 differs from a fold of the log"},
		{"event lost", `DELETE FROM semel_events WHERE name = 'deposited'`, "the log goes from position 1 to 3"},
		{"last event lost", `DELETE FROM semel_events WHERE name = 'withdrawn'`, "has 0 events in the log and should have 1"},
		{"balance changed", `UPDATE accounts SET cents = 1`, `the balance of "alice" is 1`},
		{"operation left open", `UPDATE semel_operations SET state = 'accepted', due_at = 1, done_position = 0 WHERE name = 'open'`, "is not done"},
		{"answer lost", `UPDATE semel_operations SET result = NULL WHERE name = 'withdraw'`, "has lost its answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "bank.db")
			if err := os.WriteFile(data, []byte(sound), 0o600); err != nil {
				t.Fatal(err)
			}
			change(t, data, tt.damage)
			code, out, errs := execute(t, "verify", "--drained", data)
			if code != exitFailed || !strings.Contains(out, tt.want) || !strings.Contains(errs, "wrong") {
				t.Errorf("exit code %d, want 1 and %q\n%s%s", code, tt.want, out, errs)
			}
		})
	}
}

func change(t *testing.T, data, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", data)
	if err != nil {
		t.Fatal(err)
	}
	result, err := db.ExecContext(t.Context(), statement)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s changed %d rows, %v", statement, n, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
