package webhook

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/semel-dev/semel"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		addresses string
		ok        bool
	}{
		{"1.1.1.1 8.8.8.8 93.184.215.14 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 169.253.255.255 223.255.255.255", true},
		{"2606:4700:4700::1111 2a00:1450:4001:80b::200e 2001:4860:4860::8888 ::ffff:8.8.8.8", true},
		{"127.0.0.1 127.255.255.255 0.0.0.0 0.1.2.3", false},
		{"10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1", false},
		{"169.254.169.254 100.64.0.1 100.100.100.200 100.127.255.255", false},
		{"192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1", false},
		{"224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255", false},
		{"::1 :: ::2 fe80::1 fe80::1%eth0 fec0::1 fc00::1 fd00:ec2::254 ff02::1", false},
		{"::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1", false},
		{"64:ff9b::a00:1 64:ff9b::808:808 64:ff9b:1::1 100::1 5f00::1 4000::1", false},
		{"2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 3fff::1", false},
	} {
		for text := range strings.FieldsSeq(tt.addresses) {
			err := (&Options{}).check(netip.MustParseAddr(text))
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrAddress) {
				t.Errorf("%s: got %v, want it taken: %v", text, err, tt.ok)
			}
		}
	}
	o := &Options{Allow: prefixes("10.1.0.0/16", "fd00::/8")}
	for text, ok := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "fd00::1": true, "fc00::1": false} {
		if err := o.check(netip.MustParseAddr(text)); (err == nil) != ok {
			t.Errorf("%s with an exception: got %v, want it taken: %v", text, err, ok)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), options("", ""), nil)
	defer s.store.Close()
	s.sender.options.Insecure = false
	s.sender.options.Allow = nil
	sound := Endpoint{ID: "main", URL: "https://shop.example/hook?token=hunter2", Secrets: []string{NewSecret()}, Events: []string{semel.EventFailed}}
	if err := s.sender.Check(sound); err != nil {
		t.Errorf("a sound endpoint is refused: %v", err)
	}
	for _, tt := range []struct {
		change func(e *Endpoint)
		want   string
	}{
		{func(e *Endpoint) { e.ID = "" }, `id ""`},
		{func(e *Endpoint) { e.ID = "a\xff" }, `id "a\xff"`},
		{func(e *Endpoint) { e.URL = "http://shop.example/hunter2" }, `scheme is "http"`},
		{func(e *Endpoint) { e.URL = "https://alice:hunter2@shop.example/" }, "user name"},
		{func(e *Endpoint) { e.URL = "https:///hunter2" }, "no host"},
		{func(e *Endpoint) { e.URL = "https://shop.example:hunter2/" }, "does not parse"},
		{func(e *Endpoint) { e.URL = "https://169.254.169.254/hunter2" }, "169.254.169.254 is not of the public internet"},
		{func(e *Endpoint) { e.URL = "https://[::ffff:127.0.0.1]/hunter2" }, "127.0.0.1 is not of the public internet"},
		{func(e *Endpoint) { e.Secrets = []string{"hunter2"} }, "secret number 1"},
		{func(e *Endpoint) { e.Events = []string{"operation.hunted"} }, `"operation.hunted"`},
	} {
		e := sound
		tt.change(&e)
		err := s.sender.Check(e)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q %q: got %v, want it to contain %q and no secret", e.ID, e.URL, err, tt.want)
		}
	}
}

// TestInsideIsRefused: with nothing allowed, no form of loopback is called.
func TestInsideIsRefused(t *testing.T) {
	t.Parallel()
	rc := &receiver{}
	server := serve(t, rc)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// What is no address is left to the resolver: some take it for one.
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "2130706433", "0x7f.1", "127.1", "017700000001"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			o := options("http://"+host+":"+port+"/", NewSecret())
			o.Allow = nil
			s := open(t, filepath.Join(t.TempDir(), "shop.db"), hasty(o, 2), nil).run()
			s.sell("1", `{"article":"tea"}`)
			op := s.settled(1)[0]
			if op.State != semel.Failed {
				t.Errorf("the delivery is %s", op.State)
			}
			if strings.Contains(op.Reason, "not of the public internet") && (op.Disposition != semel.Terminal || op.Attempts != 1) {
				t.Errorf("a refused address was tried again: %d attempts, %s", op.Attempts, op.Disposition)
			}
			if got := rc.requests(); len(got) != 0 {
				t.Errorf("%d requests came through", len(got))
			}
		})
	}
}

// A nameserver answers questions for A records over UDP, each time with what
// addresses says.
type nameserver struct {
	conn net.PacketConn
	mu   sync.Mutex
	// addresses returns the answer to the nth question, which counts from 1.
	addresses func(n int) []string
	asked     int
}

func serveNames(t *testing.T, addresses func(n int) []string) *nameserver {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ns := &nameserver{conn: conn, addresses: addresses}
	ended := make(chan struct{})
	go func() { defer close(ended); ns.run() }()
	t.Cleanup(func() { conn.Close(); <-ended })
	return ns
}

func (ns *nameserver) run() {
	buf := make([]byte, 1500)
	for {
		n, from, err := ns.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer := ns.answer(buf[:n]); answer != nil {
			_, _ = ns.conn.WriteTo(answer, from)
		}
	}
}

// answer makes a message of RFC 1035: the header, the question as it came, and
// for type A its records; other types have none.
func (ns *nameserver) answer(question []byte) []byte {
	end := 12
	for end < len(question) && question[end] != 0 {
		end += int(question[end]) + 1
	}
	end += 5 // the root, type and class
	if end > len(question) {
		return nil
	}
	var addresses []string
	if binary.BigEndian.Uint16(question[end-4:]) == 1 {
		ns.mu.Lock()
		ns.asked++
		addresses = ns.addresses(ns.asked)
		ns.mu.Unlock()
	}
	m := append([]byte(nil), question[:2]...)
	m = append(m, 0x81, 0x80, 0, 1, 0, byte(len(addresses)), 0, 0, 0, 0)
	m = append(m, question[12:end]...)
	for _, a := range addresses {
		m = append(m, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name above, A, IN, for 0 seconds
		m = append(m, netip.MustParseAddr(a).AsSlice()...)
	}
	return m
}

func (ns *nameserver) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp4", ns.conn.LocalAddr().String())
	}}
}

// TestRebinding: a name that resolves to a public address for whoever checks
// it, and to an inside one when the connection is made.
func TestRebinding(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		later   []string // after the first question
		allow   []netip.Prefix
		through bool
	}{
		{"to loopback", []string{"127.0.0.1"}, nil, false},
		{"to several", []string{"127.0.0.1", "169.254.169.254", "10.0.0.1"}, nil, false},
		{"to one that is allowed", []string{"127.0.0.1"}, loopback, true}, // the name server works
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rc := &receiver{}
			server := serve(t, rc)
			_, port, err := net.SplitHostPort(server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			ns := serveNames(t, func(n int) []string {
				if n == 1 {
					return []string{"93.184.215.14"}
				}
				return tt.later
			})
			o := options("http://rebinding.example.com:"+port+"/", NewSecret())
			o.Resolver, o.Allow = ns.resolver(), tt.allow
			s := open(t, filepath.Join(t.TempDir(), "shop.db"), hasty(o, 3), nil).run()
			checked, err := o.Resolver.LookupNetIP(t.Context(), "ip4", "rebinding.example.com")
			if err != nil || len(checked) != 1 || s.sender.options.check(checked[0]) != nil {
				t.Fatalf("the first look finds %v, %v; it should find a public address", checked, err)
			}
			s.sell("1", `{"article":"tea"}`)
			op := s.settled(1)[0]
			if through := op.State == semel.Completed; through != tt.through || through != (len(rc.requests()) == 1) {
				t.Errorf("the delivery is %s after %d requests: %s", op.State, len(rc.requests()), op.Reason)
			}
			if !tt.through && (op.Disposition != semel.Terminal || !strings.Contains(op.Reason, "127.0.0.1 is not of the public internet")) {
				t.Errorf("the delivery failed as %s: %s", op.Disposition, op.Reason)
			}
		})
	}
}

// TestRedirects are not followed, wherever they lead.
func TestRedirects(t *testing.T) {
	t.Parallel()
	inner := &receiver{}
	inside := serve(t, inner)
	for _, code := range []int{301, 302, 303, 307, 308} {
		rc := &receiver{answer: func(_ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, inside.URL, code)
		}}
		server := serve(t, rc)
		s := open(t, filepath.Join(t.TempDir(), "shop.db"), hasty(options(server.URL, NewSecret()), 2), nil).run()
		s.sell("1", `{"article":"tea"}`)
		if op := s.settled(1)[0]; op.State != semel.Failed || !strings.Contains(op.Reason, "redirects are not followed") || len(rc.requests()) != 2 {
			t.Errorf("%d: the delivery is %s after %d requests: %s", code, op.State, len(rc.requests()), op.Reason)
		}
	}
	if got := inner.requests(); len(got) != 0 {
		t.Errorf("%d requests were redirected", len(got))
	}
}

// TestNoProxy: a proxy would connect for us, to addresses that nobody checks.
func TestNoProxy(t *testing.T) {
	proxied := &receiver{}
	proxy := httptest.NewServer(proxied)
	defer proxy.Close()
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	request := &http.Request{URL: &url.URL{Scheme: "http", Host: "shop.example"}}
	if found, err := http.ProxyFromEnvironment(request); err != nil || found == nil {
		t.Fatalf("the environment's proxy is %v, %v: this test shows nothing", found, err)
	}
	o := options("http://shop.example.invalid/", NewSecret())
	o.Resolver = serveNames(t, func(int) []string { return nil }).resolver()
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), hasty(o, 1), nil).run()
	s.sell("1", `{"article":"tea"}`)
	if op := s.settled(1)[0]; op.State != semel.Failed || len(proxied.requests()) != 0 {
		t.Errorf("the delivery is %s; the proxy got %d requests", op.State, len(proxied.requests()))
	}
}
