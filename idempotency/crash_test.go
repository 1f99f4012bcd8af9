package idempotency_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/idempotency"
	"github.com/semel-dev/semel/sqlite"
)

// childMode is the environment variable that makes this test binary a server;
// its value is the server's folder.
const childMode = "SEMEL_IDEMPOTENCY_CHILD"

// TestCrash kills a real process between an effect and its answer, and holds
// what the documents say of that to what is there afterwards.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		effect, die string
		effects     int
		replayed    bool
	}{
		// Nothing of the effect is left, and the repeat makes it.
		{"within", "before-answer", 1, false},
		// The effect was there, the key was not: the repeat makes it again.
		{"apart", "before-answer", 2, false},
		// Both are stored. Only the answer did not leave.
		{"within", "after-commit", 1, true},
		{"apart", "after-commit", 1, true},
	} {
		t.Run(tt.effect+" "+tt.die, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			url := serve(t, dir)
			if _, err := post(t, url+"/"+tt.effect, tt.die); err == nil {
				t.Fatal("the process did not die")
			}
			url = serve(t, dir)
			for i, want := range []bool{tt.replayed, true} {
				response, err := post(t, url+"/"+tt.effect, "")
				if err != nil {
					t.Fatal(err)
				}
				if response.StatusCode != http.StatusCreated || (response.Header.Get("Idempotent-Replayed") == "true") != want {
					t.Errorf("repeat %d: %d %v", i+1, response.StatusCode, response.Header)
				}
			}
			response, err := fresh.Get(url + "/effects/" + tt.effect)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var effects int
			if _, err := fmt.Fscan(response.Body, &effects); err != nil || effects != tt.effects {
				t.Errorf("%d effects, %v, want %d", effects, err, tt.effects)
			}
		})
	}
}

func post(t *testing.T, url, die string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer alice")
	r.Header.Set("Idempotency-Key", "k")
	if die != "" {
		r.Header.Set("X-Die", die)
	}
	response, err := fresh.Do(r)
	if err == nil {
		response.Body.Close()
	}
	return response, err
}

// fresh has a connection for each request: on one that was used before, Go's
// transport sends a request with a key again by itself.
var fresh = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// serve starts this test binary as a server and returns where it listens.
func serve(t *testing.T, dir string) (url string) {
	t.Helper()
	server := exec.CommandContext(t.Context(), os.Args[0])
	server.Env = append(os.Environ(), childMode+"="+dir)
	server.Stderr = os.Stderr
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the server says %q: %v", line, err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed, which is an error
	})
	return strings.TrimSpace(line)
}

// child serves until it is killed, by its parent or by itself.
func child(dir string) {
	ctx := context.Background()
	store, err := sqlite.Open(ctx, filepath.Join(dir, "shop.db"), nil)
	for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); {
		store, err = sqlite.Open(ctx, filepath.Join(dir, "shop.db"), nil) // the one before is still dying
	}
	if err == nil {
		err = createOrders(ctx, store)
	}
	var listener net.Listener
	if err == nil {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	engine := semel.New(store, nil)
	go func() { _ = engine.Run(ctx) }()
	once := idempotency.New(engine, &idempotency.Options{Authenticate: authenticate})
	mux := http.NewServeMux()
	mux.Handle("POST /within", dieAnswering(once(http.HandlerFunc(within))))
	mux.Handle("POST /apart", dieAnswering(once(apart(filepath.Join(dir, "effects")))))
	mux.HandleFunc("GET /effects/within", func(w http.ResponseWriter, r *http.Request) {
		var n int
		_ = store.Reader().QueryRowContext(r.Context(), `SELECT count(*) FROM orders`).Scan(&n)
		fmt.Fprintln(w, n)
	})
	mux.HandleFunc("GET /effects/apart", func(w http.ResponseWriter, _ *http.Request) {
		effects, _ := os.ReadFile(filepath.Join(dir, "effects"))
		fmt.Fprintln(w, len(effects))
	})
	fmt.Println("http://" + listener.Addr().String())
	fmt.Fprintln(os.Stderr, http.Serve(listener, mux))
	os.Exit(1)
}

// within has its effect in the given transaction.
func within(w http.ResponseWriter, r *http.Request) {
	if _, err := order(r, "x"); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if r.Header.Get("X-Die") == "before-answer" {
		die()
	}
	w.WriteHeader(http.StatusCreated)
}

// apart has its effect elsewhere: a byte in a file.
func apart(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = file.WriteString("x")
		}
		if err == nil {
			err = file.Close()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if r.Header.Get("X-Die") == "before-answer" {
			die()
		}
		w.WriteHeader(http.StatusCreated)
	}
}

// dieAnswering dies after everything is stored and before a byte is sent.
func dieAnswering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Die") == "after-commit" {
			w = mortal{w}
		}
		next.ServeHTTP(w, r)
	})
}

type mortal struct{ http.ResponseWriter }

func (mortal) WriteHeader(int) { die() }

func die() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		os.Exit(2)
	}
	select {}
}
