// Package recipes puts package idempotency into routers that are not of the
// standard library: chi, echo and gin. It is a module of its own, so that
// nobody who imports Semel has to download them.
//
// A whole router of any make can stand behind the middleware, since each is a
// [net/http.Handler]. The recipes are for single routes, where the router has
// matched already: the key is then scoped by the route's pattern, and other
// middleware of the router can stand in front.
package recipes

import (
	"context"
	"errors"
	"net/http"

	"github.com/semel-dev/semel/idempotency"
	"github.com/semel-dev/semel/sqlite"
)

// A Middleware is what [idempotency.New] returns.
type Middleware = func(http.Handler) http.Handler

// ErrSoldOut is the shop's no.
var ErrSoldOut = errors.New("sold out")

// An Order is the answer.
type Order struct {
	Number int64  `json:"number"`
	Item   string `json:"item"`
}

// Place takes an order in the transaction that its answer is stored in.
func Place(ctx context.Context, item string) (Order, error) {
	o := Order{Item: item}
	u, ok := idempotency.Unit[sqlite.Tx](ctx)
	if !ok {
		return o, errors.New("the route is not behind the middleware, or the request has no key")
	}
	err := u.Tx.QueryRowContext(ctx, `INSERT INTO orders (item) VALUES (?) RETURNING number`, item).Scan(&o.Number)
	if err == nil && item == "unicorn" { // what was written is rolled back with the answer that says no
		err = ErrSoldOut
	}
	return o, err
}
