package client_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/semel-dev/semel/client"
)

// A small pending file with every type of record in it, and where each begins.
func smallFile(t *testing.T) (data []byte, starts []int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pending")
	f := pendingFile(t, path, nil)
	c := offline(t, f)
	for _, key := range []string{"a", "b", "c", "d"} {
		submit(t, c, client.Request{Command: "withdraw", Key: key, Body: json.RawMessage(`{"cents":1}`)})
	}
	if err := errors.Join(c.Cancel("b"), c.Cancel("d"), c.Acknowledge("d"), f.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; ; {
		i := bytes.Index(data[at:], []byte("\xFFSML"))
		if i < 0 {
			return data, append(starts, len(data))
		}
		starts = append(starts, at+i)
		at += i + 1
	}
}

// fast returns a directory in memory where there is one: these tests open
// thousands of files, and each waits for the disk.
func fast(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "semel-client-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// reopen opens a file with the given content, and returns what is in it.
func reopen(t *testing.T, data []byte) (f *client.PendingFile, c *client.Client) {
	t.Helper()
	path := filepath.Join(fast(t), "pending")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := client.OpenPending(path, &client.PendingOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return f, offline(t, f)
}

// TestTornAnywhere cuts the file off at every byte: what was whole is there,
// and the file can be written to and read again.
func TestTornAnywhere(t *testing.T) {
	t.Parallel()
	data, starts := smallFile(t)
	want := []string{"", "", "a waiting", "a waiting\nb waiting", "a waiting\nb waiting\nc waiting", "a waiting\nb waiting\nc waiting\nd waiting",
		"a waiting\nb canceled\nc waiting\nd waiting", "a waiting\nb canceled\nc waiting\nd canceled", "a waiting\nb canceled\nc waiting"}
	for cut := starts[1]; cut <= len(data); cut++ { // the first record is put there by a rename
		for _, filler := range []int{0, 1, 40} { // zeros, as a file system may leave them
			f, c := reopen(t, append(slices.Clone(data[:cut]), make([]byte, filler)...))
			whole := 0
			for whole+1 < len(starts) && starts[whole+1] <= cut {
				whole++
			}
			if got := states(c); got != want[whole] {
				t.Fatalf("cut at %d: %q, want %q", cut, got, want[whole])
			}
			for _, d := range f.Damage {
				if filler == 0 && !d.Torn {
					t.Errorf("cut at %d: %v is taken for more than a torn end", cut, d)
				}
			}
			submit(t, c, client.Request{Command: "withdraw", Key: "new"})
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			again, err := os.ReadFile(f.Path)
			if err != nil {
				t.Fatal(err)
			}
			f, c = reopen(t, again)
			if got := states(c); len(f.Damage) > 0 || got != strings.TrimSpace(want[whole]+"\nnew waiting") {
				t.Fatalf("cut at %d, mended and written to: %q with damage %v", cut, got, f.Damage)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("cut at %d places, with and without zeros after", len(data)+1-starts[1])
}

// TestFlippedAnywhere changes one bit at every byte: every other record is
// there, the damage is reported at its place, and the bytes are kept.
func TestFlippedAnywhere(t *testing.T) {
	t.Parallel()
	data, starts := smallFile(t)
	silent := 0
	for at := range data {
		flipped := slices.Clone(data)
		flipped[at] ^= 1 << (at % 8)
		f, c := reopen(t, flipped)
		hit, _ := slices.BinarySearch(starts, at+1)
		hit-- // the record that the byte is in
		if len(f.Damage) == 0 || f.Damage[0].Offset != int64(starts[hit]) || f.Damage[0].Length != int64(starts[hit+1]-starts[hit]) {
			t.Fatalf("flipped at %d, in the record at %d: damage %v", at, starts[hit], f.Damage)
		}
		got := states(c)
		for i, key := range []string{"a", "b", "c"} {
			if there := strings.Contains(got, key+" "); there != (hit != i+1) {
				t.Errorf("flipped at %d, in record %d: %q", at, hit, got)
			}
		}
		if saved, err := os.ReadFile(f.Saved); f.Saved == "" && !f.Damage[0].Torn || f.Saved != "" && (err != nil || !bytes.Equal(saved, flipped)) {
			t.Errorf("flipped at %d: the damaged file is not kept: %v", at, err)
		}
		if f.Saved == "" {
			silent++
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if silent > 0 {
		t.Errorf("%d damages were taken for a torn end", silent)
	}
	t.Logf("flipped at %d places", len(data))
}

// TestForeignFrames: what a caller puts into a body is never read as a record,
// also when the record around it is damaged.
func TestForeignFrames(t *testing.T) {
	t.Parallel()
	data, starts := smallFile(t)
	evil := data[starts[1]:starts[2]]
	path := filepath.Join(t.TempDir(), "pending")
	f := pendingFile(t, path, nil)
	c := offline(t, f)
	submit(t, c, client.Request{Command: "withdraw", Key: "victim", Body: evil, Header: map[string][]string{"X-Note": {string(evil)}}})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		flipped := slices.Clone(whole)
		flipped[at] ^= 0x10
		f, c := reopenMaybe(t, flipped)
		if f == nil {
			continue
		}
		if got := states(c); got != "" && got != "victim waiting" {
			t.Fatalf("flipped at %d: %s", at, got)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func reopenMaybe(t *testing.T, data []byte) (*client.PendingFile, *client.Client) {
	path := filepath.Join(fast(t), "pending")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := client.OpenPending(path, &client.PendingOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		if !strings.Contains(err.Error(), "not a pending file") {
			t.Fatal(err)
		}
		return nil, nil
	}
	return f, offline(t, f)
}

// FuzzPendingFile: no content makes opening panic, and what was mended is
// sound.
func FuzzPendingFile(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\xFFSML\x02\x00\x00\x00"))
	f.Add([]byte(strings.Repeat("\x00", 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		good, starts := framed(`{"t":"file","version":1}`, `{"t":"intention","key":"k","intention":{"command":"c","body":"e30="}}`)
		for _, content := range [][]byte{data, append(slices.Clone(good), data...), append(slices.Clone(data), good[starts:]...)} {
			p, c := reopenMaybe(t, content)
			if p == nil {
				continue
			}
			before := states(c)
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			again, err := client.OpenPending(p.Path, nil)
			if err != nil {
				t.Fatalf("%q was mended, and cannot be opened: %v", content, err)
			}
			if after := states(offline(t, again)); len(again.Damage) > 0 || after != before {
				t.Fatalf("%q was mended: damage %v, %q and then %q", content, again.Damage, before, after)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// framed makes frames by the documented format, not by the package's code, and
// returns where the second begins.
func framed(payloads ...string) (data []byte, second int) {
	for i, p := range payloads {
		if i == 1 {
			second = len(data)
		}
		data = append(data, frame(p)...)
	}
	return data, second
}

func frame(payload string) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	head := binary.LittleEndian.AppendUint32([]byte{0xFF, 0x53, 0x4D, 0x4C}, uint32(len(payload)))
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, table))
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum([]byte(payload), table))
	return append(head, payload...)
}
