package semel

import (
	"slices"
	"testing"
)

func TestEveryStateCanBeReachedAndLeftOrIsFinal(t *testing.T) {
	reached := make(map[State]bool)
	for from, next := range moves {
		if from != newborn && !slices.Contains(States(), from) {
			t.Errorf("the table has a state %q that States does not list", from)
		}
		for _, s := range next {
			reached[s] = true
			if !slices.Contains(States(), s) {
				t.Errorf("%q moves to %q, which States does not list", from, s)
			}
		}
	}
	for _, s := range States() {
		if !reached[s] {
			t.Errorf("no move leads to %q", s)
		}
		if _, listed := moves[s]; !listed {
			t.Errorf("the table does not say where %q leads", s)
		}
		if s.Unfinished() && s.Done() {
			t.Errorf("%q is both unfinished and done", s)
		}
		if final := len(moves[s]) == 0; final && !s.Done() {
			t.Errorf("%q is final but not done", s)
		}
	}
}

func TestAnOutcomeIsNeverUndone(t *testing.T) {
	for _, s := range []State{Completed, Rejected, Canceled} {
		for _, next := range States() {
			if s.CanMove(next) {
				t.Errorf("%q can become %q", s, next)
			}
		}
	}
	for _, next := range States() {
		if Failed.CanMove(next) && next != Accepted && next != Canceled {
			t.Errorf("a dead letter can become %q without going through the door again", next)
		}
	}
}

func TestMoveRefusesWhatTheTableDoesNotAllow(t *testing.T) {
	op := Operation{State: Completed}
	if err := op.move(Running); err == nil || op.State != Completed {
		t.Fatalf("moved to %q, error %v", op.State, err)
	}
	op = Operation{State: Running}
	if err := op.move(Waiting); err != nil || op.State != Waiting {
		t.Fatalf("moved to %q, error %v", op.State, err)
	}
}
