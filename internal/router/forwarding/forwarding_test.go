package forwarding_test

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/router/forwarding"
)

func TestTheForwardingHeadersNameTheCaller(t *testing.T) {
	said := http.Header{
		"X-Forwarded-For": {"203.0.113.9"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"shop.example"}, "X-Forwarded-Port": {"443"},
		"X-Forwarded-Prefix": {"/api/"}, "X-Real-Ip": {"203.0.113.9"}, "Forwarded": {"for=203.0.113.9", "for=198.51.100.1;by=_x"},
	}
	for _, tt := range []struct {
		name    string
		peer    string
		tls     bool
		said    http.Header
		prefix  string
		trusted bool
		want    http.Header
	}{
		{"a caller", "192.0.2.7:4711", false, nil, "/proxy/user", false, http.Header{
			"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"router:8080"}, "X-Forwarded-Prefix": {"/proxy/user"},
			"Forwarded": {`for=192.0.2.7;host="router:8080";proto=http`},
		}},
		{"a caller that pretends to be a proxy", "192.0.2.7:4711", true, said, "", false, http.Header{
			"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"router:8080"},
			"Forwarded": {`for=192.0.2.7;host="router:8080";proto=https`},
		}},
		{"a proxy", "[2001:db8::1%eth0]:80", false, said, "/proxy/user", true, http.Header{
			"X-Forwarded-For": {"203.0.113.9, 2001:db8::1%eth0"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"shop.example"}, "X-Forwarded-Port": {"443"},
			"X-Forwarded-Prefix": {"/api/proxy/user"}, "X-Real-Ip": {"203.0.113.9"},
			"Forwarded": {`for=203.0.113.9, for=198.51.100.1;by=_x, for="[2001:db8::1]";host="router:8080";proto=http`},
		}},
		{"a proxy that says nothing", "@", false, nil, "", true, http.Header{
			"X-Forwarded-For": {"@"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"router:8080"},
			"Forwarded": {`for=unknown;host="router:8080";proto=http`},
		}},
	} {
		in := &http.Request{Host: "router:8080", RemoteAddr: tt.peer, Header: tt.said.Clone()}
		if tt.tls {
			in.TLS = &tls.ConnectionState{}
		}
		out := http.Header{"x-forwarded-for": {"other spelling"}, "X-Other": {"stays"}}
		forwarding.Tell(out, in, tt.prefix, tt.trusted)
		tt.want.Set("X-Other", "stays")
		for name := range tt.want {
			if strings.Join(out[name], "|") != strings.Join(tt.want[name], "|") {
				t.Errorf("%s: %s is %q, want %q", tt.name, name, out[name], tt.want[name])
			}
		}
		if len(out) != len(tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, out, tt.want)
		}
	}
}

func TestTrustIsByNetwork(t *testing.T) {
	var trust forwarding.Trust
	if trust.Includes("127.0.0.1:1") {
		t.Error("the zero value trusts")
	}
	for _, s := range []string{"10.1.0.0/16", "2001:db8::/32", "::ffff:172.16.0.0/108"} {
		p, err := forwarding.ParseNetwork(s)
		if err != nil {
			t.Fatal(err)
		}
		trust = append(trust, p)
	}
	for peer, want := range map[string]bool{
		"10.1.2.3:80": true, "[::ffff:10.1.2.3]:80": true, "10.2.0.1:80": false, "[2001:db8::5%eth0]:80": true, "[2001:db9::5]:80": false,
		"172.16.9.9:1": true, "": false, "@": false, "10.1.2.3": false,
	} {
		if trust.Includes(peer) != want {
			t.Errorf("%s: trusted is %v", peer, !want)
		}
	}
}

func TestANetworkHasAPrefixLength(t *testing.T) {
	for s, want := range map[string]string{"10.1.2.3/8": "10.0.0.0/8", "fd00::1/8": "fd00::/8", "10.0.0.5/32": "10.0.0.5/32", "::ffff:10.0.0.5/128": "10.0.0.5/32"} {
		if p, err := forwarding.ParseNetwork(s); err != nil || p != netip.MustParsePrefix(want) {
			t.Errorf("%s: %v, %v", s, p, err)
		}
	}
	for s, want := range map[string]string{
		"192.168.7.9": "192.168.7.9/32", "fd00::1": "fd00::1/128", "": "prefix length", "10.0.0.0/33": "prefix length", "ten": "prefix length", "10.0.0.0/": "prefix length",
		"fe80::1%eth0": "prefix length", "10.0.0.1:80": "prefix length",
	} {
		if p, err := forwarding.ParseNetwork(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want an error with %q", s, p, err, want)
		}
	}
}

func TestPlacesInAnAnswerAreThoseThatTheCallerSees(t *testing.T) {
	byPath := forwarding.Site{Hosts: []string{"user", "user.proxima", "10.0.0.5:9001", ""}, Outside: "router:8080", Prefix: "/proxy/user"}
	byHost := forwarding.Site{Hosts: []string{"user", "user.proxima", "10.0.0.5:9001"}, Outside: "user.proxima:8080"}
	for _, tt := range []struct{ header, value, path, host string }{
		{"Location", "/login", "/proxy/user/login", "/login"},
		{"Location", "/", "/proxy/user/", "/"},
		{"Location", "/login?next=/a//b#/c", "/proxy/user/login?next=/a//b#/c", "/login?next=/a//b#/c"},
		{"Location", "docs/", "docs/", "docs/"},
		{"Location", "../up", "../up", "../up"},
		{"Location", "?page=2", "?page=2", "?page=2"},
		{"Location", "", "", ""},
		{"Location", "http://user/x", "/proxy/user/x", "/x"},
		{"Location", "HTTPS://User:80/x", "/proxy/user/x", "/x"},
		{"Location", "http://user", "/proxy/user/", "/"},
		{"Location", "http://user?a=b", "/proxy/user/?a=b", "/?a=b"},
		{"Location", "//user/x", "/proxy/user/x", "/x"},
		{"Location", "http://10.0.0.5:9001/x", "/proxy/user/x", "/x"},
		{"Location", "http://10.0.0.5:9002/x", "http://10.0.0.5:9002/x", "http://10.0.0.5:9002/x"},
		{"Location", "http://router:8080/x", "http://router:8080/proxy/user/x", "http://router:8080/x"},
		{"Location", "http://user.proxima:8080/x", "/proxy/user/x", "http://user.proxima:8080/x"},
		{"Location", "/proxy/user/x", "/proxy/user/x", "/proxy/user/x"},
		{"Location", "/proxy/user", "/proxy/user", "/proxy/user"},
		{"Location", "/proxy/users", "/proxy/user/proxy/users", "/proxy/users"},
		{"Location", "https://other.example/x", "https://other.example/x", "https://other.example/x"},
		{"Location", "//other.example/x", "//other.example/x", "//other.example/x"},
		{"Location", "http://me@user/x", "http://me@user/x", "http://me@user/x"},
		{"Location", "mailto:a@b", "mailto:a@b", "mailto:a@b"},
		{"Location", "app:/x", "app:/x", "app:/x"},
		{"Location", `/\other.example`, `/\other.example`, `/\other.example`},
		{"Location", "/a:b", "/proxy/user/a:b", "/a:b"},
		{"Content-Location", "/doc", "/proxy/user/doc", "/doc"},
		{"Uri", "/doc", "/proxy/user/doc", "/doc"},
		{"Refresh", "5", "5", "5"},
		{"Refresh", "5; url=/login", "5; url=/proxy/user/login", "5; url=/login"},
		{"Refresh", "0;URL='/login'", "0;URL='/proxy/user/login'", "0;URL='/login'"},
		{"Refresh", `1, url = "http://user/a" x`, `1, url = "/proxy/user/a" x`, `1, url = "/a" x`},
		{"Refresh", "5;/login", "5;/proxy/user/login", "5;/login"},
		{"Refresh", "5;url", "5;url", "5;url"},
		{"Refresh", "5;", "5;", "5;"},
		{"Refresh", "5;url='/login", "5;url='/proxy/user/login", "5;url='/login"},
		{"Refresh", "0, url=/a;b", "0, url=/proxy/user/a;b", "0, url=/a;b"},
		{"Refresh", "5 url=/login", "5 url=/proxy/user/login", "5 url=/login"},
		{"Refresh", "5\t/login", "5\t/proxy/user/login", "5\t/login"},
		{"Refresh", "5.3 ; /login", "5.3 ; /proxy/user/login", "5.3 ; /login"},
		{"Refresh", "5;url=//user/x", "5;url=/proxy/user/x", "5;url=/x"},
		{"Refresh", "/login", "/login", "/login"},
		{"Refresh", "5;urlx=/login", "5;urlx=/login", "5;urlx=/login"},
		{"Location", "/../admin", "/proxy/user/admin", "/../admin"},
		{"Location", "/a/../../b/?x=/../y", "/proxy/user/b/?x=/../y", "/a/../../b/?x=/../y"},
		{"Location", "/a/b/..", "/proxy/user/a/", "/a/b/.."},
		{"Location", "/..", "/proxy/user/", "/.."},
		{"Location", "/%2E%2e/.%2e/x", "/proxy/user/x", "/%2E%2e/.%2e/x"},
		{"Location", "/proxy/user/../x", "/proxy/user/proxy/x", "/proxy/user/../x"},
		{"Location", "/a/./b...", "/proxy/user/a/./b...", "/a/./b..."},
		{"Location", "http://user./x", "/proxy/user/x", "/x"},
		{"Set-Cookie", "a=b; Path=/../x", "a=b; Path=/proxy/user/x", "a=b; Path=/../x"},
		{"Set-Cookie", "a=b", "a=b", "a=b"},
		{"Set-Cookie", "a=b; Path=/admin; HttpOnly", "a=b; Path=/proxy/user/admin; HttpOnly", "a=b; Path=/admin; HttpOnly"},
		{"Set-Cookie", "a=b;path=/", "a=b;path=/proxy/user", "a=b;path=/"},
		{"Set-Cookie", "a=b; PATH = /x", "a=b; PATH =/proxy/user/x", "a=b; PATH =/x"},
		{"Set-Cookie", "a=/path=/; Path=rel", "a=/path=/; Path=rel", "a=/path=/; Path=rel"},
		{"Set-Cookie", "__Host-a=b; Path=/; Secure", "__Host-a=b; Path=/; Secure", "__Host-a=b; Path=/; Secure"},
		{"Set-Cookie", "a=b; Domain=user; Path=/x", "a=b; Path=/proxy/user/x", "a=b; Path=/x"},
		{"Set-Cookie", "a=b; Domain=shop.example", "a=b; Domain=shop.example", "a=b; Domain=shop.example"},
		{"Link", "</a?page=2>; rel=\"</x>\\\"\", <http://user/b>;rel=last, <c>; x", "</proxy/user/a?page=2>; rel=\"</x>\\\"\", </proxy/user/b>;rel=last, <c>; x", "</a?page=2>; rel=\"</x>\\\"\", </b>;rel=last, <c>; x"},
		{"Link", "</broken", "</broken", "</broken"},
		{"X-Path", "/login", "/login", "/login"},
	} {
		for _, side := range []struct {
			forwarding.Site
			want string
		}{{byPath, tt.path}, {byHost, tt.host}} {
			h := http.Header{tt.header: {tt.value}}
			side.Rewrite(h)
			if got := h.Get(tt.header); got != side.want {
				t.Errorf("%s: %s, prefix %q: got %s, want %s", tt.header, tt.value, side.Prefix, got, side.want)
			}
		}
	}
}

// Whatever an instance answers: there is no panic, and a second rewriting changes nothing.
func FuzzRewrite(f *testing.F) {
	f.Add("/login", "5; url=/x", "a=b; Path=/x")
	f.Add("http://user/x", "0;URL='", "__Host-=; Path=/;;")
	f.Add("//", ";", "=")
	f.Add("/<", "5, </a>", "a=<\\")
	f.Add("/a/../../b", "5 /x", "a=b;path=/..")
	f.Fuzz(func(t *testing.T, location, refresh, cookie string) {
		s := forwarding.Site{Hosts: []string{"user", "10.0.0.5:80"}, Outside: "router:8080", Prefix: "/proxy/user"}
		h := http.Header{"Location": {location}, "Refresh": {refresh}, "Set-Cookie": {cookie}, "Link": {location + refresh}}
		s.Rewrite(h)
		again := h.Clone()
		s.Rewrite(again)
		for name := range h {
			if h.Get(name) != again.Get(name) {
				t.Fatalf("%s: %q, then %q", name, h.Get(name), again.Get(name))
			}
		}
		if got := h.Get("Location"); strings.HasPrefix(location, "/") && !strings.HasPrefix(location, "//") && !strings.HasPrefix(location, `/\`) && !strings.HasPrefix(got, "/proxy/user") {
			t.Fatalf("%q becomes %q", location, got)
		} else if u, err := (&url.URL{Path: "/proxy/user/"}).Parse(got); strings.HasPrefix(got, "/proxy/user") && err == nil && !strings.HasPrefix(u.Path, "/proxy/user") {
			t.Fatalf("%q becomes %q, which is %q for a browser", location, got, u)
		}
	})
}
