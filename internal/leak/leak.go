// Package leak fails a package's tests when goroutines outlive them.
package leak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// Main runs the tests and exits with 1 if they pass but leave goroutines
// behind. Call it from TestMain, with the *[testing.M] or with what wraps it to
// clean up before the exit.
func Main(m interface{ Run() int }) {
	code := m.Run()
	if code == 0 {
		if left := settle(5 * time.Second); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "leak: %d goroutines outlive the tests\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// settle waits for goroutines that are about to end: closing a connection or
// a database is not always synchronous.
func settle(patience time.Duration) []string {
	deadline := time.Now().Add(patience)
	for {
		left := running()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func running() []string {
	buf := make([]byte, 1<<20)
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	var left []string
	for _, s := range stacks[1:] { // the first is this goroutine
		if !expected(s) {
			left = append(left, s)
		}
	}
	return left
}

// expected lists what the runtime and the testing package keep for good.
func expected(stack string) bool {
	for _, frame := range []string{
		"testing.(*M).", "testing.Main(", "testing.tRunner(", "os/signal.loop", "os/signal.signal_recv",
		"runtime.ensureSigM", "created by runtime", "runtime/trace.Start", "testing.runFuzzing", "testing.(*F).",
	} {
		if strings.Contains(stack, frame) {
			return true
		}
	}
	return false
}
