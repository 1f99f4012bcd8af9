package semel_test

import (
	"testing"
	"time"

	"github.com/semel-dev/semel"
)

// Two engines on one store stand for two replicas: who watches at the one
// hears of what the other did.
func TestAWatcherHearsOfAnotherEngine(t *testing.T) {
	ctx := t.Context()
	store, remove := openAccounts(ctx)
	defer remove()
	here, there := semel.New(store, nil), semel.New(store, nil)
	semel.Handle(there, "withdraw", withdraw, nil)
	defer run(here)()
	defer run(there)()
	watch := here.Watch("", "alice")
	defer watch.Close()
	if _, err := there.Submit(ctx, semel.Command{
		Principal: "alice", Name: "withdraw", Key: "1", Body: []byte(`{"account":"alice","cents":1}`),
	}, semel.SubmitOptions{}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for {
		select {
		case <-watch.C:
		case <-deadline:
			t.Fatal("no wake-up for another engine's outcome")
		}
		ops, err := here.Operations(ctx, semel.OperationQuery{Principal: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		if len(ops) == 1 {
			return
		}
	}
}
