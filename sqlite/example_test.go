package sqlite_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/semel-dev/semel/sqlite"
)

func Example() {
	dir, err := os.MkdirTemp("", "semel")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()

	store, err := sqlite.Open(ctx, filepath.Join(dir, "bank.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	err = store.Update(ctx, func(ctx context.Context, tx sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, `
			CREATE TABLE accounts (id TEXT PRIMARY KEY, cents INTEGER NOT NULL);
			INSERT INTO accounts VALUES ('alice', 1000)`)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	var cents int
	err = store.Reader().QueryRowContext(ctx, `SELECT cents FROM accounts WHERE id = ?`, "alice").Scan(&cents)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(cents)
	// Output: 1000
}
