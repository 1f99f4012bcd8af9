package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// dial opens a socket that is given up after half a minute.
func (b *bank) dial(who, query string, headers ...string) (*websocket.Conn, *http.Response) {
	b.t.Helper()
	conn, response, err := b.tryDial(who, query, headers...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.CloseNow() })
	return conn, response
}

func (b *bank) tryDial(who, query string, headers ...string) (*websocket.Conn, *http.Response, error) {
	b.t.Helper()
	r := b.request(b.t.Context(), who, "GET", "/operations/socket"+query, append([]string{""}, headers...)...)
	conn, response, err := websocket.Dial(b.t.Context(), strings.Replace(r.URL.String(), "http", "ws", 1),
		&websocket.DialOptions{HTTPClient: b.client, HTTPHeader: r.Header})
	if err == nil {
		conn.SetReadLimit(1 << 20)
	}
	return conn, response, err
}

// hear returns the next message, which comes.
func (b *bank) hear(conn *websocket.Conn) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	_, data, err := conn.Read(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}
