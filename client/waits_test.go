package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/client"
)

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	// A bubble's clock starts at midnight of 2000-01-01, a Saturday.
	for _, tt := range []struct {
		name   string
		status int
		header []string
		want   time.Duration
	}{
		{"seconds", 503, []string{"Retry-After", "7"}, 7 * time.Second},
		{"throttled", 429, []string{"Retry-After", "7"}, 7 * time.Second},
		{"date", 503, []string{"Retry-After", "Sat, 01 Jan 2000 00:00:09 GMT"}, 9 * time.Second},
		{"date by a server whose clock is a day ahead", 503,
			[]string{"Retry-After", "Sun, 02 Jan 2000 00:00:05 GMT", "Date", "Sun, 02 Jan 2000 00:00:00 GMT"}, 5 * time.Second},
		{"date in the past", 503, []string{"Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"}, 0},
		{"too long", 503, []string{"Retry-After", "86400"}, 40 * time.Second},
		{"a year", 503, []string{"Retry-After", "Mon, 01 Jan 2001 00:00:00 GMT"}, 40 * time.Second},
		{"nonsense", 503, []string{"Retry-After", "soon"}, 0},
		{"none", 503, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: []http.HandlerFunc{answer(tt.status, "", tt.header...), answer(200, `{}`)}}
				c := connect(t, s.ServeHTTP, client.Options{Wait: atOnce, MaxRetryAfter: 40 * time.Second})
				if _, err := c.Call(t.Context(), "withdraw", nil, nil); err != nil {
					t.Fatal(err)
				}
				r := s.requests()
				if got := r[1].at.Sub(r[0].at); got != tt.want {
					t.Errorf("came back after %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestWaits(t *testing.T) {
	t.Parallel()
	waits := func(t *testing.T, o client.Options, steps ...http.HandlerFunc) []time.Duration {
		var got []time.Duration
		synctest.Test(t, func(t *testing.T) {
			s := &script{steps: steps}
			if _, err := connect(t, s.ServeHTTP, o).Call(t.Context(), "withdraw", nil, nil); err == nil {
				t.Error("no error")
			}
			r := s.requests()
			for i := range len(r) - 1 {
				got = append(got, r[i+1].at.Sub(r[i].at))
			}
		})
		return got
	}
	t.Run("full jitter", func(t *testing.T) {
		seen := map[time.Duration]bool{}
		for range 10 {
			got := waits(t, client.Options{Tries: 5}, answer(500, ""))
			if len(got) != 4 {
				t.Fatalf("%d waits, want 4", len(got))
			}
			for i, w := range got {
				if ceiling := 100 * time.Millisecond << i; w > ceiling {
					t.Errorf("wait %d is %v, more than %v", i+1, w, ceiling)
				}
				seen[w] = true
			}
		}
		if len(seen) < 35 {
			t.Errorf("only %d of 40 waits differ: callers who failed together come back together", len(seen))
		}
	})
	t.Run("by class", func(t *testing.T) {
		got := waits(t, client.Options{Tries: 4, Wait: atOnce, ByClass: map[client.Class]client.Policy{
			client.ClassServer:    client.Fixed(3 * time.Second),
			client.ClassThrottled: client.Fixed(time.Minute),
		}}, answer(500, ""), lost, answer(429, "", "Retry-After", "5"), lost)
		want := []time.Duration{3 * time.Second, 0, 65 * time.Second}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("waits %v, want %v", got, want)
		}
	})
}

func TestAccepted(t *testing.T) {
	t.Parallel()
	done := func(state, rest string) http.HandlerFunc {
		return answer(200, fmt.Sprintf(`{"id":%q,"state":%q,"done":true,%s}`, operation, state, rest))
	}
	for _, tt := range []struct {
		name  string
		steps []http.HandlerFunc
		want  string // the error
		took  time.Duration
		tries int
	}{
		{"held by the server", []http.HandlerFunc{accepted, after(20*time.Second, open), after(3*time.Second, completed)}, "", 23 * time.Second, 3},
		{"not held by the server", []http.HandlerFunc{accepted, open, open, completed}, "", 2 * time.Second, 4},
		{"told when to come", []http.HandlerFunc{
			answer(202, `{}`, "Location", "http://elsewhere.test/x/operations/"+operation.String(), "Retry-After", "4"), completed}, "", 4 * time.Second, 2},
		{"long, with failures between", []http.HandlerFunc{lost, accepted, lost, open, lost, lost, open, answer(502, ""), completed}, "", 2 * time.Second, 9},
		{"another operation is no answer", []http.HandlerFunc{accepted, answer(200, `{"id":"x","done":true,"state":"completed"}`), answer(200, `no`), completed}, "", 0, 4},
		{"rejected", []http.HandlerFunc{accepted, done("rejected", `"error":{"code":"insufficient_funds","reason":"alice cannot"}`)},
			"rejected (insufficient_funds): alice cannot", 0, 2},
		{"failed", []http.HandlerFunc{accepted, lost, done("failed", `"error":{"code":"exhausted","reason":"disk on fire"}`)},
			"withdraw: the operation failed (exhausted): disk on fire", 0, 3},
		{"canceled", []http.HandlerFunc{accepted, done("canceled", `"x":0`)}, "withdraw: the operation was canceled", 0, 2},
		{"out of the window", []http.HandlerFunc{accepted, problem(410, "idempotency-key-expired", "")}, "withdraw: 410 idempotency-key-expired", 0, 2},
		{"unknown state", []http.HandlerFunc{accepted, done("odd", `"x":0`)}, `withdraw: the operation is done in state "odd"`, 0, 2},
		{"never done", []http.HandlerFunc{accepted, after(20*time.Second, open)}, "withdraw: no outcome within 10m0s", 10 * time.Minute, 31},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: tt.steps}
				c := connect(t, s.ServeHTTP, client.Options{Tries: 3, Wait: atOnce, MaxElapsed: 10 * time.Minute})
				start := time.Now()
				var result struct{ Balance int }
				reply, err := c.Call(t.Context(), "withdraw", nil, &result)
				if tt.want != "" {
					if err == nil || err.Error() != tt.want {
						t.Errorf("error %v, want %s", err, tt.want)
					}
					checkNames(t, err)
				} else if err != nil {
					t.Fatal(err)
				} else if result.Balance != 70 || !reply.Done || reply.Operation != operation.String() || reply.Resource != "accounts/alice" || reply.Tries != tt.tries {
					t.Errorf("result %+v of reply %+v", result, reply)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if n := len(s.requests()); n != tt.tries {
					t.Errorf("%d requests, want %d", n, tt.tries)
				}
				for _, r := range s.requests() {
					if r.method == "GET" && (r.path != "/operations/"+operation.String() || r.header.Get("Prefer") != "wait=20") {
						t.Errorf("polled %s with %v", r.path, r.header)
					}
				}
			})
		})
	}
}

// checkNames: an error after acceptance names the operation and the key.
func checkNames(t *testing.T, err error) {
	t.Helper()
	var e *client.Error
	var r *client.Rejected
	switch {
	case errors.As(err, &e):
		if e.Operation != operation.String() || e.Key == "" {
			t.Errorf("%+v does not name the operation and the key", e)
		}
	case errors.As(err, &r):
		var inner *semel.Rejection
		if r.Operation != operation.String() || r.Key == "" || !errors.As(err, &inner) || inner.Code != "insufficient_funds" {
			t.Errorf("%+v does not name the operation, the key and the code", r)
		}
	default:
		t.Errorf("%T %v", err, err)
	}
}

func TestAsync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []http.HandlerFunc{lost, accepted, completed}}
		c := connect(t, s.ServeHTTP, client.Options{Wait: atOnce})
		reply, err := c.Send(t.Context(), client.Request{Command: "withdraw", Async: true})
		if err != nil {
			t.Fatal(err)
		}
		if reply.Done || reply.Operation != operation.String() || reply.Status != 202 || reply.Body != nil || len(s.requests()) != 2 {
			t.Errorf("reply %+v after %d requests", reply, len(s.requests()))
		}
	})
}

func TestShortPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []http.HandlerFunc{accepted, open, completed}}
		c := connect(t, s.ServeHTTP, client.Options{TryTimeout: time.Second})
		if _, err := c.Call(t.Context(), "withdraw", nil, nil); err != nil {
			t.Fatal(err)
		}
		// A wait of whole seconds would outlast the try.
		if r := s.requests(); r[0].header.Get("Prefer") != "respond-async" || r[1].header.Get("Prefer") != "" {
			t.Errorf("preferences %q and %q", r[0].header.Get("Prefer"), r[1].header.Get("Prefer"))
		}
	})
}

func TestTheCallersContext(t *testing.T) {
	t.Parallel()
	errShutdown := errors.New("shutting down")
	for _, tt := range []struct {
		name   string
		cancel time.Duration // the context is canceled after this
		limit  time.Duration // the context's deadline; 0 means none
		steps  []http.HandlerFunc
		want   string
		took   time.Duration
		is     []error
	}{
		{"canceled within a try", 5 * time.Second, 0, []http.HandlerFunc{silent},
			"withdraw: canceled by the caller: context canceled: shutting down", 5 * time.Second,
			[]error{client.ClassCanceled, context.Canceled, errShutdown}},
		{"canceled within a try, after failures", 5 * time.Second, 0, []http.HandlerFunc{lost, lost, answer(503, ""), silent},
			"withdraw: canceled after 4 tries: connection closed before the answer (×2); 503 Service Unavailable (×1); canceled by the caller: context canceled: shutting down (×1)",
			5 * time.Second, []error{client.ClassCanceled, client.ClassReset, client.ClassServer, context.Canceled}},
		{"canceled within a wait", 5 * time.Second, 0, []http.HandlerFunc{answer(503, "", "Retry-After", "30")},
			"withdraw: canceled after 1 try: 503 Service Unavailable (×1); canceled by the caller: context canceled: shutting down (×1)",
			5 * time.Second, []error{client.ClassCanceled, client.ClassServer}},
		{"canceled within a poll", 5 * time.Second, 0, []http.HandlerFunc{accepted, silent},
			"withdraw: canceled by the caller: context canceled: shutting down", 5 * time.Second, []error{context.Canceled}},
		{"canceled between polls", 1500 * time.Millisecond, 0, []http.HandlerFunc{accepted, open},
			"withdraw: canceled by the caller: context canceled: shutting down", 1500 * time.Millisecond, []error{context.Canceled}},
		{"deadline within a try", 0, 5 * time.Second, []http.HandlerFunc{silent},
			"withdraw: canceled by the caller: context deadline exceeded", 5 * time.Second,
			[]error{client.ClassCanceled, context.DeadlineExceeded}},
		{"deadline before the next try", 0, 5 * time.Second, []http.HandlerFunc{answer(503, "", "Retry-After", "30")},
			"withdraw: 503 Service Unavailable", 0, []error{client.ClassServer}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, func() { cancel(errShutdown) })
				}
				if tt.limit > 0 {
					limited, stop := context.WithTimeout(ctx, tt.limit)
					defer stop()
					ctx = limited
				}
				c := connect(t, (&script{steps: tt.steps}).ServeHTTP, client.Options{Wait: atOnce})
				start := time.Now()
				_, err := c.Call(ctx, "withdraw", nil, nil)
				if err == nil || err.Error() != tt.want {
					t.Errorf("error %v\n want %s", err, tt.want)
				}
				for _, is := range tt.is {
					if !errors.Is(err, is) {
						t.Errorf("%v is not %v", err, is)
					}
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
			})
		})
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		options client.Options
		steps   []http.HandlerFunc
		want    string
		took    time.Duration
	}{
		{"each try", client.Options{Tries: 3}, []http.HandlerFunc{silent}, "withdraw: no answer within 30s", 90 * time.Second},
		{"body that stalls", client.Options{Tries: 2}, []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			silent(w, r)
		}}, "withdraw: no answer within 30s", time.Minute},
		{"by the given HTTP client", client.Options{Tries: 2, HTTP: &http.Client{Timeout: time.Second}}, []http.HandlerFunc{silent},
			"withdraw: no answer within 1s", 2 * time.Second},
		{"the whole call", client.Options{MaxElapsed: 45 * time.Second}, []http.HandlerFunc{silent},
			"withdraw: gave up after 2 tries: no answer within 30s (×1); no outcome within 45s (×1)", 45 * time.Second},
		{"no time for another try", client.Options{MaxElapsed: 45 * time.Second}, []http.HandlerFunc{answer(408, "", "Retry-After", "50")},
			"withdraw: 408 Request Timeout", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.options.Wait = atOnce
				c := connect(t, (&script{steps: tt.steps}).ServeHTTP, tt.options)
				start := time.Now()
				_, err := c.Call(t.Context(), "withdraw", nil, nil)
				if err == nil || err.Error() != tt.want || !errors.Is(err, client.ClassTimeout) || errors.Is(err, client.ClassCanceled) {
					t.Errorf("error %v\n want %s", err, tt.want)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
			})
		})
	}
}
