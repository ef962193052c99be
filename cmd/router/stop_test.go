package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// serveWith starts a router with a NATS server of its own, and an instance of the
// service user that answers with handler.
func serveWith(t *testing.T, handler http.HandlerFunc, args ...string) (p *testkit.Process, w web, natsURL string) {
	t.Helper()
	backend := httptest.NewServer(handler)
	t.Cleanup(func() {
		backend.CloseClientConnections() // of calls that the test leaves behind
		backend.Close()
	})
	p = start(t, slices.Concat([]string{"serve", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--region", "r1", "--zone", "a"}, args)...)
	natsURL = p.Stdout.Await(t, `^NATS: an embedded server at (nats://\S+) `)
	w = web{t, p.Stdout.Await(t, `^HTTP: (http://\S+)$`)}
	w.ready()
	if status, body := w.do("POST", "/v1/register", strings.Replace(registration, "127.0.0.1:9", backend.Listener.Addr().String(), 1)); status != 201 {
		t.Fatalf("register: %d %s", status, body)
	}
	return p, w, natsURL
}

// asked is what became of a request.
type asked struct {
	at     time.Time // when it was answered, or failed
	status int       // 0: it failed
	close  bool      // the answer asks to close the connection
	err    error
}

// asking sends a request every 20 ms, until one fails, and returns what became of
// all of them. A client that is not kept makes a new connection for each.
func asking(url string, kept bool) (wait func() []asked) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: !kept}, Timeout: 10 * time.Second}
	var all []asked
	var done sync.WaitGroup
	done.Go(func() {
		defer client.CloseIdleConnections()
		every := time.NewTicker(20 * time.Millisecond)
		defer every.Stop()
		for range every.C {
			resp, err := client.Get(url)
			a := asked{at: time.Now(), err: err}
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				a.status, a.close = resp.StatusCode, resp.Close
			}
			all = append(all, a)
			if err != nil {
				return
			}
		}
	})
	return func() []asked {
		done.Wait()
		return all
	}
}

// A load balancer sees that the router is not ready, and a client with a kept
// connection goes elsewhere, before anything is refused.
func TestARouterThatStopsIsNotReadyAndServesOnBeforeItRefusesConnections(t *testing.T) {
	t.Parallel()
	const drain = time.Second
	hello := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }
	p, w, natsURL := serveWith(t, hello, "--drain", drain.String())
	nc, err := nats.Connect(natsURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	idle := &http.Client{Transport: &http.Transport{}}
	defer idle.CloseIdleConnections()
	if resp, err := idle.Get(w.url + "/healthz"); err != nil {
		t.Fatal(err)
	} else {
		resp.Body.Close()
	}

	probes, calls, kept := asking(w.url+"/readyz", false), asking(w.url+"/proxy/user/", false), asking(w.url+"/proxy/user/", true)
	testkit.Eventually(t, "some calls", func() bool {
		_, metrics := w.do("GET", "/metrics", "")
		return strings.Contains(metrics, `proxima_router_requests_total{code="200",door="proxy",service="user"}`)
	})
	stopped := time.Now()
	p.Signal(syscall.SIGTERM)
	p.Stderr.Await(t, "stopping: not ready any more")
	// In the drain: a connection that was idle is not cut, and NATS is answered.
	resp, err := idle.Get(w.url + "/v1/services/user")
	if err != nil || resp.StatusCode != 200 || !resp.Close {
		t.Errorf("an idle connection: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if m, err := nc.Request("proxima.resolve.user", nil, time.Second); err != nil || m.Header.Get("Nats-Service-Error-Code") != "" {
		t.Errorf("by NATS: %v, %v", m, err)
	}
	code, ended := p.Exit(), time.Now()
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := ended.Sub(stopped); took < drain || took > drain+5*time.Second {
		t.Errorf("it took %v to end", took)
	}
	unready := time.Time{}
	for _, a := range probes() {
		if a.status == http.StatusServiceUnavailable && unready.IsZero() {
			unready = a.at
		}
	}
	for name, all := range map[string][]asked{"new connections": calls(), "a kept connection": kept()} {
		refused := all[len(all)-1]
		// The system resets a connection that waits to be accepted.
		if !errors.Is(refused.err, syscall.ECONNREFUSED) && !errors.Is(refused.err, syscall.ECONNRESET) {
			t.Errorf("%s: the last failed with %v", name, refused.err)
		}
		if unready.IsZero() || !unready.Before(refused.at) {
			t.Errorf("%s: refused at %v, not ready at %v", name, refused.at, unready)
		}
		if served := refused.at.Sub(stopped); served < drain*9/10 {
			t.Errorf("%s: served for %v after the signal", name, served)
		}
		if last := all[len(all)-2]; !last.close {
			t.Errorf("%s: the last answer does not ask to close", name)
		}
		for _, a := range all[:len(all)-1] {
			if a.status != 200 {
				t.Errorf("%s: %d after %v", name, a.status, a.at.Sub(stopped))
			}
		}
	}
	for _, line := range []string{"taking no more calls", "msg=stopped"} {
		if !p.Stderr.Contains(line) {
			t.Errorf("no line with %q", line)
		}
	}
}

func TestWhatDoesNotEndInTheGraceIsCutAndCounted(t *testing.T) {
	t.Parallel()
	inside, begun := make(chan string, 4), make(chan struct{}, 2)
	p, w, _ := serveWith(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			w.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
		}
		inside <- r.URL.Path
		<-r.Context().Done()
	}, "--grace", "300ms")
	var clients sync.WaitGroup
	for _, path := range []string{"/proxy/user/slow", "/proxy/user/stream", "/proxy/user/stream"} {
		clients.Go(func() {
			resp, err := http.Get(w.url + path)
			if err == nil {
				begun <- struct{}{} // the call that is not answered gets a 502 later
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
		if <-inside == "/stream" {
			<-begun
		}
	}
	// The streams of changes end by themselves, as they should.
	resp, err := http.Get(w.url + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("the stream of changes was cut: %v", err)
	}
	clients.Wait()
	for _, line := range []string{
		`taking no more calls, waiting for those that run" calls=1 streams=2 nats_calls=0 grace=300ms`,
		`cutting off what has not ended" calls=1 streams=2 nats_calls=0`,
	} {
		p.Stderr.Await(t, line)
	}
}

func TestASecondSignalSkipsWhatIsLeftOfTheEnd(t *testing.T) {
	t.Parallel()
	inside := make(chan struct{}, 1)
	p, w, _ := serveWith(t, func(_ http.ResponseWriter, r *http.Request) {
		inside <- struct{}{}
		<-r.Context().Done()
	}, "--drain", "1h", "--grace", "1h")
	var client sync.WaitGroup
	client.Go(func() {
		if resp, err := http.Get(w.url + "/proxy/user/"); err == nil {
			resp.Body.Close()
		}
	})
	<-inside
	p.Signal(os.Interrupt)
	p.Stderr.Await(t, "stopping: not ready any more")
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	client.Wait()
	p.Stderr.Await(t, "cutting off what has not ended\" calls=1 ")
}

func TestAHangupDoesNotEndARouter(t *testing.T) {
	t.Parallel()
	p := start(t, "serve", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0")
	w := web{t, p.Stdout.Await(t, `^HTTP: (http://\S+)$`)}
	p.Signal(syscall.SIGHUP)
	p.Stderr.Await(t, "SIGHUP changes nothing")
	w.ready()
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// On a terminal it is the end of the terminal.
func TestAWatchThatWritesToAFileGoesOnAfterSIGHUP(t *testing.T) {
	t.Parallel()
	_, w, url := serveWith(t, func(http.ResponseWriter, *http.Request) {})
	p := start(t, "watch", "--nats-url", url)
	p.Stdout.Await(t, "listed +user")
	p.Signal(syscall.SIGHUP)
	p.Stderr.Await(t, "SIGHUP changes nothing")
	w.do("POST", "/v1/register", strings.Replace(registration, `"user"`, `"other"`, 1))
	p.Stdout.Await(t, "registered +other")
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSystemdHearsWhenARouterIsReadyAndAliveAndStops(t *testing.T) {
	t.Parallel()
	path, heard := testkit.NotifySocket(t)
	await := func(line string) { t.Helper(); heard.Await(t, "^"+line+"$") }
	p := testkit.Start(t, testkit.Command{
		Args: []string{"serve", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--drain", "0s"},
		Env:  []string{childEnv + "=1", "NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=100000"},
	})
	await("READY=1")
	await("STATUS=working")
	await("WATCHDOG=1")
	if status, _ := (web{t, p.Stdout.Await(t, `^HTTP: (http://\S+)$`)}).do("GET", "/readyz", ""); status != 200 {
		t.Errorf("systemd heard that it is ready, and it answers %d", status)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	await("STOPPING=1\nSTATUS=stopping")
}

// passed starts a router that inherits sockets as systemd passes them.
func passed(t *testing.T, names string, files ...*os.File) *testkit.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return testkit.Start(t, testkit.Command{
		Path: "/bin/sh", // to know the number of the process before it starts
		Args: []string{
			"-c", fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec "$0" "$@"`, len(files), names), self,
			"serve", "--http", "127.0.0.1:1", "--nats-listen", "127.0.0.1:0", "--drain", "0s",
		},
		Env: []string{childEnv + "=1"}, Files: files,
	})
}

// socket is a listening socket, and its file.
func socket(t *testing.T, network, address string) (net.Listener, *os.File) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return l, f
}

func TestARouterServesOnASocketThatSystemdHasPassed(t *testing.T) {
	t.Parallel()
	l, f := socket(t, "tcp", "127.0.0.1:0")
	_, other := socket(t, "tcp", "127.0.0.1:0")
	for name, p := range map[string]*testkit.Process{
		"the only one":    passed(t, "router.socket", f),
		"by its own name": passed(t, "other:http", other, f),
	} {
		if got, want := p.Stdout.Await(t, `^HTTP: (\S+)$`), "http://"+l.Addr().String(); got != want {
			t.Errorf("%s: serves on %s, want %s", name, got, want)
		}
		web{t, "http://" + l.Addr().String()}.ready()
		if code := p.Stop(); code != 0 {
			t.Errorf("%s: exit code %d", name, code)
		}
	}
	// The next router answers clients that connect while there is none.
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := passed(t, "http", f)
	fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n")
	if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || got != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("%q, %v", got, err)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestARouterServesOnAUnixSocketThatSystemdHasPassed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	_, f := socket(t, "unix", path)
	p := passed(t, "http", f)
	p.Stdout.Await(t, "^HTTP: unix:"+path+"$")
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /proxy/user/ HTTP/1.1\r\nHost: r\r\n\r\n")
	if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("a call of a service that is not listed: %q, %v", got, err)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSocketsOfOtherNamesAreRefusedInOneLine(t *testing.T) {
	t.Parallel()
	_, one := socket(t, "tcp", "127.0.0.1:0")
	_, two := socket(t, "tcp", "127.0.0.1:0")
	p := passed(t, "a:b", one, two)
	if code := p.Exit(); code != 2 || !oneLine(p.Stderr.String()) || !p.Stderr.Contains("FileDescriptorName=http for --http") {
		t.Errorf("exit code %d", code)
	}
}
