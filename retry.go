package semel

import (
	"math/rand/v2"
	"time"
)

// A Backoff is the wait between two tries: exponential with full jitter, which
// spreads a crowd that failed together (Brooker, "Exponential Backoff And
// Jitter", 2015). The zero value waits up to 100 ms, doubling to at most 30 s.
type Backoff struct {
	First time.Duration // most to wait after the first try; 0 means 100 ms, negative means no wait at all
	Most  time.Duration // the ceiling; 0 means 30 s
	Fixed bool          // wait exactly First each time
}

// Wait returns how long to wait after the given try, which counts from 1.
func (b Backoff) Wait(try int) time.Duration {
	if b.First < 0 {
		return 0
	}
	first, most := b.First, b.Most
	if first == 0 {
		first = 100 * time.Millisecond
	}
	if b.Fixed {
		return first
	}
	if most == 0 {
		most = 30 * time.Second
	}
	ceiling := most
	if shift := try - 1; shift < 32 && first<<shift>>shift == first {
		ceiling = min(most, first<<shift)
	}
	return rand.N(ceiling + 1)
}

// A Retry is a command's policy for errors that are not a [Rejection]. The
// zero value tries five times, with a [Backoff] of zero value between.
type Retry struct {
	// Attempts is the most calls of the handler, the first included; 0 means 5.
	Attempts int
	// Wait is used for classes that ByClass does not name.
	Wait Backoff
	// ByClass overrides Wait. A class [ClassTerminal] is never tried again.
	ByClass map[Class]Backoff
	// Classify says what kind of error it is. If it is nil or returns "", the
	// error's type decides, where everything unknown is [ClassTransient].
	Classify func(error) Class
}

func (r Retry) attempts() int {
	if r.Attempts == 0 {
		return 5
	}
	return r.Attempts
}

func (r Retry) classify(err error) Class {
	if r.Classify != nil {
		if class := r.Classify(err); class != "" {
			return class
		}
	}
	return classify(err)
}

// next decides after an attempt that ended in an error of the given class:
// the wait before the next one, or the disposition if there is none.
func (r Retry) next(class Class, attempt int) (time.Duration, Disposition) {
	switch {
	case class == ClassTerminal:
		return 0, Terminal
	case attempt >= r.attempts() && class == ClassPanic:
		return 0, Poison
	case attempt >= r.attempts():
		return 0, Exhausted
	}
	wait, ok := r.ByClass[class]
	if !ok {
		wait = r.Wait
	}
	return wait.Wait(attempt), ""
}
