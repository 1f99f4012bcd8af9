package client_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/client"
	"github.com/semel-dev/semel/internal/crashpoint"
	"github.com/semel-dev/semel/internal/leak"
)

var kills = flag.Int("client.kills", 60, "how often TestKills kills its child")

// childVariable makes the test binary a program that uses the client: its
// value says which.
const childVariable = "SEMEL_CLIENT_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "":
		leak.Main(m)
	case "teller":
		exit(teller())
	case "full disk":
		exit(fullDisk())
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// childClient is the client of both programs.
func childClient() (*client.PendingFile, *client.Client, error) {
	quiet := slog.New(slog.DiscardHandler)
	f, err := client.OpenPending(os.Getenv("FILE"), &client.PendingOptions{Moved: true, Logger: quiet})
	if err != nil {
		return nil, nil, err
	}
	c, err := client.New(os.Getenv("BASE"), &client.Options{
		Authorize: func(r *http.Request) error { r.Header.Set("Authorization", "Bearer teller"); return nil },
		Wait:      semel.Backoff{First: time.Millisecond, Most: 5 * time.Millisecond},
		Pending:   f,
		Budget:    client.NoBudget,
	})
	return f, c, err
}

// teller withdraws in every way there is, and says on standard output what it
// was promised.
func teller() error {
	_, c, err := childClient()
	if err != nil {
		return err
	}
	fmt.Println("open")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var waits sync.WaitGroup
	for i := range 20 {
		if i == 4 { // what was submitted before can be canceled
			waits.Go(func() { _ = c.Run(ctx) })
		}
		r := client.Request{Command: "withdraw", Key: fmt.Sprintf("%s-%d", os.Getenv("ROUND"), i), Body: withdraw{[]string{"alice", "bob"}[i%2], 1}}
		if i%4 == 2 {
			if _, err := c.Send(ctx, r); err != nil {
				return err
			}
			fmt.Println("stored", r.Key)
			continue
		}
		p, err := c.Submit(ctx, r)
		if err != nil {
			return err
		}
		fmt.Println("stored", r.Key)
		if i%4 == 3 {
			fmt.Println("canceling", r.Key)
			if c.Cancel(r.Key) == nil {
				fmt.Println("canceled", r.Key)
			}
			continue
		}
		waits.Go(func() {
			if _, err := c.Await(context.Background(), p); err != nil {
				fmt.Println("failed", r.Key, err)
			} else if c.Acknowledge(r.Key) == nil {
				fmt.Println("acknowledged", r.Key)
			}
		})
	}
	if err := c.Drain(ctx, nil); err != nil {
		return err
	}
	fmt.Println("drained")
	stop()
	waits.Wait()
	return nil
}

// A journal is what the children were promised.
type journal struct {
	stored, canceled, acknowledged map[string]bool
	canceling                      map[string]bool // a child may be killed before it can say how that ended
	rounds, killed, drained        int
}

// TestKills: however often a process is killed, everything that was stored has
// happened once in the end, and what was canceled has not.
func TestKills(t *testing.T) {
	t.Parallel()
	base, reader := bank(t)
	path := filepath.Join(t.TempDir(), "pending")
	j := &journal{stored: map[string]bool{}, canceled: map[string]bool{}, acknowledged: map[string]bool{}, canceling: map[string]bool{}}
	fired := map[string]int{}
	for round := 0; j.killed < *kills; round++ {
		if round > 3**kills {
			t.Fatalf("only %d of %d children were killed", j.killed, round)
		}
		point, passage := "", 1
		if round%2 == 0 {
			point = client.Points[round/2%len(client.Points)]
			if !strings.Contains(point, "rename") && !strings.Contains(point, "truncate") {
				passage += rand.N(12)
			}
		}
		if round%3 == 0 || strings.Contains(point, "truncate") {
			tear(t, path)
		}
		address := base
		if strings.Contains(point, "rename") {
			address = strings.Replace(base, "127.0.0.1", spelled(round), 1) // under another address the file is rewritten
		}
		if j.play(t, round, point, passage, address, path) && point != "" {
			fired[point]++
		}
	}
	j.play(t, 999_998, "", 0, base, path) // to its end
	if j.drained == 0 {
		t.Error("the last child has not drained the file")
	}
	for _, point := range client.Points {
		if fired[point] == 0 && *kills >= 4*len(client.Points) {
			t.Errorf("no child was killed at %s", point)
		}
	}
	j.check(t, reader)
	if n := *kills; len(j.stored) < 2*n || len(j.canceled) == 0 || len(j.acknowledged) < n/2 {
		t.Errorf("too little to tell: %d stored, %d canceled, %d acknowledged", len(j.stored), len(j.canceled), len(j.acknowledged))
	}
	t.Logf("%d kills of %d children, at points %v: %d stored, %d canceled, %d acknowledged", j.killed, j.rounds, fired,
		len(j.stored), len(j.canceled), len(j.acknowledged))
}

// spelled returns localhost in a spelling of the round's own.
func spelled(round int) string {
	name := []byte("localhost")
	for i := range name {
		if round>>i&1 == 1 {
			name[i] -= 'a' - 'A'
		}
	}
	return string(name)
}

// tear appends what a crash of the machine in the middle of a write may leave.
func tear(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	whole := frame(`{"t":"intention","key":"torn","intention":{"command":"withdraw","body":"e30="}}`)
	_, err = file.Write(whole[:1+rand.N(len(whole)-1)])
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

// play runs one child to its end and reports whether it was killed.
func (j *journal) play(t *testing.T, round int, point string, passage int, where ...string) bool {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), childVariable+"=teller", "BASE="+where[0], "FILE="+where[1], fmt.Sprintf("ROUND=%d", round))
	if point != "" {
		child.Env = append(child.Env, fmt.Sprintf("%s=%s:%d", crashpoint.Variable, point, passage))
	}
	var errs bytes.Buffer
	child.Stderr = &errs
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	opened := func() {}
	if j.rounds++; point == "" && round%7 != 6 { // one in seven gets to its end
		opened = func() {
			timer := time.AfterFunc(rand.N(150*time.Millisecond), func() { _ = child.Process.Kill() })
			t.Cleanup(func() { timer.Stop() })
		}
	}
	j.read(t, bufio.NewScanner(out), opened)
	err = child.Wait()
	status := child.ProcessState.Sys().(syscall.WaitStatus)
	killed := status.Signaled() && status.Signal() == syscall.SIGKILL
	switch {
	case killed:
		j.killed++
	case err != nil:
		t.Fatalf("child %d, point %s: %v\n%s", round, point, err, &errs)
	}
	return killed
}

func (j *journal) read(t *testing.T, lines *bufio.Scanner, opened func()) {
	t.Helper()
	for lines.Scan() {
		what, key, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "open":
			opened()
		case "stored":
			j.stored[key] = true
		case "canceling":
			j.canceling[key] = true
		case "canceled":
			j.canceled[key] = true
		case "acknowledged":
			j.acknowledged[key] = true
		case "drained":
			j.drained++
		case "failed":
			t.Error(lines.Text())
		}
	}
}

// check compares what was promised with the ledger.
func (j *journal) check(t *testing.T, reader *sql.DB) {
	t.Helper()
	effects := map[string]int{}
	rows, err := reader.QueryContext(t.Context(), `SELECT operation, count(*) FROM ledger GROUP BY operation`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var operation string
		var n int
		if err := rows.Scan(&operation, &n); err != nil {
			t.Fatal(err)
		}
		if effects[operation] = n; n != 1 {
			t.Errorf("operation %s took effect %d times", operation, n)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for key := range j.stored {
		id := semel.Command{Principal: "teller", Name: "withdraw", Key: key}.ID().String()
		switch happened := effects[id] == 1; { // more than once was reported
		case happened && j.canceled[key]:
			t.Errorf("%s took effect, although it was canceled", key)
		case !happened && !j.canceled[key] && !j.canceling[key]:
			t.Errorf("%s has no effect, although it was stored", key)
		}
	}
	torn := semel.Command{Principal: "teller", Name: "withdraw", Key: "torn"}.ID().String()
	if effects[torn] != 0 {
		t.Error("a torn intention was sent")
	}
}

// fullDisk submits until the disk is full, which a limit on the size of files
// stands for, and goes on when there is room again.
func fullDisk() error {
	signal.Ignore(syscall.SIGXFSZ) // without its handler, a write past the limit kills
	_, c, err := childClient()
	if err != nil {
		return err
	}
	limit := func(n uint64) error {
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: 1 << 40})
	}
	if err := limit(20_000); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	refused := 0
	for i := 0; refused < 5; i++ {
		key := fmt.Sprintf("full-%d", i)
		_, err := c.Submit(ctx, client.Request{Command: "withdraw", Key: key, Body: withdraw{"alice", 1}})
		switch {
		case err == nil:
			fmt.Println("stored", key)
		case errors.Is(err, syscall.EFBIG) && strings.Contains(err.Error(), "was not sent"):
			refused++
			fmt.Println("canceled", key) // it must not happen
			fmt.Println("stored", key)
		default:
			return fmt.Errorf("%s: %w", key, err)
		}
		if i > 2000 {
			return errors.New("nothing was refused")
		}
	}
	if err := limit(1 << 40); err != nil {
		return err
	}
	if _, err := c.Submit(ctx, client.Request{Command: "withdraw", Key: "room", Body: withdraw{"alice", 1}}); err != nil {
		return err
	}
	fmt.Println("stored room")
	if err := c.Drain(ctx, nil); err != nil {
		return err
	}
	stop()
	return <-ran
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	base, reader := bank(t)
	path := filepath.Join(t.TempDir(), "pending")
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), childVariable+"=full disk", "BASE="+base, "FILE="+path)
	var errs bytes.Buffer
	child.Stderr = &errs
	out, err := child.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}
	j := &journal{stored: map[string]bool{}, canceled: map[string]bool{}, acknowledged: map[string]bool{}, canceling: map[string]bool{}}
	j.read(t, bufio.NewScanner(bytes.NewReader(out)), func() {})
	if len(j.canceled) != 5 || len(j.stored) < 20 {
		t.Errorf("%d were stored, %d refused", len(j.stored), len(j.canceled))
	}
	j.check(t, reader)
	// Outcomes that found no room are found out again; nothing happens twice.
	f := pendingFile(t, path, nil)
	c, err := client.New(base, &client.Options{Pending: f, Budget: client.NoBudget,
		Authorize: func(r *http.Request) error { r.Header.Set("Authorization", "Bearer teller"); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	running(t, c)
	if err := c.Drain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	completed := 0
	for _, p := range c.List() {
		if p.State == client.PendingCompleted {
			completed++
		}
	}
	if want := len(j.stored) - len(j.canceled); completed != want || len(f.Damage) > 0 {
		t.Errorf("%d are completed, want %d; damage %v", completed, want, f.Damage)
	}
	j.check(t, reader)
	t.Logf("%d stored, %d refused", completed, len(j.canceled))
}
