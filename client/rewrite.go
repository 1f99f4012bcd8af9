package client

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

const (
	rewriteSuffix = ".rewrite"
	// wasteAllowed is how much dead weight a file may have before it is
	// rewritten; above it, as much as there is to keep.
	wasteAllowed = 1 << 20
)

// tidy rewrites the file if most of it says nothing any more. That this may
// fail, on a full disk for one, changes nothing: it is tried again when the
// file has grown by as much once more.
func (f *PendingFile) tidy() (broken error) {
	live := f.live.Load()
	if waste := f.size - live; waste <= max(live, wasteAllowed) || f.size < f.tried+wasteAllowed {
		return nil
	}
	err := f.rewrite()
	var lost *lostError
	if errors.As(err, &lost) {
		return err
	}
	f.tried = 0
	if err != nil {
		f.tried = f.size
		f.options.Logger.Warn("the pending file grows on", slog.String("file", f.Path), slog.Any("error", err))
	}
	return nil
}

// A lostError says that it is not known which file has the name.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// rewrite puts a file in the old one's place that has only what still says
// something. A crash at any moment leaves one of the two, whole.
func (f *PendingFile) rewrite() error {
	name := f.Path + rewriteSuffix
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("client: rewriting pending file %q: %w", f.Path, err)
	}
	// Locked before it has the name: nobody can come between.
	kept, err := f.copyTo(file)
	if err == nil {
		err = lock(file)
	}
	if err == nil {
		err = f.sync(file)
	}
	if err == nil {
		crashpoint.Here(pointBeforeRename)
		err = os.Rename(name, f.Path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("client: rewriting pending file %q: %w", f.Path, err), file.Close(), os.Remove(name))
	}
	crashpoint.Here(pointAfterRename)
	old := f.file
	f.file, f.size, f.lives, f.order = file, kept.size, kept.lives, kept.order
	f.live.Store(kept.live)
	if err := errors.Join(old.Close(), syncDirectory(filepath.Dir(f.Path))); err != nil {
		return &lostError{fmt.Errorf("client: rewriting pending file %q, which has to be opened again: %w", f.Path, err)}
	}
	return nil
}

// A copied is what a rewritten file has.
type copied struct {
	lives      map[string]*life
	order      []string
	size, live int64
}

// copyTo writes what is to be kept, and returns where it then is.
func (f *PendingFile) copyTo(file *os.File) (copied, error) {
	kept := copied{lives: make(map[string]*life, len(f.lives))}
	head := record{Type: typeFile, At: time.Now().UTC(), Format: fileFormat, Version: fileVersion, Server: f.Server}
	payload, err := head.encode()
	if err != nil {
		return kept, err
	}
	n, err := file.Write(appendFrame(nil, payload))
	if err != nil {
		return kept, err
	}
	kept.size = int64(n)
	for _, key := range f.order {
		l := f.lives[key]
		if l == nil || kept.lives[key] != nil {
			continue // acknowledged; and a key that came back is in the order twice
		}
		moved := &life{}
		for slot, p := range l {
			if p.size == 0 {
				continue
			}
			if _, err := io.Copy(file, io.NewSectionReader(f.file, p.at, p.size)); err != nil {
				return kept, err
			}
			p.at = kept.size
			moved[slot] = p
			kept.size += p.size
			kept.live += p.size
		}
		kept.lives[key] = moved
		kept.order = append(kept.order, key)
	}
	return kept, nil
}

// syncDirectory makes a rename durable.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
