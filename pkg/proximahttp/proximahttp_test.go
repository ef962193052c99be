package proximahttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// static is a Source of a fixed list.
type static []events.Entry

func (s static) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	snapshot := events.Snapshot{Service: service}
	for _, e := range s {
		if e.Service == service {
			snapshot.Entries = append(snapshot.Entries, e)
		}
	}
	apply(snapshot)
	<-ctx.Done()
	return ctx.Err()
}

// at is an instance of service user. Zone "a" is the caller's.
func at(id, zone, protocol, address string) events.Entry {
	return events.Entry{Instance: &events.Instance{
		ID: id, Service: "user", Incarnation: "1", Status: events.Up, Weight: events.DefaultWeight,
		Location: topology.Location{Region: "r", Zone: zone}, Endpoints: map[string]string{protocol: address},
	}}
}

// fleet is a Transport with the selector behind it.
type fleet struct {
	*proximahttp.Transport
	selector *selector.Selector
	base     *http.Transport

	mu      sync.Mutex
	changes []string // of breakers: "id state"
}

// newFleet makes one that never waits long before a retry, never measures
// distances, and opens a breaker at the first failure. Instances are ordered
// by zone.
func newFleet(tb testing.TB, o proximahttp.Options, instances ...events.Entry) *fleet {
	tb.Helper()
	return newFleetWith(tb, func(*selector.Options) {}, o, instances...)
}

// newFleetWith is newFleet with other options for the selector.
func newFleetWith(tb testing.TB, adjust func(*selector.Options), o proximahttp.Options, instances ...events.Entry) *fleet {
	tb.Helper()
	f := &fleet{}
	so := selector.Options{
		Location: topology.Location{Region: "r", Zone: "a"},
		Strategy: selector.Nearest,
		Source:   static(instances),
		Retry:    selector.Retry{Backoff: 1},
		Breaker: breaker.Settings{Failures: 1, OnChange: func(k breaker.Key, _, to breaker.State) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.changes = append(f.changes, k.Instance+" "+to.String())
		}},
		Latency: latency.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no probes in this test")
		}},
	}
	adjust(&so)
	sel, err := selector.New(tb.Context(), nil, so)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = sel.Close() })
	if o.Base == nil {
		f.base = proximahttp.NewBase()
		o.Base = f.base
	}
	f.selector = sel
	f.Transport = proximahttp.New(sel, o)
	tb.Cleanup(f.CloseIdleConnections)
	return f
}

// opened lists the breakers that opened.
func (f *fleet) opened() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.changes, ", ")
}

func (f *fleet) inFlight() (n int) {
	for _, c := range f.circles() {
		n += c.InFlight
	}
	return n
}

func (f *fleet) picks() (n uint64) {
	for _, c := range f.circles() {
		n += c.Picks
	}
	return n
}

// circles are those of the only service.
func (f *fleet) circles() []selector.Circle {
	if stats := f.selector.Stats(); len(stats.Services) > 0 {
		return stats.Services[0].Circles
	}
	return nil
}

func (f *fleet) client() *http.Client { return &http.Client{Transport: f.Transport} }

// serve starts an instance with id in zone.
func serve(tb testing.TB, id, zone string, h http.HandlerFunc) events.Entry {
	tb.Helper()
	srv := httptest.NewServer(h)
	tb.Cleanup(srv.Close)
	return at(id, zone, events.HTTP, srv.Listener.Addr().String())
}

// says answers with a text.
func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// fails answers with a status.
func fails(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, http.StatusText(status), status) }
}

// read returns status and body of a response, and closes it.
func read(tb testing.TB, resp *http.Response, err error) (int, string) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestMain(m *testing.M) {
	testkit.AtOnce(8)
	m.Run()
}

func TestSendsARequestToTheNearestInstance(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" "+r.Host+" "+r.URL.RequestURI()+" "+r.Header.Get("X-Test"))
	}
	f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", echo), serve(t, "far", "b", says("far")))
	for _, tt := range []struct{ url, host, want string }{
		{"http://user/users/7?full=1", "", "GET user /users/7?full=1 yes"},
		{"http://user.proxima/users/7", "", "GET user /users/7 yes"},
		{"http://USER.Proxima/a%2Fb", "", "GET user /a%2Fb yes"},
		{"http://user/", "shop.example.com", "GET shop.example.com / yes"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.host != "" {
			req.Host = tt.host
		}
		req.Header.Set("X-Test", "yes")
		before, header, u := *req, req.Header.Clone(), *req.URL
		resp, err := f.RoundTrip(req)
		status, got := read(t, resp, err)
		if status != 200 || got != tt.want {
			t.Errorf("%s: %d %q, want %q", tt.url, status, got, tt.want)
		}
		if in := proximahttp.Instance(resp); in == nil || in.ID != "near" {
			t.Errorf("%s: answered by %v, want near", tt.url, in)
		}
		if got := resp.Request.URL.String(); got != u.String() {
			t.Errorf("the response's request is for %s, want %s", got, u.String())
		}
		if req.URL.String() != u.String() || req.Host != before.Host || len(req.Header) != len(header) || req.Context() != before.Context() {
			t.Errorf("the caller's request was changed: %+v", req)
		}
	}
}

func TestAResponseNamesItsAttempt(t *testing.T) {
	var seen []proximahttp.Attempt
	base := proximahttp.NewBase()
	f := newFleet(t, proximahttp.Options{Base: roundTripper(func(req *http.Request) (*http.Response, error) {
		a, _ := proximahttp.AttemptFrom(req.Context())
		seen = append(seen, a)
		return base.RoundTrip(req)
	})}, serve(t, "near", "a", fails(503)), serve(t, "far", "b", says("far")))
	resp, err := f.client().Get("http://user/")
	read(t, resp, err)
	if len(seen) != 2 || seen[0].ID != "near" || seen[0].Number != 1 || seen[0].Circle != "zone" ||
		seen[1].ID != "far" || seen[1].Number != 2 || seen[1].Circle != "region" {
		t.Errorf("the base saw %+v", seen)
	}
	if a, ok := proximahttp.AttemptFrom(resp.Request.Context()); !ok || a != seen[1] {
		t.Errorf("the response is of %+v, %v, want %+v", a, ok, seen[1])
	}
	if in := proximahttp.Instance(&http.Response{}); in != nil {
		t.Errorf("instance of a foreign response: %v", in)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestAHostMayBeADottedService(t *testing.T) {
	named := func(service string) events.Entry {
		e := serve(t, service, "a", func(w http.ResponseWriter, req *http.Request) { _, _ = io.WriteString(w, service+" as "+req.Host) })
		e.Service = service
		return e
	}
	all := []events.Entry{named("payments"), named("payments.user"), named("payments.User"), named("a.proxima")}
	for _, tt := range []struct {
		url       string
		elsewhere bool
		want      string
	}{
		{"http://payments/", false, "payments as payments"},
		{"http://PAYMENTS.Proxima/", false, "payments as payments"},
		{"http://payments.user/", false, "payments.user as payments.user"},
		{"http://payments.User/", false, "payments.User as payments.User"},
		{"http://payments.User.PROXIMA/", false, "payments.User as payments.User"},
		{"http://a.proxima.proxima/", false, "a.proxima as a.proxima"},
		{"http://payments.user.proxima/", true, "payments.user as payments.user"},
	} {
		f := newFleet(t, proximahttp.Options{Fallthrough: tt.elsewhere}, all...)
		resp, err := f.client().Get(tt.url)
		if status, text := read(t, resp, err); status != http.StatusOK || text != tt.want {
			t.Errorf("%s: %d %q, want %q", tt.url, status, text, tt.want)
		}
	}
	// With Fallthrough it may as well be a host of the internet.
	sent := ""
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		sent = req.URL.Host
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})
	resp, err := newFleet(t, proximahttp.Options{Base: base, Fallthrough: true}, all...).client().Get("http://payments.user/")
	if _, _ = read(t, resp, err); sent != "payments.user" {
		t.Errorf("payments.user with Fallthrough was sent to %q, want it unchanged", sent)
	}
}

func TestCallsAnEndpointWithAName(t *testing.T) {
	e := serve(t, "a", "a", says("plain"))
	e.Endpoints["http.admin"] = serve(t, "a", "a", says("admin")).Endpoints["http"]
	for protocol, want := range map[string]string{"": "plain", "http": "plain", "http.admin": "admin", "grpc.admin": "plain", "https.admin": "plain", "http.": "plain"} {
		f := newFleet(t, proximahttp.Options{Ask: func(_ *http.Request, r *selector.Request) { r.Protocol = protocol }}, e)
		resp, err := f.client().Get("http://user/")
		if _, text := read(t, resp, err); text != want {
			t.Errorf("%q calls %s, want %s", protocol, text, want)
		}
	}
	f := newFleet(t, proximahttp.Options{Ask: func(_ *http.Request, r *selector.Request) { r.Protocol = "http.other" }}, e)
	if _, err := f.client().Get("http://user/"); !errors.Is(err, selector.ErrNoInstance) { //nolint:bodyclose // there is none
		t.Errorf("an endpoint that no instance has: %v", err)
	}
}

func TestCallsASocketOfItsHost(t *testing.T) {
	dir := t.TempDir()
	var all []events.Entry
	for _, name := range []string{"a", "b"} {
		l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
		if err != nil {
			t.Fatal(err)
		}
		srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.WriteString(w, name+" as "+req.Host)
		})}}
		srv.Start()
		t.Cleanup(srv.Close)
		e := at(name, name, events.HTTP, "unix:"+l.Addr().String())
		e.Location.Host = "n1"
		all = append(all, e)
	}
	reused := false
	f := newFleetWith(t, func(o *selector.Options) { o.Location.Host, o.Sockets = "n1", dir }, proximahttp.Options{}, all...)
	for i := range 2 {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://user/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := f.client().Do(req)
		if _, text := read(t, resp, err); text != "a as user" || reused != (i > 0) {
			t.Errorf("got %q on a connection that was used before: %t", text, reused)
		}
		if in := proximahttp.Instance(resp); in == nil || in.ID != "a" {
			t.Errorf("the answer is of %v", in)
		}
	}
	// No URL from outside leads to a socket.
	hex := fmt.Sprintf("%x", strings.TrimPrefix(all[0].Endpoints[events.HTTP], "unix:"))
	for _, u := range []string{"http://" + hex + ".unix.invalid/", "http://" + hex + ".x.unix.invalid/"} {
		f := newFleet(t, proximahttp.Options{Fallthrough: true}, all...)
		if resp, err := f.client().Get(u); err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s is answered", u)
		}
	}
}

func TestRefusesHostsThatAreNotServices(t *testing.T) {
	for _, u := range []string{
		"http://example.com:80/", "http://a..b/", "http://a_.b/", "http://127.0.0.1/", "http://[::1]/", "http://user:8080/", "http://user.proxima:80/",
		"http://a..b.proxima/", "http://.proxima/", "http:///path", "http://user_1/", "http://-user/", "ftp://user/", "user/path",
		"http://" + strings.Repeat("u", 64) + "/",
	} {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		var sent *http.Request
		answer := &http.Response{StatusCode: 200, Body: http.NoBody}
		base := roundTripper(func(req *http.Request) (*http.Response, error) { sent = req; return answer, nil })
		body := &countingBody{Reader: strings.NewReader("x")}
		req := &http.Request{Method: http.MethodPost, URL: parsed, Header: http.Header{}, Body: body}

		resp, err := newFleet(t, proximahttp.Options{Base: base}).RoundTrip(req) //nolint:bodyclose // there is none
		if err == nil || resp != nil || sent != nil || !strings.HasPrefix(err.Error(), "proximahttp: ") {
			t.Errorf("%s: %v, %v, sent %v, want an error", u, resp, err, sent)
		}
		if n := body.closed.Load(); n != 1 {
			t.Errorf("%s: the body was closed %d times, want once", u, n)
		}

		resp, err = newFleet(t, proximahttp.Options{Base: base, Fallthrough: true}).RoundTrip(req) //nolint:bodyclose // it has none
		if err != nil || resp != answer || sent != req {
			t.Errorf("%s with Fallthrough: %v, %v, sent %v, want it unchanged", u, resp, err, sent)
		}
	}
	if _, err := newFleet(t, proximahttp.Options{Fallthrough: true}).RoundTrip(&http.Request{}); err == nil { //nolint:bodyclose // there is none
		t.Error("no error for a request without a URL")
	}
}

// anything lists one instance of every service.
type anything struct{}

func (anything) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	e := at("near", "a", events.HTTP, "10.0.0.1:80")
	e.Service = service
	e.Endpoints[events.HTTPS] = "10.0.0.1:443"
	apply(events.Snapshot{Service: service, Entries: []events.Entry{e}})
	<-ctx.Done()
	return ctx.Err()
}

func FuzzRequestsOnlyGoWhereAServiceIs(f *testing.F) {
	for _, seed := range []string{
		"http://user/", "https://user.proxima/a?b#c", "http://user:80/", "http://a:b@user/", "http://[::1%25lo]/", "//user", "http://user.proxima.proxima/", "http://Payments.User/", "http://USER.Proxima/",
	} {
		f.Add(seed)
	}
	var sent *http.Request
	fl := newFleetWith(f, func(o *selector.Options) { o.Source = anything{} }, proximahttp.Options{
		Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			sent = req
			return &http.Response{StatusCode: 200}, nil
		}),
	})
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(raw)
		if err != nil {
			return
		}
		sent = nil
		resp, err := fl.RoundTrip(&http.Request{URL: u, Header: http.Header{}})
		if err != nil {
			if sent != nil {
				t.Errorf("%q was sent: %v", raw, err)
			}
			return
		}
		resp.Body.Close()
		want := map[string]string{"http": "10.0.0.1:80", "https": "10.0.0.1:443"}[u.Scheme]
		service := u.Host
		if strings.HasSuffix(strings.ToLower(service), ".proxima") {
			service = service[:len(service)-len(".proxima")]
		}
		if !strings.Contains(service, ".") { // a dotted one may have upper case
			service = strings.ToLower(service)
		}
		if sent.URL.Host != want || sent.Host != service || proximahttp.Instance(resp).Service != service {
			t.Errorf("%q went to %s as %q, want %s as %q", raw, sent.URL.Host, sent.Host, want, service)
		}
		if events.ValidateService(service) != nil || sent.URL.RequestURI() != u.RequestURI() {
			t.Errorf("%q was sent as %s for service %q", raw, sent.URL, service)
		}
	})
}

func TestTheErrorForAnUnknownServiceNamesIt(t *testing.T) {
	f := newFleet(t, proximahttp.Options{}, at("tcp-only", "a", events.TCP, "127.0.0.1:1"))
	_, err := f.client().Get("http://nobody/") //nolint:bodyclose // there is none
	if !errors.Is(err, selector.ErrUnknownService) {
		t.Errorf("got %v, want ErrUnknownService", err)
	}
	_, err = f.client().Get("http://user/") //nolint:bodyclose // there is none
	if e, ok := errors.AsType[*selector.NoInstanceError](err); !ok || len(e.Circles) != 1 || e.Circles[0].OtherProtocol != 1 {
		t.Errorf("got %v, want one instance without the protocol", err)
	}
}

func TestAskChangesWhatIsPicked(t *testing.T) {
	f := newFleet(t, proximahttp.Options{Ask: func(req *http.Request, r *selector.Request) {
		if zone := req.Header.Get("X-Zone"); zone != "" {
			r.From = &topology.Location{Region: "r", Zone: zone}
		}
	}}, serve(t, "near", "a", says("near")), serve(t, "far", "b", says("far")))
	for zone, want := range map[string]string{"": "near", "a": "near", "b": "far"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://user/", nil)
		req.Header.Set("X-Zone", zone)
		resp, err := f.RoundTrip(req)
		if _, got := read(t, resp, err); got != want {
			t.Errorf("from zone %q: %s, want %s", zone, got, want)
		}
	}
}

func TestFollowsRedirectsOfTheService(t *testing.T) {
	f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/new", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, r.URL.Path)
	}))
	resp, err := f.client().Get("http://user/old")
	if _, got := read(t, resp, err); got != "/new" || resp.Request.URL.String() != "http://user/new" {
		t.Errorf("got %q from %s", got, resp.Request.URL)
	}
	if n := f.inFlight(); n != 0 {
		t.Errorf("%d in flight at the end", n)
	}
}
