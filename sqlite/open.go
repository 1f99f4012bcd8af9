package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	modernc "modernc.org/sqlite"

	"github.com/semel-dev/semel"
)

var (
	_ semel.Store[Tx]   = (*Store)(nil)
	_ semel.Session[Tx] = (*session)(nil)
	_ semel.Tables[Tx]  = (*Store)(nil)
)

var errClosed = errors.New("sqlite: the store is closed")

// Options are a store's choices; the zero value is fit for production.
type Options struct {
	// Readers is how many connections read beside the writer; 0 means 4.
	Readers int
}

// A Store keeps everything in one SQLite file, next to the user's own tables.
// It has no goroutines of its own.
type Store struct {
	path    string
	lock    *os.File
	writer  *connection
	shared  *sql.Conn // the writer as database/sql sees it
	pool    *sql.DB   // of that one connection
	readers *sql.DB

	right  chan struct{} // full while somebody has the right to write
	closed chan struct{}
	once   sync.Once
	failed error // of Close

	// What the last commit left, guarded by the writer's mutex. stale is set
	// when that is not known.
	seq, position int64
	queued        int64 // rows of semel_queue
	stale         bool
}

// Open opens the store in the file at path, and creates or migrates it where
// necessary. The process is the only one that may have it open: an exclusive
// lock on path+"-lock" sees to that, until [Store.Close] or the process's end.
// Operations that an earlier process left running are due at once.
func Open(ctx context.Context, path string, o *Options) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	path, err := resolve(path)
	if err != nil {
		return nil, err
	}
	if err := checkFileSystem(filepath.Dir(path)); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + "-lock")
	if err != nil {
		return nil, err
	}
	s := &Store{path: path, lock: lock, right: make(chan struct{}, 1), closed: make(chan struct{})}
	if err := s.open(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: opening %q: %w", path, err), s.Close())
	}
	return s, nil
}

// resolve follows symbolic links, so that one file has one lock.
func resolve(path string) (string, error) {
	if path == "" || strings.HasPrefix(path, ":") || strings.HasPrefix(path, "file:") {
		return "", fmt.Errorf("sqlite: %q is not the path of a file", path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("sqlite: path %q: %w", path, err)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs)) // the file is to be created
	if err != nil {
		return "", fmt.Errorf("sqlite: directory of %q: %w", path, err)
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

func (s *Store) open(ctx context.Context, o *Options) error {
	// Times that users pass are written in a form that sorts and that SQLite's
	// own functions understand.
	name := filepath.ToSlash(s.path)
	if !strings.HasPrefix(name, "/") {
		name = "/" + name
	}
	base, err := modernc.NewConnector("file:" + (&url.URL{Path: name}).EscapedPath() + "?_time_format=sqlite")
	if err != nil {
		return err
	}
	if s.writer, err = newConnection(ctx, base, writerPragmas); err != nil {
		return err
	}
	if err := s.checkWriter(); err != nil {
		return err
	}
	s.pool = sql.OpenDB(connector{base, func(context.Context) (driver.Conn, error) { return writer{s.writer}, nil }})
	s.pool.SetMaxOpenConns(1)
	if s.shared, err = s.pool.Conn(ctx); err != nil {
		return err
	}
	if err := s.Migrate(ctx); err != nil {
		return err
	}
	s.readers = sql.OpenDB(connector{base, func(ctx context.Context) (driver.Conn, error) {
		c, err := newConnection(ctx, base, readerPragmas)
		return reader{c}, err
	}})
	readers := o.Readers
	if readers <= 0 {
		readers = 4
	}
	s.readers.SetMaxOpenConns(readers)
	s.readers.SetMaxIdleConns(readers)
	return s.recover(ctx)
}

var (
	// synchronous=FULL makes COMMIT wait for the disk; WAL lets readers go on
	// meanwhile. The log is copied back every 16 MB instead of every 4.
	writerPragmas = []string{
		"busy_timeout=5000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON",
		"cache_size=-65536", "wal_autocheckpoint=4000", "temp_store=MEMORY",
	}
	readerPragmas = []string{"busy_timeout=5000", "query_only=ON", "temp_store=MEMORY"}
)

// checkWriter makes sure of what every promise rests on.
func (s *Store) checkWriter() error {
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	for _, want := range []struct {
		pragma string
		ok     func(driver.Value) error
	}{
		{`SELECT sqlite_version()`, func(v driver.Value) error { return checkLibrary(stringOf(v)) }},
		{`PRAGMA journal_mode`, func(v driver.Value) error {
			if v != "wal" {
				return fmt.Errorf("journal mode is %v, want wal: the file system may lack shared memory", v)
			}
			return nil
		}},
		{`PRAGMA synchronous`, func(v driver.Value) error {
			if v != int64(2) {
				return fmt.Errorf("synchronous is %v, want 2 (full)", v)
			}
			return nil
		}},
	} {
		err := s.writer.query(want.pragma, func(v []driver.Value) error { return want.ok(v[0]) })
		if err != nil {
			return err
		}
	}
	return nil
}

// recover makes what a dead predecessor was running due now: nobody else can
// be running it, because this process holds the lock.
func (s *Store) recover(ctx context.Context) error {
	return s.write(ctx, func(c *connection) error {
		if err := s.count(); err != nil {
			return err
		}
		_, err := c.exec(`UPDATE semel_operations SET due_at = min(due_at, ?) WHERE due_at IS NOT NULL AND state = 'running'`, micros(now()))
		return err
	})
}

// count reads the counters. The caller has the right to write.
func (s *Store) count() error {
	seq, err := s.writer.integer(`SELECT max(ifnull((SELECT max(seq) FROM semel_operations), 0), ifnull((SELECT value FROM semel_counters WHERE name = 'seq'), 0))`)
	if err != nil {
		return fmt.Errorf("sqlite: reading the last seq: %w", err)
	}
	position, err := s.writer.integer(`SELECT max(position) FROM semel_events`)
	if err != nil {
		return fmt.Errorf("sqlite: reading the last position: %w", err)
	}
	queued, err := s.writer.integer(`SELECT count(*) FROM semel_queue`)
	if err != nil {
		return fmt.Errorf("sqlite: counting who waits: %w", err)
	}
	s.seq, s.position, s.queued, s.stale = seq, position, queued, false
	return nil
}

// write runs the store's own work in a transaction outside any session.
func (s *Store) write(ctx context.Context, f func(c *connection) error) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	c := s.writer
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.exec(`BEGIN IMMEDIATE`); err != nil {
		return err
	}
	err := f(c)
	if err == nil {
		_, err = c.exec(`COMMIT`)
	}
	if err != nil {
		_, _ = c.exec(`ROLLBACK`)
	}
	return err
}

// acquire takes the right to write. Who waits is served in turn, as senders on
// a channel are.
func (s *Store) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.right <- struct{}{}:
	case <-s.closed:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-s.closed: // both were ready
		s.release()
		return errClosed
	default:
		return nil
	}
}

func (s *Store) release() { <-s.right }

// Capabilities says that positions are given in the transaction of the effect.
func (s *Store) Capabilities() semel.Capabilities {
	return semel.Capabilities{PositionsAtCommit: true}
}

// Reader returns the connections that read, for queries of read models. They
// see what is committed, and refuse to write.
func (s *Store) Reader() *sql.DB { return s.readers }

// Close waits until nobody writes any more, closes the file and releases the
// lock. Calling it again does nothing and returns the same.
func (s *Store) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.right <- struct{}{} // never given back
		var errs []error
		if s.readers != nil {
			errs = append(errs, s.readers.Close())
		}
		if s.pool != nil {
			// Not s.shared: its Close waits for rows that a handler forgot to
			// close. Theirs are closed already, underneath.
			errs = append(errs, s.pool.Close())
		}
		if s.writer != nil {
			errs = append(errs, s.writer.close())
		}
		if s.lock != nil {
			errs = append(errs, s.lock.Close())
		}
		s.failed = errors.Join(errs...)
	})
	return s.failed
}
