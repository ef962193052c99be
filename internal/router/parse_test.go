package router_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/router"
)

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"", "/", "/a?b=c", "//evil/x", "http://evil/", "/a\r\nb", "/%2e%2e/x", "/%zz", "*", "/a#b", "/a b", "/ä", "/;a?b;c", "/?", "/:1", "/@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := router.ParsePath(s)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "Proxima-Path ") {
				t.Fatalf("%q: %v does not name the header", s, err)
			}
			return
		}
		// What goes onto the wire is what was asked for, and a path.
		line := u.RequestURI()
		if s != "" && !strings.HasPrefix(line, "/") || strings.ContainsAny(line, " \r\n\x00") || u.Host != "" || u.Scheme != "" {
			t.Fatalf("%q becomes %q of host %q", s, line, u.Host)
		}
		u.Scheme, u.Host = "http", "user"
		again, err := url.Parse(u.String())
		if err != nil || again.Host != "user" || again.EscapedPath() != u.EscapedPath() {
			t.Fatalf("%q becomes %q, which is read as %v, %v", s, u, again, err)
		}
		if _, err := http.NewRequest("GET", u.String(), nil); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

func FuzzParseMethod(f *testing.F) {
	for _, s := range []string{"", "GET", "CONNECT", "connect", "GET /x HTTP/1.1\r\n", "A B", "M-SEARCH", "(", "ÄH"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := router.ParseMethod(s)
		if err != nil {
			return
		}
		if m == "CONNECT" || m == "" || s != "" && m != s {
			t.Fatalf("%q becomes %q", s, m)
		}
		if _, err := http.NewRequest(m, "http://user/", nil); err != nil {
			t.Fatalf("%q: %v", m, err)
		}
	})
}

func FuzzParseFrom(f *testing.F) {
	for _, s := range []string{"", "r1/a", "r1", "/", "_/_", "a/b/c/d", "a/b/c/d/e", "a b", "../..", "r1/a\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := router.ParseFrom("from", s)
		switch {
		case err != nil:
			if l != nil || !strings.HasPrefix(err.Error(), "from ") {
				t.Fatalf("%q: %v, %v", s, l, err)
			}
		case (l == nil) != (s == ""):
			t.Fatalf("%q: %v", s, l)
		case l != nil && l.Validate() != nil:
			t.Fatalf("%q is no valid place: %v", s, l.Validate())
		}
	})
}

func FuzzParseLimit(f *testing.F) {
	for _, s := range []string{"", "1", "0", "-1", "+1", "01", "1e3", " 1", "2147483647", "2147483648", "18446744073709551616", "١"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := router.ParseLimit("limit", s)
		if err != nil && (n != 0 || !strings.HasPrefix(err.Error(), "limit ")) {
			t.Fatalf("%q: %d, %v", s, n, err)
		}
		if err == nil && (n < 0 || (n == 0) != (s == "")) {
			t.Fatalf("%q: %d", s, n)
		}
	})
}
