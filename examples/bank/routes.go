package bank

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

// newest is how many lines of a statement are shown.
const newest = 100

// An Entry is one line of an account's statement.
type Entry struct {
	Operation string `json:"operation"`
	Command   string `json:"command"`
	Cents     int64  `json:"cents"`   // by how much the balance changed
	Balance   int64  `json:"balance"` // and what it was then
}

// A Statement is what an account looks like to who reads it.
type Statement struct {
	Account string  `json:"account"`
	Balance int64   `json:"balance"`
	Entries []Entry `json:"entries"` // the newest first, at most 100
}

// ErrUnknownAccount is returned by [ReadStatement].
var ErrUnknownAccount = errors.New("bank: unknown account")

// Routes gives the bank its URLs, beside the general ones of the gateway.
// Statements are read through db.
func Routes(g *gateway.Gateway, db *sql.DB) http.Handler {
	g.Bind("PUT /accounts/{account}/withdrawals/{key}", "withdraw")
	g.Bind("PUT /accounts/{account}/deposits/{key}", "deposit")

	mux := http.NewServeMux()
	mux.Handle("/", g)
	mux.HandleFunc("GET /accounts/{account}", func(w http.ResponseWriter, r *http.Request) {
		if _, err := Authenticate(r); err != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			problem(w, http.StatusUnauthorized, "unauthorized", `send the header "Authorization: Bearer NAME"`)
			return
		}
		account := r.PathValue("account")
		statement, err := ReadStatement(r.Context(), db, account)
		switch {
		case errors.Is(err, ErrUnknownAccount):
			problem(w, http.StatusNotFound, "not-found", "there is no account "+account)
		case err != nil:
			problem(w, http.StatusServiceUnavailable, "unavailable", "the statement cannot be read now")
		default:
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			_ = json.NewEncoder(w).Encode(statement) // an error means that the reader has gone
		}
	})
	return mux
}

// Authenticate takes the principal from "Authorization: Bearer NAME". It is
// enough for a demonstration: NAME is believed, and may use every account.
func Authenticate(r *http.Request) (gateway.Identity, error) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || name == "" {
		return gateway.Identity{}, gateway.Challenge("Bearer")
	}
	return gateway.Identity{Principal: name}, nil
}

// ReadStatement reads the projection "statement" of one account.
func ReadStatement(ctx context.Context, db *sql.DB, account string) (Statement, error) {
	s := Statement{Account: account}
	rows, err := db.QueryContext(ctx, `SELECT operation, command, cents, balance FROM statement
		WHERE account = ? ORDER BY position DESC LIMIT ?`, account, newest)
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var e Entry
		if err := rows.Scan(&e.Operation, &e.Command, &e.Cents, &e.Balance); err != nil {
			return s, err
		}
		s.Entries = append(s.Entries, e)
	}
	if err := rows.Err(); err != nil {
		return s, err
	}
	if len(s.Entries) == 0 { // opening an account is its first line
		return s, ErrUnknownAccount
	}
	s.Balance = s.Entries[0].Balance
	return s, nil
}

func problem(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type": semel.ProblemTypes + kind, "title": http.StatusText(status), "status": status, "detail": detail,
	})
}
