package router

import (
	"cmp"
	"crypto/rand"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"golang.org/x/net/http/httpguts"

	"github.com/proxima-discovery/proxima/internal/router/forwarding"
)

// Headers that the router reads and writes.
const (
	headerFrom     = "Proxima-From"
	headerEndpoint = "Proxima-Endpoint"
	headerPath     = "Proxima-Path"
	headerMethod   = "Proxima-Method"
	headerInstance = "Proxima-Instance"
	headerStatus   = "Proxima-Status"
	headerTimeout  = "Proxima-Timeout"
	headerWhere    = "Proxima-Where"
)

// hopByHop are headers about one connection, and those that the sender of a
// message sets itself.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true,
	"Proxy-Authorization": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Content-Length": true, "Host": true, "Expect": true, "Http2-Settings": true,
}

// reservedHeader reports whether only the router or the NATS server may set a
// header.
func reservedHeader(canonical string) bool {
	return strings.HasPrefix(canonical, "Proxima-") || strings.HasPrefix(canonical, "Nats-")
}

// strip removes headers that a caller may not send to an instance.
func strip(h http.Header) {
	for name := range h {
		if reservedHeader(http.CanonicalHeaderKey(name)) {
			delete(h, name)
		}
	}
}

// stripTrailers removes trailers that a sender may not send: those that it may not send as
// headers, and those of a connection. A receiver may add trailers to the headers.
func stripTrailers(h http.Header, reserved func(canonical string) bool) {
	for name := range h {
		if c := http.CanonicalHeaderKey(name); hopByHop[c] || reserved(c) {
			delete(h, name)
		}
	}
}

// reservedForward reports whether only the router may tell an instance a header.
func reservedForward(canonical string) bool {
	return reservedHeader(canonical) || forwarding.Names(canonical)
}

// canonical returns the headers of a message with the names in the spelling of HTTP: a
// client of NATS may write them in any. Of names that differ in spelling only, all values
// are kept, in the order of the names.
func canonical(from nats.Header) nats.Header {
	to := make(nats.Header, len(from))
	for _, name := range slices.Sorted(maps.Keys(from)) {
		c := http.CanonicalHeaderKey(name)
		to[c] = append(to[c], from[name]...)
	}
	return to
}

// toHTTP converts the headers of a NATS message to those that an instance gets by
// HTTP.
func toHTTP(from nats.Header) (http.Header, error) {
	to := make(http.Header, len(from))
	named := connectionHeaders(from)
	for name, values := range from {
		c := http.CanonicalHeaderKey(name)
		if hopByHop[c] || named[c] || reservedHeader(c) || forwarding.Names(c) {
			continue
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, &badRequest{"header", name, "want a name of letters, digits and '-'"}
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return nil, &badRequest{"header " + c, v, "want printable text"}
			}
			to[c] = append(to[c], v)
		}
	}
	return to, nil
}

// toNATS converts the headers of an instance's HTTP answer to those that the
// caller gets by NATS.
func toNATS(from http.Header) nats.Header {
	to := make(nats.Header, len(from)+2)
	named := connectionHeaders(from)
	for name, values := range from {
		if c := http.CanonicalHeaderKey(name); !hopByHop[c] && !named[c] && !reservedHeader(c) {
			to[c] = values
		}
	}
	return to
}

// passNATS returns the headers of a NATS message that is passed on by NATS.
func passNATS(from nats.Header) nats.Header {
	to := make(nats.Header, len(from)+2)
	for name, values := range from {
		if c := http.CanonicalHeaderKey(name); !reservedHeader(c) {
			to[name] = values
		}
	}
	return to
}

// connectionHeaders returns the headers that Connection names.
func connectionHeaders[H ~map[string][]string](h H) map[string]bool {
	var named map[string]bool
	for name, values := range h {
		if !strings.EqualFold(name, "Connection") {
			continue
		}
		for _, v := range values {
			for token := range strings.SplitSeq(v, ",") {
				if named == nil {
					named = map[string]bool{}
				}
				named[http.CanonicalHeaderKey(strings.TrimSpace(token))] = true
			}
		}
	}
	return named
}

// keys finds the key of a call that consistent_hash hashes: a header or a cookie of it.
type keys struct {
	header string // canonical; empty: none
	cookie string // empty: none
	sticky string // cookie that callers without a key are given; empty: none
}

// of returns the key of a call, empty if it has none. given is the one that a router gave
// the caller, which counts when neither that nor the policy of the service finds one.
func (k *keys) of(h http.Header) (key, given string) {
	if k.header != "" {
		key = h.Get(k.header)
	}
	return cmp.Or(key, cookieOf(h, k.cookie)), cookieOf(h, k.sticky)
}

// cookieOf returns the value of a cookie, empty if there is none, or no name.
func cookieOf(h http.Header, name string) string {
	if name == "" {
		return ""
	}
	// The first one counts: it is the one of the most specific path.
	c, err := (&http.Request{Header: h}).Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// newKey is a key that no other caller has.
func newKey() string { return rand.Text() }

// stick gives the caller the key of its call as a cookie, for as long as the browser runs.
func (k *keys) stick(resp *http.Response, c *passage) {
	path := c.to.prefix
	if path == "" {
		path = "/"
	}
	cookie := http.Cookie{Name: k.sticky, Value: c.key, Path: path, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: c.secure}
	resp.Header.Add("Set-Cookie", cookie.String())
}
