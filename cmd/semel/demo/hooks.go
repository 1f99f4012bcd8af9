package demo

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/examples/bank"
	"github.com/semel-dev/semel/internal/crashpoint"
	"github.com/semel-dev/semel/sqlite"
)

// Where the worker answers its supervisor.
const (
	hookArm    = "/demo/arm"
	hookReport = "/demo/report"
)

// A question is what the supervisor wants to know.
type question struct {
	Account   string `json:"account"`
	Principal string `json:"principal"`
	// Opening is the operation that put the first money in; it is not counted.
	Opening string `json:"opening"`
	// Acknowledged are the operations that were answered with 2xx; the report
	// says how many of them the ledger lacks.
	Acknowledged []string `json:"acknowledged"`
}

// A report is what is in the worker's database, in its own words.
type report struct {
	Statement  bank.Statement `json:"statement"`
	Operations []operation    `json:"operations"`
	Invariants []invariant    `json:"invariants"`
	// Effects are the rows of the account's ledger; Double those of them that
	// are beyond the first of their operation.
	Effects int `json:"effects"`
	Double  int `json:"double"`
	Lost    int `json:"lost"`
}

type operation struct {
	ID         string      `json:"id"`
	Name       string      `json:"name"`
	State      semel.State `json:"state"`
	Key        string      `json:"key"`
	Cents      int64       `json:"cents"`
	Attempts   int         `json:"attempts"`
	AcceptedAt time.Time   `json:"acceptedAt,omitzero"`
	ExecutedAt time.Time   `json:"executedAt,omitzero"`
	DoneAt     time.Time   `json:"doneAt,omitzero"`
	Replays    int         `json:"replays"`
	Timeline   []moment    `json:"timeline"`
}

type invariant struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Hooks are what the demo's worker offers to its supervisor beside the bank:
// to be armed to die in the middle of a transaction, and to report.
func Hooks(engine *semel.Engine[sqlite.Tx], db *sql.DB) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+hookArm, func(w http.ResponseWriter, _ *http.Request) {
		crashpoint.Arm(crashpoint.AfterHandlers)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST "+hookReport, func(w http.ResponseWriter, r *http.Request) {
		var q question
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		found, err := look(r.Context(), engine, db, q)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, found)
	})
	return mux
}

func look(ctx context.Context, engine *semel.Engine[sqlite.Tx], db *sql.DB, q question) (report, error) {
	var found report
	var err error
	if found.Statement, err = bank.ReadStatement(ctx, db, q.Account); err != nil {
		return found, err
	}
	ops, err := engine.Operations(ctx, semel.OperationQuery{Principal: q.Principal, ByAcceptance: true, Newest: true, Limit: kept})
	if err != nil {
		return found, err
	}
	for _, op := range ops {
		found.Operations = append(found.Operations, show(op))
	}
	invariants, err := bank.Invariants(ctx, db)
	if err != nil {
		return found, err
	}
	for _, i := range invariants {
		found.Invariants = append(found.Invariants, showInvariant(i))
	}
	return found, found.count(ctx, db, q)
}

// count asks the ledger, which has no unique key: what happened twice is in
// it twice.
func (found *report) count(ctx context.Context, db *sql.DB, q question) error {
	acknowledged, err := json.Marshal(q.Acknowledged)
	if err != nil {
		return err
	}
	return db.QueryRowContext(ctx, `
		SELECT count(*), count(*) - count(DISTINCT operation),
			(SELECT count(*) FROM json_each(?2) WHERE value NOT IN (SELECT operation FROM ledger))
		FROM ledger WHERE account = ?1 AND operation <> ?3`, q.Account, string(acknowledged), q.Opening).
		Scan(&found.Effects, &found.Double, &found.Lost)
}

func showInvariant(i bank.Invariant) invariant {
	if len(i.Problems) > 0 {
		return invariant{Name: i.Name, Detail: strings.Join(i.Problems, "; ")}
	}
	return invariant{Name: i.Name, OK: true, Detail: fmt.Sprintf("%d checked", i.Checked)}
}

func show(op *semel.Operation) operation {
	var amount struct {
		Cents int64 `json:"cents"`
	}
	_ = json.Unmarshal(op.Body, &amount) // commands without an amount show 0
	return operation{
		ID: op.ID.String(), Name: op.Name, State: op.State, Key: op.Key, Cents: amount.Cents, Attempts: op.Attempts,
		AcceptedAt: op.AcceptedAt, ExecutedAt: op.ExecutedAt, DoneAt: op.DoneAt,
	}
}
