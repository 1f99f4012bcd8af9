package client

import (
	"time"

	"github.com/semel-dev/semel"
)

// A Policy says what follows a failed try of one class. The zero value tries
// again, with the waits of [semel.Backoff]'s zero value between.
type Policy struct {
	semel.Backoff
	// Tries is the most failures of this class in one series: with 1 the first
	// is final. 0 means that only the options' Tries counts.
	Tries int
}

// Never is the policy that makes the first failure of a class final.
var Never = Policy{Tries: 1}

// Fixed waits d each time.
func Fixed(d time.Duration) Policy {
	if d == 0 {
		d = -1 // a Backoff's 0 is its default
	}
	return Policy{Backoff: semel.Backoff{First: d, Fixed: true}}
}

// Exponential waits with full jitter, up to first, doubling to at most most.
func Exponential(first, most time.Duration) Policy {
	return Policy{Backoff: semel.Backoff{First: first, Most: most}}
}

// Rules are what a client and a transport decide by after a failed try.
type rules struct {
	tries   int
	wait    semel.Backoff
	byClass map[Class]Policy
	budget  *Budget
}

func (r *rules) policy(class Class) Policy {
	if p, ok := r.byClass[class]; ok {
		return p
	}
	return Policy{Backoff: r.wait}
}

// passes reports whether a failure of the class is tried again at all. A
// policy opens a class that is final otherwise, but neither an outcome nor the
// caller's will is open to one.
func (r *rules) passes(class Class) bool {
	p, named := r.byClass[class]
	switch {
	case class == ClassCanceled || class == ClassFailed || class == ClassBudget:
		return false
	case named:
		return p.Tries != 1
	}
	return class.passes()
}

// A series is the failures of one request, in order.
type series struct {
	rules  *rules
	tries  int
	count  map[Class]int
	failed tally
}

func (r *rules) begin() *series {
	r.budget.earn()
	return &series{rules: r, count: make(map[Class]int)}
}

// add counts a failure and returns how long to wait before the next try; ok is
// false if there is to be none.
func (s *series) add(e *Error) (wait time.Duration, ok bool) {
	s.tries++
	s.count[e.Class]++
	s.failed.add(e)
	p := s.rules.policy(e.Class)
	if e.final || !s.rules.passes(e.Class) || s.tries >= s.rules.tries || p.Tries > 0 && s.count[e.Class] >= p.Tries {
		return 0, false
	}
	return p.Wait(s.tries) + e.after, true
}

// end returns what the series comes to, whose last failure was of the class.
func (s *series) end(class Class) error {
	how := "stopped"
	switch {
	case class == ClassCanceled:
		how = "canceled"
	case s.rules.passes(class):
		how = "gave up"
	}
	return s.failed.err(how, s.tries)
}

// spend takes the next try from the budget. It returns an error, to be the
// last of the series, if the budget is used up.
func (s *series) spend() *Error {
	if s.rules.budget.spend() {
		return nil
	}
	return &Error{Class: ClassBudget, Message: "not tried again: the retry budget is used up"}
}
