package semel

import (
	"errors"
	"fmt"
	"testing"
)

func TestIntakeTakesFromTenantsInTurn(t *testing.T) {
	q := newIntake[struct{}](100, 50)
	put := func(tenant string, n int) {
		for i := range n {
			if err := q.put(&task[struct{}]{op: &Operation{Tenant: tenant, Key: fmt.Sprint(i)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("hot", 40)
	put("a", 2)
	put("b", 1)
	var got []string
	for _, task := range q.take(make([]*task[struct{}], 0, 7)) {
		got = append(got, task.op.Tenant+task.op.Key)
	}
	if want := "[hot0 a0 b0 hot1 a1 hot2 hot3]"; fmt.Sprint(got) != want {
		t.Errorf("took %v, want %v", got, want)
	}
	if !q.any() {
		t.Error("nothing says that more is waiting")
	}
	rest := q.take(make([]*task[struct{}], 0, 100))
	for i, task := range rest {
		if want := fmt.Sprint(i + 4); task.op.Key != want {
			t.Fatalf("a tenant's own order is lost: %s at %d", task.op.Key, i)
		}
	}
	if len(rest) != 36 || q.waiting != 0 || len(q.lines) != 0 || len(q.turn) != 0 {
		t.Errorf("took %d; left %d, %d lines", len(rest), q.waiting, len(q.lines))
	}
}

func TestIntakeRefusesWhatIsTooMuch(t *testing.T) {
	q := newIntake[struct{}](5, 3)
	put := func(tenant string) error { return q.put(&task[struct{}]{op: &Operation{Tenant: tenant}}) }
	for i := range 4 {
		if err := put("hot"); (err != nil) != (i == 3) || err != nil && !errors.Is(err, ErrOverloaded) {
			t.Errorf("command %d of one tenant: %v", i, err)
		}
	}
	for i := range 3 {
		if err := put("other"); (err != nil) != (i == 2) || err != nil && !errors.Is(err, ErrOverloaded) {
			t.Errorf("command %d of another: %v", i, err)
		}
	}
	q.take(make([]*task[struct{}], 0, 1))
	if err := put("other"); err != nil {
		t.Errorf("room was made: %v", err)
	}
	q.close()
	if err := put("third"); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed intake: %v", err)
	}
}
