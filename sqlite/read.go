package sqlite

import (
	"context"
	"fmt"
)

// read lends f one of the reading connections. Each of its statements sees
// what was committed when it started.
func (s *Store) read(ctx context.Context, f func(c *connection) error) error {
	conn, err := s.readers.Conn(ctx)
	if err != nil {
		return fmt.Errorf("sqlite: a connection to read with: %w", err)
	}
	defer conn.Close()
	return conn.Raw(func(driverConn any) error {
		c := driverConn.(reader).c
		c.mu.Lock()
		defer c.mu.Unlock()
		return f(c)
	})
}
