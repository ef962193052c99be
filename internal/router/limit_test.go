package router_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestTheLimitThatEndedACallIsNamed(t *testing.T) {
	t.Parallel()
	var log lines
	d := newFleet(t).loggedRouter(router.Options{Timeout: 300 * time.Millisecond}, slog.New(slog.NewTextHandler(&log, nil)))
	open := make(chan struct{})
	defer close(open)
	d.instance("user", "u", zoneA, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-open:
		case <-r.Context().Done():
		}
	}))
	began := time.Now()
	if got := d.get("/proxy/user/"); got.status != 504 || !strings.Contains(got.err(), "(--timeout 300ms)") {
		t.Errorf("the router's: %d %s", got.status, got.body)
	}
	if got := d.get("/proxy/user/", "Proxima-Timeout", "20ms"); got.status != 504 || !strings.Contains(got.err(), "(Proxima-Timeout 20ms)") {
		t.Errorf("the caller's: %d %s", got.status, got.body)
	}
	if got := d.get("/proxy/user/", "Proxima-Timeout", "5m"); got.status != 504 || !strings.Contains(got.err(), "(--timeout 300ms)") {
		t.Errorf("the caller's is longer: %d %s", got.status, got.body)
	}
	reply, code := d.ask("proxima.route.user", "", "proxima-TIMEOUT", "20ms")
	if code != "504" || !strings.Contains(reply.Header.Get(micro.ErrorHeader), "(Proxima-Timeout 20ms)") {
		t.Errorf("by NATS: %s %v", code, reply.Header)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	for _, bad := range []string{"0", "-1s", "5", "x", "1500", "NaN"} {
		if got := d.get("/proxy/user/", "Proxima-Timeout", bad); got.status != 400 || !strings.Contains(got.err(), "Proxima-Timeout") {
			t.Errorf("%q: %d %s", bad, got.status, got.body)
		}
		if _, code := d.ask("proxima.route.user", "", "Proxima-Timeout", bad); code != "400" {
			t.Errorf("%q by NATS: %s", bad, code)
		}
	}
	if got := log.String(); !strings.Contains(got, `msg="a call was ended because it took too long" service=user limit=--timeout value=300ms`) || strings.Count(got, "took too long") > 3 {
		t.Errorf("the log:\n%s", got)
	}
}

func TestAnInstanceIsToldWhatIsLeft(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.router(router.Options{Timeout: 5 * time.Second, Selector: selector.Options{Strategy: selector.Nearest}})
	told := make(chan time.Duration, 10)
	hear := func(text string) {
		left, err := time.ParseDuration(text)
		if err != nil {
			t.Errorf("told %q: %v", text, err)
		}
		told <- left
	}
	d.instance("user", "first", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hear(r.Header.Get("Proxima-Timeout"))
		time.Sleep(300 * time.Millisecond) // what is left gets less
		w.WriteHeader(http.StatusInternalServerError)
	}))
	d.instance("user", "second", zoneB, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hear(r.Header.Get("Proxima-Timeout"))
		fmt.Fprint(w, "done")
	}))
	for _, try := range []func(){
		func() { d.get("/proxy/user/", "Proxima-Timeout", "3s") },
		func() { d.ask("proxima.route.user", "", "Proxima-Timeout", "3s", "Proxima-Method", "GET") },
	} {
		try()
		if first := <-told; first > 3*time.Second || first < 2*time.Second {
			t.Errorf("the first instance was told %v of 3s", first)
		}
		if second := <-told; second > 2700*time.Millisecond || second < time.Second {
			t.Errorf("the second one was told %v of 3s, after 300ms", second)
		}
	}
	if _, err := f.nc.Subscribe("price.1", func(m *nats.Msg) {
		hear(m.Header.Get("Proxima-Timeout"))
		_ = m.Respond(nil)
	}); err != nil {
		t.Fatal(err)
	}
	d.list(onSubject("price", "p", "price.1"))
	d.ask("proxima.route.price", "")
	if left := <-told; left > 5*time.Second || left < 4*time.Second {
		t.Errorf("the NATS service was told %v of 5s", left)
	}
}

// What the caller said counts from the begin, also while it sends.
func TestASlowUploadDoesNotProlongWhatTheCallerWaits(t *testing.T) {
	t.Parallel()
	d := newFleet(t).router(router.Options{Timeout: 10 * time.Second})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	r, w := io.Pipe()
	defer w.Close()
	go func() {
		for {
			if _, err := w.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond) // the caller takes its time
		}
	}()
	req, err := http.NewRequest("PUT", d.url+"/proxy/user/", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Proxima-Timeout", "200ms")
	began := time.Now()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	if took := time.Since(began); took > 5*time.Second || err == nil && resp.StatusCode != 504 {
		t.Errorf("%v after %v, %v", resp, took, err)
	}
}
