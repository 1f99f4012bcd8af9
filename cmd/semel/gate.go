package main

import (
	"context"
	"net/http"
	"sync"
)

// A gate lets requests in while the server is ready, and knows who is inside.
// Closing it, rather than the listener, lets a caller who comes too late hear
// "503, try again" instead of a refused connection. It begins closed.
type gate struct {
	mu     sync.Mutex
	open   bool
	inside int
	empty  chan struct{} // set by shut, closed when nobody is inside
}

func (g *gate) admit() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
}

func (g *gate) ready() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// shut lets nobody in any more and waits until those inside have left, or ctx
// ends.
func (g *gate) shut(ctx context.Context) error {
	g.mu.Lock()
	g.open = false
	empty := make(chan struct{})
	if g.inside == 0 {
		close(empty)
	} else {
		g.empty = empty
	}
	g.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		g.inside++
	}
	return g.open
}

func (g *gate) exit() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

func (g *gate) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.enter() {
			w.Header().Set("Retry-After", "1")
			w.Header().Set("Connection", "close")
			http.Error(w, "starting or draining; send it again", http.StatusServiceUnavailable)
			return
		}
		defer g.exit()
		next.ServeHTTP(w, r)
	})
}
