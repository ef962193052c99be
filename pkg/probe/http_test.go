package probe_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/probe"
)

// requests is a handler that remembers what it was asked.
type requests struct {
	http.Handler
	seen chan string
}

func newRequests(h http.HandlerFunc) *requests { return &requests{h, make(chan string, 100)} }

func (r *requests) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.seen <- req.Method + " " + req.RequestURI + " " + req.Proto
	r.Handler.ServeHTTP(w, req)
}

func TestHTTPWithoutAPathAsksTheServerAndNoHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, delay)
		r := newRequests(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) })
		serveHTTP(t, m, r)
		p := probe.HTTP(m.Dial, "10.0.0.1:80", "", nil)
		defer p.Close()
		for range 3 {
			wantRTT(t, p.Probe, 2*delay)
		}
		if len(r.seen) != 0 {
			t.Errorf("the handler was asked %s", <-r.seen)
		}
	})
}

func TestHTTPWithAPathMeasuresItsHandlerToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, delay)
		r := newRequests(func(http.ResponseWriter, *http.Request) { time.Sleep(3 * time.Millisecond) })
		serveHTTP(t, m, r)
		p := probe.HTTP(m.Dial, "10.0.0.1:80", "/health/live?deep=no", nil)
		defer p.Close()
		for range 3 {
			wantRTT(t, p.Probe, 2*delay+3*time.Millisecond)
			if got, want := <-r.seen, "HEAD /health/live?deep=no HTTP/1.1"; got != want {
				t.Errorf("asked %s, want %s", got, want)
			}
		}
	})
}

func TestHTTPJudgesTheStatus(t *testing.T) {
	for status, sample := range map[int]bool{
		200: true, 204: true, 301: true, 400: true, 404: true, 405: true, 429: true, 500: false, 502: false, 503: false,
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(t, delay)
			r := newRequests(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
			})
			serveHTTP(t, m, r)
			p := probe.HTTP(m.Dial, "10.0.0.1:80", "/", nil)
			defer p.Close()
			for range 3 {
				rtt, err := p.Probe(t.Context())
				if (err == nil) != sample || (rtt == 2*delay) != sample || errors.Is(err, probe.ErrNotProbed) {
					t.Errorf("status %d: %v, %v", status, rtt, err)
				}
			}
			if m.dialled() != 1 || len(r.seen) != 3 {
				t.Errorf("status %d: %d connections for %d requests, want 1 for 3", status, m.dialled(), len(r.seen))
			}
		})
	}
}

// An endless answer is no reason to read it.
func TestHTTPReadsNoMoreOfAnAnswerThanItNeeds(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n"
	for name, response := range map[string]string{
		"a short body":   head + "Content-Length: 5\r\n\r\nhello",
		"a long body":    head + "Content-Length: 5000000\r\n\r\n" + strings.Repeat("x", 8000),
		"an open end":    "HTTP/1.1 200 OK\r\n\r\nhello",
		"a slow body":    head + "Content-Length: 4000\r\n\r\nhello",
		"chunks":         head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"other answers":  "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + head + "Content-Length: 0\r\n\r\n",
		"no end of head": head + "X: " + strings.Repeat("x", 1<<20),
		"no HTTP":        "SSH-2.0-OpenSSH_9.9\r\n",
		"nothing":        "",
	} {
		t.Run(name, func(t *testing.T) {
			address := listen(t, func(conn net.Conn) {
				if _, err := conn.Read(make([]byte, 4096)); err == nil {
					_, _ = io.WriteString(conn, response)
				}
				_, _ = io.Copy(io.Discard, conn) // until the other end closes
			})
			sample := !strings.HasPrefix(name, "no")
			p := probe.HTTP(nil, address, "", nil)
			defer p.Close()
			ctx, cancel := contextFor(t, 500*time.Millisecond)
			defer cancel()
			if rtt, err := p.Probe(ctx); (err == nil) != sample || (rtt > 0) != sample {
				t.Errorf("got %v, %v", rtt, err)
			}
		})
	}
}

func TestHTTPRefusesInvalidPaths(t *testing.T) {
	for _, path := range []string{"health", ":81/", "/%zz", "/a\nb", "@evil:80/", "/\x00"} {
		p := probe.HTTP(nil, "127.0.0.1:1", path, nil)
		if _, err := p.Probe(t.Context()); !errors.Is(err, probe.ErrNotProbed) || !strings.Contains(err.Error(), "path") {
			t.Errorf("%q: %v", path, err)
		}
		_ = p.Close()
	}
}

func TestHTTPUsesNoProxy(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	p := probe.HTTP(nil, srv.Listener.Addr().String(), "", nil)
	defer p.Close()
	if rtt, err := p.Probe(t.Context()); err != nil || rtt <= 0 {
		t.Errorf("got %v, %v", rtt, err)
	}
}

// secureServer serves TLS, with or without HTTP/2, and counts connections.
func secureServer(t *testing.T, h http.Handler, http2 bool) (srv *httptest.Server, trust *tls.Config, opened *atomic.Int32) {
	t.Helper()
	opened = new(atomic.Int32)
	srv = httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = http2
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return srv, &tls.Config{RootCAs: roots}, opened
}

func TestHTTPUsesTheVersionThatTheServerOffersOverTLS(t *testing.T) {
	for http2, version := range map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"} {
		r := newRequests(func(http.ResponseWriter, *http.Request) {})
		srv, trust, opened := secureServer(t, r, http2)
		for _, path := range []string{"", "/x"} {
			p := probe.HTTP(nil, srv.Listener.Addr().String(), path, trust)
			for range 3 {
				if rtt, err := p.Probe(t.Context()); err != nil || rtt <= 0 || rtt > time.Second {
					t.Errorf("%s: got %v, %v", version, rtt, err)
				}
			}
			_ = p.Close()
		}
		if n := opened.Load(); n != 2 {
			t.Errorf("%s: %d connections, want 2", version, n)
		}
		if got := <-r.seen; got != "HEAD /x "+version || len(r.seen) != 2 {
			t.Errorf("%s: asked %s", version, got)
		}
	}
}

func TestCertificatesAreVerified(t *testing.T) {
	srv, _, _ := secureServer(t, unimplemented, true)
	address := srv.Listener.Addr().String()
	for name, p := range map[string]*probe.Session{
		"http":  probe.HTTP(nil, address, "", new(tls.Config)),
		"http2": probe.HTTP2(nil, address, new(tls.Config)),
	} {
		_, err := p.Probe(t.Context())
		if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
		_ = p.Close()
	}
}
