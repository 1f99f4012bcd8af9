package client

import (
	"sync"
	"time"
)

// A Budget bounds the retries of all clients and transports that share it, so
// that a chronic fault does not multiply the load on a server that is in
// trouble already. Requests earn retries, and so does time; where nothing is
// saved up, a try that failed is the last one, with [ClassBudget] among the
// errors. Intentions that a background sender holds are not given up: they
// wait. Polls for an outcome are no retries.
//
// The zero value is ready to use. It must not be copied or changed after
// first use.
type Budget struct {
	// Ratio is how many retries each request earns; 0 means 0.1, which is one
	// retry for ten requests.
	Ratio float64
	// Floor is how many retries a second time alone earns, so that a program
	// with few requests can retry as well; 0 means 10.
	Floor float64
	// Saved is the most retries that can be saved up, and what there is in the
	// beginning; 0 means 100.
	Saved float64

	off bool

	mu     sync.Mutex
	tokens float64
	last   time.Time // when the tokens were counted; zero before the first use
}

// DefaultBudget is shared by every client and transport of the process whose
// options name no other.
var DefaultBudget = &Budget{}

// NoBudget bounds nothing.
var NoBudget = &Budget{off: true}

// earn counts a first try.
func (b *Budget) earn() {
	if b.off {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count()
	b.tokens = min(b.saved(), b.tokens+or(b.Ratio, 0.1))
}

// spend takes one retry, and reports false if there is none.
func (b *Budget) spend() bool {
	if b.off {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// wait returns how long it takes at most until there is one retry again.
func (b *Budget) wait() time.Duration {
	return time.Duration(float64(time.Second) / or(b.Floor, 10))
}

// count adds what time has earned.
func (b *Budget) count() {
	now := time.Now()
	if b.last.IsZero() {
		b.tokens = b.saved()
	} else if passed := now.Sub(b.last); passed > 0 {
		b.tokens = min(b.saved(), b.tokens+passed.Seconds()*or(b.Floor, 10))
	}
	b.last = now
}

func (b *Budget) saved() float64 { return or(b.Saved, 100) }

func or(value, otherwise float64) float64 {
	if value == 0 {
		return otherwise
	}
	return value
}
