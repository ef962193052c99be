package proximahttp_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
)

// curt answers one request on each connection, and closes it when the next one comes,
// without a word, as a server does whose time for idle connections is over.
type curt struct {
	net.Listener
	header string // of the answers
	conns  atomic.Int64
	closed chan time.Duration // how long the client kept a connection without a request, when it closed it
}

func newCurt(tb testing.TB, header string) *curt {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &curt{Listener: l, header: header, closed: make(chan time.Duration, 100)}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			go s.serve(conn)
		}
	}()
	return s
}

func (s *curt) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	body, _ := io.ReadAll(req.Body)
	text := req.Method + " " + string(body)
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", len(text), s.header, text)
	began := time.Now()
	if _, err := r.ReadByte(); err == io.EOF {
		s.closed <- time.Since(began)
	}
}

func TestAConnectionThatTheServerHasClosedIsNoFailure(t *testing.T) {
	s := newCurt(t, "")
	f := newFleet(t, proximahttp.Options{}, at("a", "a", events.HTTP, s.Addr().String()))
	for _, tt := range []struct {
		method string
		again  bool // it has a GetBody
	}{{"GET", true}, {"PUT", true}, {"PUT", false}, {"DELETE", true}, {"OPTIONS", false}, {"PUT", false}} {
		var body io.Reader = strings.NewReader("body")
		if !tt.again {
			body = io.MultiReader(body)
		}
		resp, err := f.client().Do(request(t, tt.method, body))
		if status, got := read(t, resp, err); status != 200 || got != tt.method+" body" {
			t.Errorf("%s: %d %q", tt.method, status, got)
		}
	}
	if got := f.opened(); got != "" {
		t.Errorf("breakers: %s", got)
	}
	if n := s.conns.Load(); n != 6 {
		t.Errorf("%d connections for 6 requests", n)
	}
	// A POST may have been executed: it is not sent twice.
	if resp, err := f.client().Do(request(t, "POST", strings.NewReader("body"))); err == nil {
		resp.Body.Close()
		t.Errorf("a POST on a connection that had been used: %s", resp.Status)
	}
}

func TestAConnectionIsClosedBeforeTheServerDoes(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"timeout=1", "max=9, Timeout=1", `timeout="1"`} {
		s := newCurt(t, "Keep-Alive: "+header+"\r\n")
		f := newFleet(t, proximahttp.Options{}, at("a", "a", events.HTTP, s.Addr().String()))
		resp, err := f.client().Get("http://user/")
		read(t, resp, err)
		if kept := <-s.closed; kept < 400*time.Millisecond || kept > 900*time.Millisecond {
			t.Errorf("%s: kept for %v", header, kept)
		}
		resp, err = f.client().Post("http://user/", "text/plain", strings.NewReader("x"))
		if status, _ := read(t, resp, err); status != 200 {
			t.Errorf("%s: the next one: %d", header, status)
		}
	}
}

func TestAnInvalidKeepAliveHeaderIsIgnored(t *testing.T) {
	for _, header := range []string{"", "timeout", "timeout=", "timeout=-1", "timeout=x", "max=5", "timeout=99999999999999999999", ",,=;"} {
		var conns atomic.Int64
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Keep-Alive", header) }))
		srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				conns.Add(1)
			}
		}
		srv.Start()
		f := newFleet(t, proximahttp.Options{}, at("a", "a", events.HTTP, srv.Listener.Addr().String()))
		for range 5 {
			resp, err := f.client().Get("http://user/")
			read(t, resp, err)
		}
		if n := conns.Load(); n != 1 {
			t.Errorf("%q: %d connections for 5 requests", header, n)
		}
		f.CloseIdleConnections()
		srv.Close()
	}
}

func TestConnectionsAge(t *testing.T) {
	var conns atomic.Int64
	srv := httptest.NewUnstartedServer(says("hello"))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	base := proximahttp.NewBase()
	const age = 200 * time.Millisecond
	base.DialContext = proximahttp.KeepFor(base.DialContext, age)
	defer base.CloseIdleConnections()
	f := newFleet(t, proximahttp.Options{Base: base}, at("a", "a", events.HTTP, srv.Listener.Addr().String()))
	var work sync.WaitGroup
	began := time.Now()
	for range 4 {
		work.Go(func() {
			for time.Since(began) < 5*age/2 {
				resp, err := f.client().Post("http://user/", "text/plain", io.MultiReader(strings.NewReader("x")))
				if err != nil {
					t.Error(err)
					return
				}
				if status, body := read(t, resp, err); status != 200 || body != "hello" {
					t.Errorf("%d %s", status, body)
				}
			}
		})
	}
	work.Wait()
	if n := conns.Load(); n < 3 || n > 40 {
		t.Errorf("%d connections of 4 callers in two and a half ages", n)
	}
	if got := f.opened(); got != "" {
		t.Errorf("breakers: %s", got)
	}
}

func TestAllConnectionsOfABurstAreKept(t *testing.T) {
	const burst = 150
	var conns atomic.Int64
	var inside atomic.Int64
	open := make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside.Add(1)
		<-open
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	f := newFleet(t, proximahttp.Options{}, at("a", "a", events.HTTP, srv.Listener.Addr().String()))
	for round := range 2 {
		var work sync.WaitGroup
		inside.Store(0)
		for range burst {
			work.Go(func() {
				resp, err := f.client().Get("http://user/")
				if err != nil {
					t.Error(err)
					return
				}
				read(t, resp, err)
			})
		}
		testkit.Eventually(t, "all to be inside", func() bool { return inside.Load() == burst })
		if round == 0 {
			close(open)
		}
		work.Wait()
	}
	if n := conns.Load(); n != burst {
		t.Errorf("%d connections for two bursts of %d", n, burst)
	}
}
