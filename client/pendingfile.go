package client

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// Places at which the tests kill a process that works with a pending file.
const (
	pointBeforeWrite   = "pending.before-write"
	pointBeforeSync    = "pending.before-sync"
	pointAfterSync     = "pending.after-sync"
	pointBeforeSend    = "pending.before-send"
	pointAfterAnswer   = "pending.after-answer"
	pointAfterOutcome  = "pending.after-outcome"
	pointBeforeRename  = "pending.before-rename"
	pointAfterRename   = "pending.after-rename"
	pointAfterTruncate = "pending.after-truncate"
)

// PendingOptions are the choices for a pending store; the zero value works.
type PendingOptions struct {
	// Keep is how long the outcome of an intention is kept that nobody
	// acknowledges; 0 means 7 days. Only what completed, was rejected or was
	// canceled is forgotten so: a failure waits for [Client.Acknowledge].
	Keep time.Duration
	// MaxBytes is the most that intentions and outcomes may take; 0 means
	// 256 MiB. [Client.Submit] refuses what would not fit. They are also held
	// in memory.
	MaxBytes int64
	// Moved allows a client with another base URL than the file was written
	// for, because the server has moved. Sent to a server that does not know
	// them, commands that have happened would happen again.
	Moved bool
	// Logger is told of what no caller can be: an outcome that could not be
	// recorded, an acknowledged intention that could not be forgotten. nil
	// means slog.Default().
	Logger *slog.Logger
}

// A PendingFile keeps intentions until they are done, across the end of the
// process. One process at a time has it open. Give it to one client, and close
// it after that client's Run has returned.
//
// It holds the bodies of commands and answers, readable by its owner only, and
// no credentials. Its format is described in docs/pending-file.md.
type PendingFile struct {
	// Damage is what could not be read when the file was opened. Records
	// between are not affected. Unless all of it is torn, the file as it was is
	// kept beside it under the name in Saved.
	Damage []Damage
	Saved  string
	// Path is where the file is, with links followed.
	Path string
	// Server is the base URL of the server that the file's commands are for; ""
	// until the first client has it.
	Server string

	options PendingOptions
	found   []record // until a client takes them
	taken   atomic.Bool

	mu      sync.Mutex
	next    *batch // what the next write will hold
	writing chan struct{}
	closed  bool
	broken  error // the file's state is not known any more

	// The following are touched only by who writes.
	file  *os.File
	size  int64
	lives map[string]*life
	order []string             // keys in the order of their intentions
	live  atomic.Int64         // bytes that a rewrite would keep
	tried int64                // size at which a rewrite failed
	sync  func(*os.File) error // (*os.File).Sync, except in tests of its failure
}

// A batch is the records that one write and one fsync make durable together.
type batch struct {
	records []placed
	data    []byte
	done    chan struct{}
	err     error
}

type placed struct {
	record
	at, size int64
}

// A life is where the records of one intention are that still say something.
type life [4]placed

// slot is the record's place in a life; a later one takes an earlier one's.
func (r *record) slot() int {
	switch r.Type {
	case typeIntention:
		return 0
	case typeSending, typeUnsent:
		return 1
	case typeAccepted:
		return 2
	}
	return 3
}

// ErrPendingFull is returned where a pending store has no room left within
// [PendingOptions.MaxBytes]. Nothing was stored and nothing sent.
var ErrPendingFull = errors.New("client: the pending store is full")

// OpenPending opens the file, or makes it if it is not there, and reads what
// is pending. A torn end, as a crash leaves it, is cut off.
func OpenPending(path string, o *PendingOptions) (*PendingFile, error) {
	f := &PendingFile{Path: path, sync: (*os.File).Sync, lives: make(map[string]*life)}
	if o != nil {
		f.options = *o
	}
	f.options.complete()
	if target, err := filepath.EvalSymlinks(path); err == nil {
		f.Path = target // a rewrite must replace the file and not the link
	}
	file, err := openLocked(f.Path)
	if err != nil {
		return nil, err
	}
	f.file = file
	if err := f.recover(); err != nil {
		return nil, errors.Join(err, f.file.Close())
	}
	return f, nil
}

func (o *PendingOptions) complete() {
	if o.Keep == 0 {
		o.Keep = 7 * 24 * time.Hour
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// openLocked opens the file and becomes its only owner. A rewrite puts another
// file under the same name, so the name is looked at again under the lock.
func openLocked(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("client: opening the pending file: %w", err)
		}
		if err := lock(file); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		mine, err := file.Stat()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("client: opening the pending file: %w", err), file.Close())
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(mine, named) {
			if !mine.Mode().IsRegular() {
				return nil, errors.Join(fmt.Errorf("client: %q is not a regular file", path), file.Close())
			}
			return file, nil
		}
		if err := file.Close(); err != nil {
			return nil, fmt.Errorf("client: closing a pending file that was replaced: %w", err)
		}
	}
}

func lock(file *os.File) error {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("client: pending file %q is in use by another client: %w", file.Name(), err)
	}
	if err != nil {
		return fmt.Errorf("client: locking pending file %q: %w", file.Name(), err)
	}
	return nil
}

// recover reads the file and mends it.
func (f *PendingFile) recover() error {
	// What a crash left of a rewrite. It is ours: the lock is held.
	if err := os.Remove(f.Path + rewriteSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("client: removing an unfinished rewrite: %w", err)
	}
	data, err := io.ReadAll(f.file)
	if err != nil {
		return fmt.Errorf("client: reading pending file %q: %w", f.Path, err)
	}
	at, sound := int64(0), 0
	var newer int
	f.Damage = readFrames(data, func(payload []byte, offset int64) error {
		r, err := decodeRecord(payload)
		if err != nil {
			return err
		}
		size := int64(headSize + len(payload))
		at, sound = offset+size, sound+1
		if r.Type == typeFile {
			f.Server, newer = r.Server, max(newer, r.Version)
			return nil
		}
		if err := f.place(placed{*r, offset, size}); err != nil {
			return err
		}
		f.found = append(f.found, *r)
		return nil
	})
	switch {
	case newer > fileVersion:
		return fmt.Errorf("client: pending file %q has version %d; this program reads up to %d", f.Path, newer, fileVersion)
	case len(data) == 0:
		return f.rewrite() // which writes the first record, and all of it or nothing
	case sound == 0:
		return fmt.Errorf("client: %q is not a pending file: there is no record in it", f.Path)
	}
	return f.mend(at, int64(len(data)))
}

// mend brings the file into a state to append to.
func (f *PendingFile) mend(end, size int64) error {
	f.size = end
	whole := true
	for _, d := range f.Damage {
		whole = whole && d.Torn
	}
	if whole && end == size {
		return nil
	}
	if whole {
		if err := f.cut(); err != nil {
			return fmt.Errorf("client: cutting off a torn record: %w", err)
		}
		return nil
	}
	f.Saved = fmt.Sprintf("%s.damaged-%s", f.Path, time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Link(f.Path, f.Saved); err != nil {
		return fmt.Errorf("client: keeping the damaged pending file: %w", err)
	}
	return f.rewrite()
}

// cut makes the file end where its last sound record does.
func (f *PendingFile) cut() error {
	if err := f.file.Truncate(f.size); err != nil {
		return err
	}
	crashpoint.Here(pointAfterTruncate)
	return f.sync(f.file)
}

// place notes where a record is, once that is durable.
func (f *PendingFile) place(p placed) error {
	l := f.lives[p.Key]
	switch {
	case p.Type == typeIntention && l != nil:
		return fmt.Errorf("a second intention with the key %q", p.Key)
	case p.Type == typeIntention:
		l = &life{}
		f.lives[p.Key] = l
		f.order = append(f.order, p.Key)
	case l == nil:
		return fmt.Errorf("a record of type %q for the key %q, whose intention is missing", p.Type, p.Key)
	case p.Type == typeAcknowledged:
		for _, old := range l {
			f.live.Add(-old.size)
		}
		delete(f.lives, p.Key)
		return nil
	}
	slot := &l[p.slot()]
	f.live.Add(p.size - slot.size)
	p.Intention, p.Outcome = nil, nil // the file has them
	*slot = p
	return nil
}

// room refuses what would not fit.
func (f *PendingFile) room(size int) error {
	if live := f.live.Load(); live+int64(size) > f.options.MaxBytes {
		return fmt.Errorf("%w: %d bytes are taken of %d", ErrPendingFull, live, f.options.MaxBytes)
	}
	return nil
}

// append makes a record durable before it returns nil. Records that come
// together share a write and an fsync. After an error the record is not in the
// file, unless the error says that this is not known.
func (f *PendingFile) append(r record) error {
	if f == nil {
		return nil // a client without a file keeps its intentions in memory
	}
	payload, err := r.encode()
	if err != nil {
		return err
	}
	if r.Type == typeIntention {
		if err := f.room(len(payload)); err != nil {
			return err
		}
	}
	f.mu.Lock()
	if err := f.usable(); err != nil {
		f.mu.Unlock()
		return err
	}
	if f.next == nil {
		f.next = &batch{done: make(chan struct{})}
	}
	b := f.next
	b.records = append(b.records, placed{r, int64(len(b.data)), int64(headSize + len(payload))})
	b.data = appendFrame(b.data, payload)
	if f.writing == nil {
		f.writing = make(chan struct{})
		go f.write()
	}
	f.mu.Unlock()
	<-b.done
	return b.err
}

func (f *PendingFile) usable() error {
	switch {
	case f.closed:
		return fmt.Errorf("client: pending file %q: %w", f.Path, os.ErrClosed)
	case f.broken != nil:
		return f.broken
	}
	return nil
}

// write writes batches until there is none.
func (f *PendingFile) write() {
	f.mu.Lock()
	for f.next != nil {
		b := f.next
		f.next = nil
		b.err = f.broken
		f.mu.Unlock()
		var broken error
		if b.err == nil {
			broken, b.err = f.commit(b)
		}
		f.mu.Lock()
		if broken != nil {
			f.broken = broken
		}
		close(b.done)
	}
	close(f.writing)
	f.writing = nil
	f.mu.Unlock()
}

// commit appends one batch. Besides the batch's error it returns a second one
// where nothing more can be written: not before the file was read anew.
func (f *PendingFile) commit(b *batch) (broken, err error) {
	crashpoint.Here(pointBeforeWrite)
	if _, err := f.file.WriteAt(b.data, f.size); err != nil {
		err = fmt.Errorf("client: storing in pending file %q: %w", f.Path, err)
		if undo := f.cut(); undo != nil {
			err = fmt.Errorf("%w; and it cannot be taken back: %w", err, undo)
			return err, err
		}
		return nil, err
	}
	crashpoint.Here(pointBeforeSync)
	if err := f.sync(f.file); err != nil {
		// What a failed fsync has written is not known, and a second one would
		// not tell. Taking it back is the best that can be done.
		err = fmt.Errorf("client: storing in pending file %q, which has to be opened again: %w", f.Path, err)
		return err, errors.Join(err, f.file.Truncate(f.size))
	}
	crashpoint.Here(pointAfterSync)
	for _, p := range b.records {
		p.at += f.size
		if err := f.place(p); err != nil {
			f.options.Logger.Error("a record makes no sense", slog.String("file", f.Path), slog.Any("error", err))
		}
	}
	f.size += int64(len(b.data))
	return f.tidy(), nil
}

// take gives what was found to a client of the server at base.
func (f *PendingFile) take(base string) ([]record, error) {
	if !f.taken.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("client: pending file %q has a client already", f.Path)
	}
	if f.Server != base {
		if f.Server != "" && !f.options.Moved {
			return nil, fmt.Errorf("client: pending file %q holds commands for %s and not for %s", f.Path, f.Server, base)
		}
		f.Server = base
		if err := f.rewrite(); err != nil {
			return nil, err
		}
	}
	found := f.found
	f.found = nil
	return found, nil
}

// Close closes the file. Whoever waits for a record to be stored is let go
// first.
func (f *PendingFile) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	writing := f.writing
	f.mu.Unlock()
	if writing != nil {
		<-writing
	}
	return f.file.Close()
}
