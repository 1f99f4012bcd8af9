// Package crashpoint marks the places where the crash tests kill the process,
// and the steps that they break to show that each place matters.
//
// A point costs one load of a variable unless the process was started with
// SEMEL_CRASH. The broken steps exist only in a binary built with the tag
// "broken"; in any other they are constants the compiler removes.
package crashpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// The points, in the order of an operation's life. docs/guarantees.md says
// for each what the client sees and what is in the store; a test compares.
const (
	BeforeBegin      = "group.before-begin"
	AfterHandlers    = "group.after-handlers"
	AfterRecord      = "group.after-record"
	BeforeCommit     = "group.before-commit"
	AfterCommit      = "group.after-commit"
	BeforeAnswer     = "group.before-answer"
	AfterClaim       = "claim.after-commit"
	BeforeClaim      = "claim.before-commit"
	BeforeProjection = "follow.before-commit"
	AfterProjection  = "follow.after-commit"
	BeforeSweep      = "sweep.before-commit"
	AfterSweep       = "sweep.after-commit"
)

// All lists the points.
func All() []string {
	return []string{
		BeforeBegin, AfterHandlers, AfterRecord, BeforeCommit, AfterCommit, BeforeAnswer,
		BeforeClaim, AfterClaim, BeforeProjection, AfterProjection, BeforeSweep, AfterSweep,
	}
}

// Variable is the environment variable that arms a point: its name, and after
// a colon at which passage to die, the first if there is none.
const Variable = "SEMEL_CRASH"

var (
	armed     atomic.Pointer[string] // nil while no point is armed
	countdown atomic.Int64
)

func init() {
	name, passage, _ := strings.Cut(os.Getenv(Variable), ":")
	n, err := strconv.ParseInt(passage, 10, 64)
	if err != nil || n < 1 {
		n = 1
	}
	countdown.Store(n)
	if name != "" {
		armed.Store(&name)
	}
}

// Arm makes the next passage of a point kill the process, in place of any
// point that was armed before. The demo arms its worker with it at run time.
func Arm(point string) {
	armed.Store(nil) // no passage may meet the new count with the old point
	countdown.Store(1)
	armed.Store(&point)
}

// Here kills the process with SIGKILL, as a power cut or the kernel would, if
// the point is armed: no deferred call and no buffer gets another chance.
func Here(point string) {
	if p := armed.Load(); p == nil || *p != point || countdown.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
