package bank_test

import (
	"strings"
	"testing"

	"github.com/semel-dev/semel/examples/bank"
)

// TestVerifyFindsDamage plants each kind of damage that Verify is there for.
func TestVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, damage, want string }{
		{"row lost", `DELETE FROM ledger WHERE cents = -100`, "is missing, which moved -100 cents"},
		{"row doubled", `INSERT INTO ledger SELECT * FROM ledger WHERE cents = -100`, "more than once"},
		{"row from nowhere", `INSERT INTO ledger VALUES ('nobody', 'alice', 1)`, "no event tells of it"},
		{"row changed", `UPDATE ledger SET cents = -101 WHERE cents = -100`, "its event says -100"},
		{"event lost", `DELETE FROM semel_events WHERE name = 'withdrawn'`, "no event tells of it"},
		{"balance changed", `UPDATE accounts SET cents = cents + 1 WHERE id = 'alice'`, `the balance of "alice" is 901; its ledger adds up to 900`},
		{"account lost", `DELETE FROM accounts WHERE id = 'alice'`, "never opened"},
		{"statement changed", `UPDATE statement_1 SET balance = 1 WHERE command = 'withdraw'`, "its statement ends with 1"},
		{"statement lost", `DELETE FROM statement_1`, "its statement ends with 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := openBranch(t)
			b.fund(t, "1000", "alice")
			b.must(t, "PUT", "/accounts/alice/withdrawals/w", `{"cents":100}`)
			b.sound(t)
			b.damage(t, tt.damage)
			problems, err := bank.Verify(t.Context(), b.store.Reader())
			if err != nil {
				t.Fatal(err)
			}
			if found := strings.Join(problems, "\n"); !strings.Contains(found, tt.want) {
				t.Errorf("found %q, want it to contain %q", found, tt.want)
			}
		})
	}
}
