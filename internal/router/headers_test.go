package router_test

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/router"
)

// FuzzToHTTP makes HTTP headers of whatever a caller by NATS says: one request
// goes onto the wire, and says nothing that only the router may say.
func FuzzToHTTP(f *testing.F) {
	for _, pair := range [][2]string{
		{"Accept", "text/plain"},
		{"X-A", "a\r\nX-B: b"},
		{"Connection", "x-a, close"},
		{"Content-Length", "7"},
		{"transfer-encoding", "chunked"},
		{"Proxima-From", "a/b"},
		{"x-forwarded-for", "127.0.0.1"},
		{"X A", "x"},
		{"X-A:", "x"},
		{"", ""},
		{"ä", "ö"},
		{"Host", "evil"},
		{"x-a", "\x00"},
		{"Nats-Ttl", "1"},
	} {
		f.Add(pair[0], pair[1], "X-A", "b")
	}
	f.Fuzz(func(t *testing.T, name, value, other, more string) {
		got, err := router.ToHTTP(nats.Header{name: {value}, other: {more}})
		if err != nil {
			return
		}
		for name := range got {
			c := textproto.CanonicalMIMEHeaderKey(name)
			for _, ours := range []string{"Proxima-", "Nats-", "X-Forwarded-", "Forwarded", "Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Te", "Expect"} {
				if c == ours || strings.HasSuffix(ours, "-") && strings.HasPrefix(c, ours) {
					t.Fatalf("%q passes", name)
				}
			}
		}
		req := httptest.NewRequest(http.MethodPost, "http://user/", strings.NewReader("body"))
		req.Header = got
		var wire bytes.Buffer
		if err := req.Write(&wire); err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		r := bufio.NewReader(&wire)
		read, err := http.ReadRequest(r)
		if err != nil {
			t.Fatalf("%q makes a request that cannot be read: %v", got, err)
		}
		var content bytes.Buffer
		if _, err := content.ReadFrom(read.Body); err != nil || content.String() != "body" || read.Host != "user" || r.Buffered() > 0 {
			t.Fatalf("%q makes a request to %q with body %q, and %d bytes more", got, read.Host, content.String(), r.Buffered())
		}
	})
}

// FuzzTarget reads paths and hosts of the proxy: where a request goes is what it
// says, and what the instance gets is a path.
func FuzzTarget(f *testing.F) {
	for _, s := range [][2]string{
		{"/proxy/user/a", "router"},
		{"/proxy/user", "router"},
		{"/proxy/", "router"},
		{"/proxy//x", ""},
		{"/a/../b", "user.proxima"},
		{"/", "USER.Proxima.:80"},
		{"/%2e%2e/", ".proxima"},
		{"/proxy/a%2fb/c", "x"},
		{"//evil", "user.proxima:x"},
		{"/", "[::1]:8080"},
		{"*", "a.b.proxima"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, path, host string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")))
		if err != nil {
			return
		}
		service, to, ok := router.Target(req)
		if !ok {
			return
		}
		if strings.Contains(service, "/") || strings.ContainsAny(to, " \r\n") || to != "" && to != "*" && to[0] != '/' {
			t.Fatalf("%q of host %q goes to %q of service %q", path, host, to, service)
		}
	})
}
