package bank

import (
	"fmt"
	"strings"
)

const (
	maxName  = 64
	maxCents = 100_000_000_000 // a billion in one go; far from where int64 ends
)

// Subject orders everything that happens to one account.
func (c Open) Subject() string { return subject(c.Account) }

// Subject orders everything that happens to one account.
func (c Deposit) Subject() string { return subject(c.Account) }

// Subject orders everything that happens to one account.
func (c Withdraw) Subject() string { return subject(c.Account) }

// Subjects names both accounts: a transfer waits for its turn at each.
func (c Transfer) Subjects() []string { return []string{subject(c.From), subject(c.To)} }

// Validate refuses an account name that cannot stand in a URL.
func (c Open) Validate() error { return checkAccount("account", c.Account) }

// Validate refuses what no account could take.
func (c Deposit) Validate() error { return checkMove("account", c.Account, c.Cents) }

// Validate refuses what no account could give.
func (c Withdraw) Validate() error { return checkMove("account", c.Account, c.Cents) }

// Validate refuses what could not be moved.
func (c Transfer) Validate() error {
	if err := checkMove("from", c.From, c.Cents); err != nil {
		return err
	}
	if err := checkAccount("to", c.To); err != nil {
		return err
	}
	if c.From == c.To {
		return fmt.Errorf("from and to are both %q; a transfer takes two accounts", c.From)
	}
	return nil
}

func subject(account string) string { return "account/" + account }

func checkMove(field, account string, cents int64) error {
	if err := checkAccount(field, account); err != nil {
		return err
	}
	if cents < 1 || cents > maxCents {
		return fmt.Errorf("cents is %d; it takes 1 to %d", cents, int64(maxCents))
	}
	return nil
}

func checkAccount(field, account string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	if account == "" || len(account) > maxName || strings.Trim(account, letters) != "" {
		return fmt.Errorf("%s is %q; it takes 1 to %d letters, digits, - and _", field, account, maxName)
	}
	return nil
}
