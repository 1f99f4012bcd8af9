package webhook

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

// ErrAddress: the endpoint's address is not of the public internet, and
// [Options].Allow does not name it. The delivery becomes a dead letter.
var ErrAddress = errors.New("webhook: the address may not be called")

// inside lists the addresses that are not of the public internet: the special
// purpose registries of IANA (RFC 6890). Of IPv6 only 2000::/3 is given out at
// all, so what lies elsewhere (loopback, link-local, unique local, multicast,
// NAT64) needs no entry; those here lie within it.
var inside = prefixes(
	"0.0.0.0/8",       // this network; on many systems 0.0.0.0 is loopback
	"10.0.0.0/8",      // private, RFC 1918
	"100.64.0.0/10",   // shared by a carrier's customers, and clouds' metadata
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local, and clouds' metadata
	"172.16.0.0/12",   // private
	"192.0.0.0/24",    // protocol assignments
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relays, deprecated
	"192.168.0.0/16",  // private
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, and broadcast
	"2001::/23",       // protocol assignments; Teredo carries IPv4 addresses
	"2001:db8::/32",   // documentation
	"2002::/16",       // 6to4 carries IPv4 addresses
	"3fff::/20",       // documentation
)

var globalUnicast = netip.MustParsePrefix("2000::/3")

func prefixes(texts ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		parsed[i] = netip.MustParsePrefix(text)
	}
	return parsed
}

// check reports whether an address may be called.
func (o *Options) check(a netip.Addr) error {
	a = a.Unmap().WithZone("") // ::ffff:127.0.0.1 is 127.0.0.1
	holds := func(p netip.Prefix) bool { return p.Contains(a) }
	switch {
	case slices.ContainsFunc(o.Allow, holds):
		return nil
	case !a.IsValid(), a.Is6() && !globalUnicast.Contains(a), slices.ContainsFunc(inside, holds):
		return fmt.Errorf("%w: %s is not of the public internet", ErrAddress, a)
	}
	return nil
}

// control is called for every connection between resolving and connecting.
// A check of the name, or of an address looked up before, would be of another
// moment than the connection: the name's owner decides what it resolves to.
func (o *Options) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q has no address and port", ErrAddress, address)
	}
	return o.check(at.Addr())
}

// target parses an endpoint's URL. Errors do not repeat it: paths and queries
// of webhooks often hold secrets.
func (o *Options) target(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("the URL does not parse")
	case u.Scheme != "https" && (u.Scheme != "http" || !o.Insecure):
		return nil, fmt.Errorf("the URL's scheme is %q; https is taken", u.Scheme)
	case u.Hostname() == "":
		return nil, errors.New("the URL names no host")
	case u.User != nil:
		return nil, errors.New("the URL holds a user name; requests are signed instead")
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := o.check(a); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// client returns the client for all endpoints.
func (o *Options) client() *http.Client {
	const step = 5 * time.Second
	dialer := &net.Dialer{Timeout: step, Resolver: o.Resolver, Control: o.control}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // it would connect for us, past the check
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
			TLSHandshakeTimeout:    step,
			ResponseHeaderTimeout:  o.Timeout,
			MaxResponseHeaderBytes: 16 << 10,
			MaxIdleConnsPerHost:    o.Concurrency,
			MaxIdleConns:           256,
			IdleConnTimeout:        30 * time.Second,
			DisableCompression:     true, // a small body could become a large one
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
