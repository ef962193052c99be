package router_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

// A balancer must see that the router is not ready before it refuses a connection.
func TestARouterThatStopsServesUntilItWasNoticed(t *testing.T) {
	t.Parallel()
	var log testkit.Output
	const drain = time.Second
	d := newFleet(t).loggedRouter(router.Options{Drain: drain, Grace: 5 * time.Second}, slog.New(slog.NewTextHandler(&log, nil)))
	d.instance("user", "u", zoneA, says("hello"))
	kept := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	get := func(c *http.Client, path string) (status int, closes bool, err error) {
		resp, err := c.Get(d.url + path)
		if err != nil {
			return 0, false, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, resp.Close, err
	}
	if status, closes, err := get(kept, "/proxy/user/"); status != 200 || closes || err != nil {
		t.Fatalf("before: %d, close %v, %v", status, closes, err)
	}

	ended := make(chan struct{})
	began := time.Now()
	go func() { d.end(); close(ended) }()
	notReady := false
	for refused := false; !refused; time.Sleep(20 * time.Millisecond) { // at a rate
		fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		status, _, err := get(fresh, "/readyz")
		if notReady = notReady || status == 503; err != nil {
			refused = true
		} else if status, _, err := get(fresh, "/proxy/user/"); err == nil && status != 200 {
			t.Errorf("after %v: a call got %d", time.Since(began), status)
		} else if err != nil {
			refused = true
		}
		if time.Since(began) < drain*3/4 {
			if status, closes, err := get(kept, "/proxy/user/"); status != 200 || err != nil || notReady && !closes {
				t.Errorf("after %v on a kept connection: %d, close %v, %v", time.Since(began), status, closes, err)
			}
		}
	}
	if served := time.Since(began); !notReady || served < drain {
		t.Errorf("refused after %v, seen not ready: %v", served, notReady)
	}
	<-ended
	for _, want := range []string{"stopping: not ready any more", "taking no more calls"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("not in the log: %s", want)
		}
	}
}

func TestWhatIsCutOffIsLogged(t *testing.T) {
	t.Parallel()
	var log testkit.Output
	d := newFleet(t).loggedRouter(router.Options{Grace: 200 * time.Millisecond}, slog.New(slog.NewTextHandler(&log, nil)))
	inside := make(chan struct{}, 2)
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			_, _ = io.WriteString(w, "begin")
			_ = http.NewResponseController(w).Flush()
		}
		inside <- struct{}{}
		<-r.Context().Done()
	}))
	for _, path := range []string{"/stream", "/call"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /proxy/user"+path+" HTTP/1.1\r\nHost: r\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-inside
		if path == "/stream" {
			got := make([]byte, 512)
			if n, err := conn.Read(got); err != nil || !bytes.Contains(got[:n], []byte("200 OK")) {
				t.Fatalf("%s, %v", got[:n], err)
			}
		}
	}
	d.end()
	if !strings.Contains(log.String(), `msg="cutting off what has not ended" calls=1 streams=1`) {
		t.Errorf("the log:\n%s", log.String())
	}
}

func TestAHurriedRouterStopsAtOnce(t *testing.T) {
	t.Parallel()
	hurry := make(chan struct{})
	d := newFleet(t).router(router.Options{Drain: time.Hour, Grace: time.Hour, Hurry: hurry})
	inside := make(chan struct{})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
	}))
	go func() {
		if resp, err := http.Get(d.url + "/proxy/user/"); err == nil {
			resp.Body.Close()
		}
	}()
	<-inside
	ended := make(chan struct{})
	go func() { d.end(); close(ended) }()
	select {
	case <-ended:
		t.Fatal("it did not drain")
	case <-time.After(100 * time.Millisecond):
	}
	close(hurry)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case <-ended:
	case <-ctx.Done():
		t.Fatal("it goes on")
	}
}
