package proximahttp_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestARequestIsInFlightUntilTheHeadOfItsResponse(t *testing.T) {
	f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/empty" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = io.WriteString(w, strings.Repeat("x", 10<<10))
	}))
	get := func(method, path string) *http.Response {
		t.Helper()
		req := request(t, method, nil)
		req.URL.Path = path
		resp, err := f.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	want := func(when string, n int) {
		t.Helper()
		if got := f.inFlight(); got != n {
			t.Errorf("%s: %d in flight, want %d", when, got, n)
		}
	}

	a, b := get("GET", "/"), get("GET", "/")
	want("two heads", 0)
	if _, err := io.Copy(io.Discard, a.Body); err != nil {
		t.Fatal(err)
	}
	want("one read to its end", 0)
	a.Body.Close()
	want("and closed", 0)
	_, _ = b.Body.Read(make([]byte, 10))
	want("the other read in part", 0)
	b.Body.Close()
	b.Body.Close()
	want("and closed twice", 0)

	for _, resp := range []*http.Response{get("HEAD", "/"), get("GET", "/empty")} { //nolint:bodyclose // there are none
		want("no body", 0)
		if resp.Body != http.NoBody {
			t.Errorf("the body is a %T, want http.NoBody", resp.Body)
		}
	}

	var readers sync.WaitGroup
	for range 20 {
		resp := get("GET", "/")
		readers.Go(func() { _, _ = io.Copy(io.Discard, resp.Body) })
		readers.Go(func() { _ = resp.Body.Close() })
	}
	readers.Wait()
	want("20 closed while they are read", 0)
	if f.opened() != "" {
		t.Errorf("breakers: %s", f.opened())
	}
}

// cutOff promises more than it sends.
func cutOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	_, _ = io.WriteString(w, "some")
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestABodyCutOffIsAFailureThatTheCallerSees(t *testing.T) {
	f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", cutOff), serve(t, "far", "b", says("far")))
	resp, err := f.client().Get("http://user/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if string(data) != "some" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %q, %v", data, err)
	}
	if f.opened() != "near open" || f.inFlight() != 0 || f.picks() != 1 {
		t.Errorf("breakers %q, %d in flight, %d attempts", f.opened(), f.inFlight(), f.picks())
	}
	resp, err = f.client().Get("http://user/")
	if _, got := read(t, resp, err); got != "far" {
		t.Errorf("the next is answered by %s", got)
	}
}

func TestABodyThatTheCallerGivesUpIsNoFailure(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"cancel", "deadline", "close", "client timeout"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel() // two of them wait for a second
			release := make(chan struct{})
			f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "some")
				_ = http.NewResponseController(w).Flush()
				<-release
			}))
			defer close(release) // before the server's Close, which waits for it
			ctx, cancel := context.WithCancel(t.Context())
			client := f.client()
			switch how {
			case "deadline":
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			case "client timeout":
				client.Timeout = time.Second
			}
			defer cancel()
			resp, err := client.Do(request(t, "GET", nil).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if _, err := io.ReadFull(resp.Body, make([]byte, 4)); err != nil {
				t.Error(err)
			}
			switch how {
			case "cancel":
				cancel()
			case "close":
				resp.Body.Close()
			}
			if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
				t.Error("read on")
			}
			if f.opened() != "" || f.inFlight() != 0 {
				t.Errorf("breakers %q, %d in flight", f.opened(), f.inFlight())
			}
		})
	}
}

func TestAnUpgradedConnectionIsTheBody(t *testing.T) {
	f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		_, _ = io.Copy(conn, rw) // an echo, until the other side is done writing
		_, _ = io.WriteString(conn, "bye")
	}))
	resp, err := f.RoundTrip(request(t, "GET", nil, "Connection", "Upgrade", "Upgrade", "echo"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok || proximahttp.Instance(resp).ID != "near" {
		t.Fatalf("status %d, body %T, want 101 and an io.ReadWriteCloser", resp.StatusCode, resp.Body)
	}
	for _, line := range []string{"one\n", "two\n"} {
		_, _ = io.WriteString(body, line)
		got, err := bufio.NewReader(body).ReadString('\n')
		if got != line || err != nil {
			t.Errorf("the echo of %q is %q, %v", line, got, err)
		}
	}
	if n := f.inFlight(); n != 0 {
		t.Errorf("%d in flight, want 0: a stream is no load", n)
	}
	if err := body.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(body); string(rest) != "bye" || err != nil {
		t.Errorf("read %q, %v", rest, err)
	}
	body.Close()
	if n := f.inFlight(); n != 0 || f.opened() != "" {
		t.Errorf("%d in flight, breakers %q", n, f.opened())
	}
}

func TestHTTPSGoesToHTTPSEndpointsWithHTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, r.Body) // in both directions at once
		w.Header().Set("X-Sum", r.Proto)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	base := proximahttp.NewBase()
	base.TLSClientConfig = &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	f := newFleet(t, proximahttp.Options{Base: base},
		serve(t, "plain", "a", says("plain")), at("secret", "b", events.HTTPS, srv.Listener.Addr().String()))

	in, out := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://user/echo", in)
	go func() {
		_, _ = io.WriteString(out, "hello")
		_ = out.Close()
	}()
	resp, err := f.client().Do(req)
	if _, got := read(t, resp, err); got != "hello" || resp.ProtoMajor != 2 || resp.Trailer.Get("X-Sum") != "HTTP/2.0" {
		t.Errorf("got %q by %s with the trailer %v", got, resp.Proto, resp.Trailer)
	}
	if id := proximahttp.Instance(resp).ID; id != "secret" || f.inFlight() != 0 {
		t.Errorf("answered by %s, %d in flight", id, f.inFlight())
	}
}

func TestWhatHTTPCanDoKeepsWorking(t *testing.T) {
	f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, "unpacked "+r.Header.Get("Accept-Encoding"))
			_ = z.Close()
		case "/expect":
			if r.Header.Get("Expect") != "100-continue" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			if r.Header.Get("X-Refuse") != "" {
				w.WriteHeader(http.StatusExpectationFailed) // without the body
				return
			}
			_, _ = io.Copy(w, r.Body)
		case "/length":
			_, _ = io.WriteString(w, strings.Join(r.TransferEncoding, ",")+" "+r.Header.Get("Content-Length"))
		}
	}))
	var resp *http.Response
	get := func(path string, body io.Reader, header ...string) string {
		t.Helper()
		req := request(t, "POST", body, header...)
		req.URL.Path = path
		var err error
		resp, err = f.client().Do(req) //nolint:bodyclose // read does
		_, text := read(t, resp, err)
		return text
	}
	if text := get("/trailer", nil); text != "body" || resp.Trailer.Get("X-Sum") != "42" {
		t.Errorf("%q with the trailer %v", text, resp.Trailer)
	}
	if text := get("/gzip", nil); text != "unpacked gzip" || !resp.Uncompressed {
		t.Errorf("%q", text)
	}
	if text := get("/expect", strings.NewReader("sent"), "Expect", "100-continue"); resp.StatusCode != 200 || text != "sent" {
		t.Errorf("%d %q", resp.StatusCode, text)
	}
	body := &countingBody{Reader: io.MultiReader(strings.NewReader("sent"), unwanted{t})}
	if get("/expect", body, "Expect", "100-continue", "X-Refuse", "1"); resp.StatusCode != 417 {
		t.Errorf("status %d, want 417", resp.StatusCode)
	}
	body.closedOnce(t, "after a refusal")
	if text := get("/length", io.MultiReader(strings.NewReader("sent"))); text != "chunked " {
		t.Errorf("a stream is sent as %q", text)
	}
	if n := f.inFlight(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

// unwanted must not be read.
type unwanted struct{ t *testing.T }

func (u unwanted) Read([]byte) (int, error) {
	u.t.Error("a refused body was read")
	return 0, io.EOF
}

// share sends n requests, one after the other, and returns the part that instance id
// answered.
func share(t *testing.T, f *fleet, n int, id string) float64 {
	t.Helper()
	got := 0
	for range n {
		resp, err := f.client().Get("http://user/")
		read(t, resp, err)
		if proximahttp.Instance(resp).ID == id {
			got++
		}
	}
	return float64(got) / float64(n)
}

func TestBalancesByTheTimeToTheHeadNotToTheEnd(t *testing.T) {
	t.Parallel()
	var s float64
	for range 3 { // a first answer that is late by chance counts for many calls
		f := newFleetWith(t, func(o *selector.Options) { o.Strategy = selector.P2C }, proximahttp.Options{},
			serve(t, "streams", "a", func(w http.ResponseWriter, _ *http.Request) {
				_ = http.NewResponseController(w).Flush()
				time.Sleep(20 * time.Millisecond) // the instance takes its time
				_, _ = io.WriteString(w, "slow body")
			}),
			serve(t, "thinks", "a", func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(10 * time.Millisecond) // the instance takes its time
				_, _ = io.WriteString(w, "slow head")
			}))
		if s = share(t, f, 60, "streams"); s >= 0.8 {
			return
		}
	}
	t.Errorf("the instance with the quick head gets %.0f %%", 100*s)
}

func TestQuickErrorsAttractNoRequests(t *testing.T) {
	for _, status := range []int{429, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			f := newFleetWith(t, func(o *selector.Options) { o.Strategy = selector.P2C }, proximahttp.Options{},
				serve(t, "fails", "a", fails(status)),
				serve(t, "works", "a", func(w http.ResponseWriter, _ *http.Request) {
					time.Sleep(3 * time.Millisecond) // the instance takes its time
					_, _ = io.WriteString(w, "slow")
				}))
			if s := share(t, f, 150, "fails"); s > 0.7 {
				t.Errorf("the instance that answers %d at once gets %.0f %%", status, 100*s)
			}
		})
	}
}

func TestOpeningAConnectionIsNotTheInstancesDuration(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	f := newFleetWith(t, func(o *selector.Options) { o.Strategy = selector.P2C }, proximahttp.Options{}, at("a", "a", events.HTTP, srv.Listener.Addr().String()))
	dial := f.base.DialContext
	f.base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		time.Sleep(300 * time.Millisecond) // a long way
		return dial(ctx, network, address)
	}
	client := &http.Client{Transport: f}
	resp, err := client.Get("http://user/")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	e, err := f.selector.Explain(t.Context(), selector.Request{Service: "user"})
	if err != nil {
		t.Fatal(err)
	}
	if ms := e.Instances[0].CallMS; ms <= 0 || ms > 250 {
		t.Errorf("the call is said to have taken %v ms, the connection took 300 and the answer next to nothing", ms)
	}
}

// Workers and consumers call under one context that lives as long as they do. A request
// must leave nothing in it, whatever became of it.
func TestRequestsLeaveNothingInAContextThatOutlivesThem(t *testing.T) {
	f := newFleet(t, proximahttp.Options{Base: answers{}}, serve(t, "near", "a", says("near")), serve(t, "other", "a", says("other")))
	root, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, path := range []string{"/read", "/close", "/partly", "/empty", "/404", "/500", "/fails"} {
		t.Run(path[1:], func(t *testing.T) {
			req := request(t, "POST", nil).WithContext(root)
			req.URL.Path = path
			call := func() {
				resp, err := f.RoundTrip(req)
				if err != nil {
					return
				}
				switch path {
				case "/partly":
					_, _ = resp.Body.Read(make([]byte, 1))
					fallthrough
				case "/close":
				default:
					_, _ = io.Copy(io.Discard, resp.Body)
				}
				resp.Body.Close()
			}
			heap := func() uint64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.GC()
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			for range 1000 {
				call()
			}
			const n = 20000
			before := heap()
			for range n {
				call()
			}
			if more := int64(heap()) - int64(before); more > 20*n {
				t.Errorf("%d bytes a request are left", more/n)
			}
		})
	}
}

// answers is the network of a test that makes many requests.
type answers struct{}

func (answers) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("answer"))}
	switch req.URL.Path {
	case "/empty":
		resp.StatusCode, resp.Body = 204, http.NoBody
	case "/404":
		resp.StatusCode = 404
	case "/500":
		resp.StatusCode = 500
	case "/fails":
		return nil, io.ErrUnexpectedEOF
	}
	return resp, nil
}
