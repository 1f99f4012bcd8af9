package idempotency

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"unicode/utf8"
)

var (
	errAnswerTooLarge = errors.New("the answer is longer than Options.MaxAnswer")
	errOver           = errors.New("idempotency: the handler has returned, its ResponseWriter must not be kept")
)

// An answer is what is stored of a response, and repeated.
type answer struct {
	Status int         `json:"status"`
	Header http.Header `json:"header,omitempty"`
	// The body is in Text if it is UTF-8, so that people can read it in the
	// store, and in Bytes otherwise.
	Text  string `json:"text,omitempty"`
	Bytes []byte `json:"bytes,omitempty"`
}

// send answers with what is kept. A header that the middleware around this one
// has set as well is replaced, not doubled.
func (a *answer) send(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.Header.Clone())
	body := a.Bytes
	if a.Text != "" {
		body = []byte(a.Text)
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(body) // a client that left will ask again
}

// A response is all that a handler has said.
type response struct {
	status int
	header http.Header
	body   []byte
}

// send answers the request that the response was made for.
func (r *response) send(w http.ResponseWriter) {
	h := w.Header()
	clear(h) // what stood there is in r.header, unless the handler took it away
	maps.Copy(h, r.header)
	w.WriteHeader(r.status)
	_, _ = w.Write(r.body) // a client that left will ask again
}

// keep returns what is stored of a response.
func (r *response) keep(headers []string) answer {
	a := answer{Status: r.status, Header: make(http.Header)}
	for _, name := range headers {
		if values, ok := r.header[name]; ok {
			a.Header[name] = values
		}
	}
	if utf8.Valid(r.body) {
		a.Text = string(r.body)
	} else {
		a.Bytes = r.body
	}
	return a
}

// A recorder is the ResponseWriter that handlers are given. It has no Unwrap
// on purpose: whatever reached the writer behind it would be sent although the
// transaction may yet be rolled back.
type recorder struct {
	header http.Header // the handler's
	most   int

	mu       sync.Mutex // a handler may leave goroutines behind
	status   int
	sent     http.Header // as of WriteHeader
	body     bytes.Buffer
	tooLarge bool
	over     bool
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin(status)
}

func (w *recorder) begin(status int) {
	if status < 100 || status > 999 { // as net/http does
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	}
	if w.status != 0 || w.over || status < 200 { // an interim answer cannot be repeated
		return
	}
	w.status, w.sent = status, w.header.Clone()
}

func (w *recorder) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin(http.StatusOK)
	switch {
	case w.over:
		return 0, errOver
	case w.status == http.StatusNoContent || w.status == http.StatusNotModified:
		return 0, http.ErrBodyNotAllowed
	case w.tooLarge || len(p) > w.most-w.body.Len():
		w.tooLarge = true
		return 0, errAnswerTooLarge
	}
	return w.body.Write(p)
}

// end returns what the handler has said, and takes no more of it.
func (w *recorder) end() (*response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin(http.StatusOK)
	w.over = true
	if w.tooLarge {
		return nil, fmt.Errorf("%w: %d bytes are taken", errAnswerTooLarge, w.most)
	}
	h := w.sent
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Trailer"} { // of the server's making
		h.Del(name)
	}
	if _, given := h["Content-Type"]; !given && w.body.Len() > 0 && h.Get("Content-Encoding") == "" {
		h.Set("Content-Type", http.DetectContentType(w.body.Bytes()))
	}
	return &response{status: w.status, header: h, body: w.body.Bytes()}, nil
}
