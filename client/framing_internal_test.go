package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzReadFrames: whatever the bytes are, every one of them is either in a
// record or in a damage, and sound records before and after are found.
func FuzzReadFrames(f *testing.F) {
	one := appendFrame(nil, []byte(`{"t":"sending","key":"a"}`))
	f.Add([]byte{})
	f.Add(one)
	f.Add(one[:20])
	f.Add(append(slices.Clone(one[:9]), one...))
	f.Add([]byte("\xFFSML\xFFSML\xFFSML"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all := slices.Concat(one, data, one)
		covered, found := 0, map[int64]string{}
		damages := readFrames(all, func(payload []byte, at int64) error {
			covered += headSize + len(payload)
			found[at] = string(payload)
			return nil
		})
		for _, d := range damages {
			if d.Length <= 0 || d.Reason == "" {
				t.Errorf("damage %+v", d)
			}
			covered += int(d.Length)
		}
		if covered != len(all) {
			t.Errorf("%d of %d bytes are accounted for", covered, len(all))
		}
		if found[0] == "" {
			t.Error("the record before is not found")
		}
		if found[int64(len(all)-len(one))] == "" && !bytes.Contains(data, mark) && !bytes.HasSuffix(data, []byte{0xFF}) {
			t.Error("the record after is not found")
		}
	})
}

// opened returns a new pending file and a client that nobody answers.
func opened(t *testing.T, path string) (*PendingFile, *Client) {
	t.Helper()
	f, err := OpenPending(path, &PendingOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := New("http://bank.test", &Options{Pending: f})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return f, c
}

// TestTogether: intentions that are submitted at once share fsyncs. In the
// bubble an fsync takes as long as it takes all submitters to come to wait.
func TestTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, together)
}

func together(t *testing.T) {
	const submitters, each = 32, 20
	path := filepath.Join(t.TempDir(), "pending")
	f, c := opened(t, path)
	var syncs atomic.Int64
	f.sync = func(file *os.File) error {
		<-time.After(time.Millisecond)
		syncs.Add(1)
		return file.Sync()
	}
	var all sync.WaitGroup
	for range submitters {
		all.Go(func() {
			for range each {
				if _, err := c.Submit(t.Context(), Request{Command: "withdraw"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := syncs.Load(); n > 2*each {
		t.Errorf("%d fsyncs for %d intentions, want at most two for each round of %d", n, submitters*each, submitters)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, c := opened(t, path); len(c.List()) != submitters*each {
		t.Errorf("%d of %d intentions are in the file", len(c.List()), submitters*each)
	}
}

// TestFailedSync: an intention is not sent, and not found later, whose fsync
// failed; and nothing is stored any more until the file is opened again.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pending")
	f, c := opened(t, path)
	if _, err := c.Submit(t.Context(), Request{Command: "withdraw", Key: "before"}); err != nil {
		t.Fatal(err)
	}
	f.sync = func(*os.File) error { return syscall.EIO }
	for _, key := range []string{"during", "after"} {
		_, err := c.Submit(t.Context(), Request{Command: "withdraw", Key: key})
		if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "opened again") || !strings.Contains(err.Error(), "was not sent") {
			t.Errorf("%s: %v", key, err)
		}
		f.sync = (*os.File).Sync
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f, c = opened(t, path)
	if list := c.List(); len(list) != 1 || list[0].Key != "before" || len(f.Damage) > 0 {
		t.Errorf("%d intentions, damage %v", len(list), f.Damage)
	}
}

// TestRewritten: a file does not grow with what is done, keeps its place in a
// directory with a link, and stays its owner's.
func TestRewritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link, path := filepath.Join(dir, "link"), filepath.Join(dir, "pending")
	if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Symlink("pending", link)); err != nil {
		t.Fatal(err)
	}
	f, c := opened(t, link)
	f.sync = func(*os.File) error { return nil }
	kept := 0
	for i := range 3000 {
		key := fmt.Sprint(i)
		if _, err := c.Submit(t.Context(), Request{Command: "withdraw", Key: key, Body: strings.Repeat("x", 500)}); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			kept++
			continue
		}
		if err := errors.Join(c.Cancel(key), c.Acknowledge(key)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Lstat(path)
	if err != nil || info.Size() > 2*wasteAllowed || info.Mode() != 0o600 {
		t.Errorf("%d bytes, mode %v, %v", info.Size(), info.Mode(), err)
	}
	if _, err := OpenPending(path, nil); err == nil || !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("a second owner after the rewrite: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f, c = opened(t, link)
	if len(c.List()) != kept || len(f.Damage) > 0 {
		t.Errorf("%d intentions, want %d; damage %v", len(c.List()), kept, f.Damage)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 2 {
		t.Errorf("left in the directory: %q, %v", left, err)
	}
}

// TestForgottenInTime: outcomes that nobody asks for go away, failures stay.
func TestForgottenInTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pending")
	f, c := opened(t, path)
	f.options.Keep = 1
	for _, key := range []string{"canceled", "failed", "open"} {
		if _, err := c.Submit(t.Context(), Request{Command: "withdraw", Key: key}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Cancel("canceled"); err != nil {
		t.Fatal(err)
	}
	q := c.queue
	failed := q.entries["failed"]
	q.claim(failed)
	q.finish(failed, &outcome{State: PendingFailed, Class: ClassForbidden, Message: "403"}, nil)
	q.entries["open"].due = failed.ended.Add(1 << 40)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	q.mu.Lock()
	delete(q.entries, "open") // it is not to be tried
	q.due[sends] = nil
	q.mu.Unlock()
	changed, stop := q.watch()
	defer stop()
	go func() { ended <- c.Run(ctx) }()
	<-changed
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, c = opened(t, path)
	if list := c.List(); len(list) != 2 || list[0].Key != "failed" || !errors.Is(list[0].Err, ClassForbidden) || list[1].Key != "open" {
		t.Errorf("%d are left", len(list))
	}
}
