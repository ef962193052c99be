package check_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/proxima-discovery/proxima/internal/announcing/check"
)

func Example() {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	ask, err := check.Parse(srv.URL + "/healthz")
	if err != nil {
		fmt.Println(err)
		return
	}
	err = ask(context.Background())
	fmt.Println(strings.ReplaceAll(err.Error(), srv.URL, "http://…"))
	// Output: http://…/healthz: got 404 Not Found, want 2xx or 3xx
}

func parse(t *testing.T, s string) check.Func {
	t.Helper()
	ask, err := check.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ask
}

// wants fails the test unless err ends with want; "" wants nil.
func wants(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("error %v", err)
	case want != "" && (err == nil || !strings.HasSuffix(err.Error(), want)):
		t.Errorf("error %v, want …%s", err, want)
	}
}

func TestHTTPPassesOn2xxAnd3xx(t *testing.T) {
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/healthz?full=1" || r.Method != http.MethodGet {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.Header().Set("Location", "http://elsewhere.invalid/")
		w.WriteHeader(status)
	}))
	defer srv.Close()
	ask := parse(t, srv.URL+"/healthz?full=1")
	for code, want := range map[int]string{
		200: "", 204: "", 302: "", 308: "",
		400: "got 400 Bad Request, want 2xx or 3xx", 503: "got 503 Service Unavailable, want 2xx or 3xx",
	} {
		status = code
		wants(t, ask(t.Context()), want)
	}
}

func TestHTTPFollowsNoRedirect(t *testing.T) {
	var asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer elsewhere.Close()
	srv := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer srv.Close()
	wants(t, parse(t, srv.URL)(t.Context()), "")
	if asked.Load() != 0 {
		t.Error("asked the target of the redirect")
	}
}

func TestHTTPUsesOneConnection(t *testing.T) {
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat("all is well\n", 1000))
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	ask := parse(t, srv.URL)
	for range 5 {
		wants(t, ask(t.Context()), "")
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 5 checks", n)
	}
}

func TestHTTPSVerifiesNoCertificate(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	wants(t, parse(t, srv.URL)(t.Context()), "got 404 Not Found, want 2xx or 3xx")
}

func TestTCPPassesWhileAServerListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ask := parse(t, "tcp://"+l.Addr().String())
	wants(t, ask(t.Context()), "")
	wants(t, check.TCP(l.Addr().String())(t.Context()), "")
	l.Close()
	name := "tcp://" + l.Addr().String()
	wants(t, ask(t.Context()), name+": connect: connection refused")
	wants(t, check.TCP(l.Addr().String())(t.Context()), name+": connect: connection refused")
	wants(t, parse(t, "http://"+l.Addr().String())(t.Context()), ": connect: connection refused")
}

func TestGRPCAsksTheHealthService(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, states := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, states)
	serve(t, srv, l)
	states.SetServingStatus("user.v1.Users", grpc_health_v1.HealthCheckResponse_SERVING)

	whole := parse(t, "grpc://"+l.Addr().String())
	users := parse(t, "grpc://"+l.Addr().String()+"/user.v1.Users")
	wants(t, whole(t.Context()), "")
	wants(t, users(t.Context()), "")
	states.SetServingStatus("user.v1.Users", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	wants(t, users(t.Context()), "got NOT_SERVING, want SERVING")
	wants(t, parse(t, "grpc://"+l.Addr().String()+"/other")(t.Context()), `the server does not know service "other"`)
	srv.Stop()
	wants(t, whole(t.Context()), "connection refused\"")

	if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	bare := grpc.NewServer()
	serve(t, bare, l)
	wants(t, parse(t, "grpc://"+l.Addr().String())(t.Context()), "the server has no grpc.health.v1.Health")
}

func serve(t *testing.T, srv *grpc.Server, l net.Listener) {
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) }) // returns ErrServerStopped
	t.Cleanup(func() {
		srv.Stop()
		serving.Wait()
	})
}

// A server that accepts and never answers.
func TestNoAnswerInTimeIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, scheme := range []string{"http", "grpc"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := parse(t, scheme+"://"+l.Addr().String())(ctx)
		cancel()
		wants(t, err, ": no answer in time: context deadline exceeded")
	}
	began := time.Now()
	if err := parse(t, "http://"+l.Addr().String())(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took < check.Timeout || took > 3*check.Timeout {
		t.Errorf("took %v without a deadline", took)
	}
}

func TestInvalidURLsAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "x", "10.0.0.5:80", "http:", "http://", "http://:80/", "http:10.0.0.5", "http://h:x/", "http://h:0/", "http://h:99999/",
		"tcp://h", "tcp://h:0", "tcp://h:80/path", "tcp://u@h:80", "tcp://h:80?x=1",
		"grpc://h", "grpc://h:80?x=1", "udp://h:80", "ftp://h/", "none",
	} {
		if _, err := check.Parse(s); err == nil || !strings.HasPrefix(err.Error(), "check ") || !strings.Contains(err.Error(), "want ") {
			t.Errorf("%q: error %v", s, err)
		}
	}
}

func TestErrorsContainNoPassword(t *testing.T) {
	err := parse(t, "http://user:secret@127.0.0.1:1/")(t.Context())
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v", err)
	}
	if _, err = check.Parse("http://user:secret@127.0.0.1:x/"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1:1/healthz", "https://[::1]:1", "tcp://127.0.0.1:1", "grpc://127.0.0.1:1/a.B", "none", "http://%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ask, err := check.Parse(s)
		if (ask == nil) != (err != nil) {
			t.Fatalf("%q: %v", s, err)
		}
		if err == nil {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if ask(ctx) == nil { // its context has ended; it must not panic
				t.Fatalf("%q passed in no time", s)
			}
		}
	})
}
