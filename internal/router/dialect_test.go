package router_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/router/forwarding"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// recorder is an instance that keeps the last request.
type recorder struct {
	mu   sync.Mutex
	last string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\nHost: %s\n", req.Method, req.RequestURI, req.Host)
	var names []string
	for name := range req.Header {
		switch {
		case forwarding.Names(name), name == "Via", name == "Accept-Encoding", name == "User-Agent", name == "Traceparent":
			// of the connection, or of a hop
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		value := fmt.Sprintf("%q", req.Header[name])
		if name == "Proxima-Timeout" {
			value = timeLeft(req.Header[name])
		}
		fmt.Fprintf(&b, "%s: %s\n", name, value)
	}
	fmt.Fprintf(&b, "\n%s", body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = b.String()
	w.WriteHeader(http.StatusNoContent)
}

// timeLeft is the text of a Proxima-Timeout that is right: the time for an answer, 10 s, in
// milliseconds, without what the router has taken of it. That differs from call to call.
func timeLeft(values []string) string {
	d, err := time.ParseDuration(strings.Join(values, ", "))
	if err != nil || len(values) != 1 || d <= 5*time.Second || d > 10*time.Second || d != d.Truncate(time.Millisecond) {
		return fmt.Sprintf("%q, want the rest of 10s", values)
	}
	return "the rest of 10s"
}

// take returns the last request and forgets it.
func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.last
	r.last = ""
	return last
}

// rawRequest sends an HTTP request as it is written, and returns the status.
func rawRequest(t *testing.T, d *door, text string) int {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	var status int
	if _, scanErr := fmt.Sscanf(string(answer), "HTTP/1.1 %d", &status); scanErr != nil {
		t.Fatalf("%q: %q, %v", text, answer, err)
	}
	return status
}

// The same call by HTTP and by NATS is the same request at the instance, or 400 at both.
func TestBothDoorsMakeTheSameRequest(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	got := &recorder{}
	d.instance("user", "u", zoneA, got)
	type header = [2]string
	for _, tt := range []struct {
		name    string
		method  string
		path    string
		headers []header
		body    string
		refused bool
	}{
		{name: "plain", method: "GET", path: "/p"},
		{name: "a body", method: "POST", path: "/p", headers: []header{{"Content-Type", "text/plain"}}, body: "hello"},
		{name: "an own method", method: "PURGE", path: "/p"},
		{name: "a query with semicolons", method: "GET", path: "/?a=1;b=2&c=3"},
		{name: "a query with a percent sign", method: "GET", path: "/?q=100%&d=1"},
		{name: "a query with a bad escape", method: "GET", path: "/?%zz=1&ok=1"},
		{name: "a query with brackets", method: "GET", path: "/?a[]=1&a[x]={2}|3"},
		{name: "a query with quotes", method: "GET", path: `/?a="b"'c'<d>` + "`^\\"},
		{name: "an empty query", method: "GET", path: "/p?"},
		{name: "two question marks", method: "GET", path: "/p??a=b?"},
		{name: "a number sign", method: "GET", path: "/p?a=b#c"},
		{name: "a plus sign", method: "GET", path: "/a+b?c+d=e%20f"},
		{name: "letters that are not ASCII", method: "GET", path: "/p?name=Jürgen"},
		{name: "an escaped slash", method: "GET", path: "/a%2Fb//c/../d/./%2e%2e/"},
		{name: "an escaped zero byte", method: "GET", path: "/a%00b"},
		{name: "a colon", method: "GET", path: "/a:b@c"},
		{name: "a bad escape in the path", method: "GET", path: "/%zz", refused: true},
		{name: "repeated headers", method: "GET", path: "/p", headers: []header{{"X-Two", "a"}, {"X-Two", "b, c"}}},
		{name: "lower-case headers", method: "GET", path: "/p", headers: []header{{"x-test", "1"}, {"accept", "text/plain"}}},
		{name: "upper-case headers", method: "GET", path: "/p", headers: []header{{"X-TEST", "1"}, {"COOKIE", "a=b; c=d"}}},
		{name: "headers of a connection", method: "GET", path: "/p", headers: []header{{"Connection", "x-hop"}, {"X-Hop", "1"}, {"Keep-Alive", "timeout=5"}, {"Proxy-Authorization", "x"}}},
		{name: "what only the router may say", method: "GET", path: "/p", headers: []header{{"proxima-instance", "x"}, {"X-Forwarded-For", "203.0.113.9"}, {"forwarded", "for=x"}, {"Nats-Msg-Id", "7"}}},
		{name: "credentials", method: "GET", path: "/p", headers: []header{{"Authorization", "Bearer x"}}},
		{name: "an empty value", method: "GET", path: "/p", headers: []header{{"X-Empty", ""}}},
	} {
		raw := fmt.Sprintf("%s /proxy/user%s HTTP/1.1\r\nHost: router\r\n", tt.method, tt.path)
		closed := false
		for _, h := range tt.headers {
			if strings.EqualFold(h[0], "Connection") {
				closed = true
				h[1] += ", close"
			}
			raw += h[0] + ": " + h[1] + "\r\n"
		}
		if !closed {
			raw += "Connection: close\r\n"
		}
		if tt.body != "" {
			raw += fmt.Sprintf("Content-Length: %d\r\n", len(tt.body))
		}
		status := rawRequest(t, d, raw+"\r\n"+tt.body)
		byHTTP := got.take()
		if tt.refused != (status == 400) || tt.refused != (byHTTP == "") || !tt.refused && !strings.Contains(byHTTP, "Proxima-Timeout: the rest of 10s\n") {
			t.Errorf("%s: by HTTP: %d, the instance got %q", tt.name, status, byHTTP)
		}
		for _, spell := range []func(string) string{func(s string) string { return s }, strings.ToLower, strings.ToUpper} {
			all := []string{spell("Proxima-Method"), tt.method, spell("Proxima-Path"), tt.path}
			for _, h := range tt.headers {
				all = append(all, spell(h[0]), h[1])
			}
			_, code := d.ask("proxima.route.user", tt.body, all...)
			if tt.refused != (code == "400") {
				t.Errorf("%s: by NATS: %s", tt.name, code)
			}
			if diff := cmp.Diff(byHTTP, got.take()); diff != "" {
				t.Errorf("%s: by NATS with %s it is another request:\n%s", tt.name, all[0], diff)
			}
		}
	}
}

func TestForwardedHeadersOfATrustedProxyAreKept(t *testing.T) {
	said := []string{"X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https", "X-Forwarded-Prefix", "/api", "Forwarded", "for=203.0.113.9"}
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Prefix", "Forwarded"} {
			fmt.Fprintf(w, "%s\n", strings.Join(r.Header[name], "|"))
		}
	})
	for network, want := range map[string]string{
		"127.0.0.0/8": "203.0.113.9, 127.0.0.1\nhttps\n/api/proxy/user\nfor=203.0.113.9, for=127.0.0.1;host=\"",
		"10.0.0.0/8":  "127.0.0.1\nhttp\n/proxy/user\nfor=127.0.0.1;host=\"",
	} {
		d := newFleet(t).router(router.Options{Trust: forwarding.Trust{netip.MustParsePrefix(network)}})
		d.instance("user", "u", zoneA, show)
		if got := d.get("/proxy/user/", said...); !strings.HasPrefix(got.body, want) {
			t.Errorf("trust %s: the instance saw %s", network, got.body)
		}
		d.end()
	}
}

func TestAnswersNamePlacesThatTheCallerFinds(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b", Path: "/admin"})
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
	}))
	for _, tt := range []struct{ to, path, host string }{
		{"/login", "/proxy/user/login", "/login"},
		{"http://user/x", "/proxy/user/x", "/x"},
		{"https://other.example/", "https://other.example/", "https://other.example/"},
	} {
		got := d.get("/proxy/user/?to=" + tt.to)
		if got.header.Get("Location") != tt.path || got.header.Get("Set-Cookie") != "a=b; Path=/proxy/user/admin" {
			t.Errorf("%s by path: %v", tt.to, got.header)
		}
		got = d.get("/?to="+tt.to, "Host", "user.proxima")
		if got.header.Get("Location") != tt.host || got.header.Get("Set-Cookie") != "a=b; Path=/admin" {
			t.Errorf("%s by host: %v", tt.to, got.header)
		}
		reply, code := d.ask("proxima.route.user", "", "Proxima-Method", "GET", "Proxima-Path", "/?to="+tt.to)
		if code != "" || reply.Header.Get("Location") != tt.host || reply.Header.Get("Set-Cookie") != "a=b; Path=/admin" {
			t.Errorf("%s by NATS: %s %v", tt.to, code, reply.Header)
		}
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Check"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "not announced")
	}))
	for _, size := range []int{5, 200 << 10} { // one fits into memory for another attempt, one does not
		body := bytes.Repeat([]byte("x"), size)
		req, err := http.NewRequest("PUT", d.url+"/proxy/user/", io.MultiReader(bytes.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"X-Check": {"7"}}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		back, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(back) != size || resp.Trailer.Get("X-Sum") != "7" || resp.Trailer.Get("X-Late") != "not announced" {
			t.Errorf("%d bytes: %d back, trailer %v, %v", size, len(back), resp.Trailer, err)
		}
	}
	reply, code := d.ask("proxima.route.user", "body")
	if code != "" || reply.Header.Get("X-Late") != "not announced" {
		t.Errorf("by NATS: %s %v", code, reply.Header)
	}
}

// A receiver may add trailers to the headers: what a caller may not say there it may not say here.
func TestTrailersDoNotSayWhatOnlyTheRouterMaySay(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Proxima-Instance, X-Sum")
		_, _ = io.Copy(w, r.Body)
		fmt.Fprint(w, slices.Sorted(maps.Keys(r.Trailer)))
		w.Header().Set("X-Sum", "7")
		w.Header().Set("Proxima-Instance", "another")
		w.Header().Set(http.TrailerPrefix+"Keep-Alive", "timeout=5")
		w.Header().Set(http.TrailerPrefix+"Nats-Sequence", "5")
	}))
	req, err := http.NewRequest("PUT", d.url+"/proxy/user/", io.MultiReader(strings.NewReader("body ")))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Check": {"7"}, "X-Forwarded-For": {"203.0.113.9"}, "Proxima-From": {"r2/b"}, "X-Real-Ip": {"203.0.113.9"}, "Forwarded": {"for=x"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "body [X-Check]" {
		t.Errorf("the instance got trailers %s, %v", body, err)
	}
	if len(resp.Trailer) != 1 || resp.Trailer.Get("X-Sum") != "7" {
		t.Errorf("the caller got trailers %v", resp.Trailer)
	}
}

// who answers, of four instances.
func whoAnswers(d *door, name string) string {
	return d.get("/proxy/user/", "X-User", name).header.Get("Proxima-Instance")
}

func TestAKeyStaysWithAnInstanceAtBothDoors(t *testing.T) {
	d := newFleet(t).router(router.Options{
		HashHeader: "x-user", HashCookie: "uid", StickyCookie: "proxima_sticky", Selector: selector.Options{Strategy: selector.ConsistentHash},
	})
	for _, id := range []string{"a", "b", "c", "d"} {
		d.instance("user", id, zoneA, says(id))
	}
	used := map[string]int{}
	for key := range 40 {
		name := fmt.Sprint("user-", key)
		first := whoAnswers(d, name)
		used[first]++
		reply, _ := d.ask("proxima.route.user", "", "x-USER", name)
		cookie := d.get("/proxy/user/", "Cookie", "other=1; uid="+name).header.Get("Proxima-Instance")
		if again := whoAnswers(d, name); again != first || reply.Header.Get("Proxima-Instance") != first || cookie != first {
			t.Errorf("%s: %s, then %s, by NATS %s, by its cookie %s", name, first, again, reply.Header.Get("Proxima-Instance"), cookie)
		}
	}
	if len(used) < 3 {
		t.Errorf("40 keys: %v", used)
	}
	used = map[string]int{}
	for range 200 {
		used[d.get("/proxy/user/").header.Get("Proxima-Instance")]++
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		if used[id] < 25 {
			t.Errorf("200 calls without a key: %v", used)
		}
	}

	// A caller without a key is given one.
	got := d.get("/proxy/user/")
	set := got.header.Get("Set-Cookie")
	cookie, _, _ := strings.Cut(set, ";")
	if !strings.HasPrefix(set, "proxima_sticky=") || !strings.HasSuffix(set, "; Path=/proxy/user; HttpOnly; SameSite=Lax") {
		t.Fatalf("Set-Cookie: %s", set)
	}
	for range 20 {
		next := d.get("/proxy/user/", "Cookie", cookie)
		if next.header.Get("Proxima-Instance") != got.header.Get("Proxima-Instance") || next.header.Get("Set-Cookie") != "" {
			t.Fatalf("with its cookie: %v, before %v", next.header, got.header)
		}
	}
}

func TestCallersMaySpeakHTTP2WithoutTLS(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.Header.Get("Via"), body)
	}))
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	var work sync.WaitGroup
	for range 20 {
		work.Go(func() {
			req, err := http.NewRequestWithContext(context.Background(), "PUT", d.url+"/proxy/user/", strings.NewReader("hello"))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.ProtoMajor != 2 || !strings.HasPrefix(string(body), "PUT user 2.0 proxima-") || !strings.HasSuffix(string(body), " hello") {
				t.Errorf("%s: %s, %v", resp.Proto, body, err)
			}
		})
	}
	work.Wait()
}

func TestAnInstanceMayCallItselfByItsAddress(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Context().Value(http.LocalAddrContextKey).(net.Addr).String()+"/x", http.StatusFound)
	}))
	defer srv.Close()
	d.list(events.Instance{Service: "user", ID: "u", Location: zoneA, Endpoints: map[string]string{"http": srv.Listener.Addr().String()}})
	if got := d.get("/proxy/user/"); got.header.Get("Location") != "/proxy/user/x" {
		t.Errorf("Location %q", got.header.Get("Location"))
	}
}
