package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// beats are the beats of an instance.
type beats struct {
	t   testing.TB
	mu  sync.Mutex
	all []events.Beat
}

// beats collects the beats of one instance until the test ends.
func (r *registry) beats(k events.Key) *beats {
	r.t.Helper()
	b := &beats{t: r.t}
	nc := natstest.Connect(r.t, r.ns)
	_, err := nc.Subscribe("proxima."+k.Beat(), func(m *nats.Msg) {
		beat, err := events.DecodeBeat(m.Data)
		if err != nil {
			b.t.Errorf("%s: %v", m.Data, err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all = append(b.all, beat)
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (b *beats) get() []events.Beat {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]events.Beat(nil), b.all...)
}

// await returns the next beat for which right returns true.
func (b *beats) await(what string, right func(events.Beat) bool) (found events.Beat) {
	b.t.Helper()
	from := len(b.get())
	testkit.Eventually(b.t, "a beat with "+what, func() bool {
		for _, beat := range b.get()[from:] {
			if right(beat) {
				found = beat
				return true
			}
		}
		return false
	})
	return found
}

// loadServer answers with a text that the test sets.
type loadServer struct {
	*httptest.Server
	answer atomic.Pointer[string] // "503" is a status, /… a redirect
	delay  atomic.Int64
}

func newLoadServer(t *testing.T) *loadServer {
	s := &loadServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-time.After(time.Duration(s.delay.Load())):
		case <-req.Context().Done():
		}
		switch text := *s.answer.Load(); {
		case req.URL.RequestURI() != "/load?x=1":
			http.NotFound(w, req)
		case text == "503":
			w.WriteHeader(http.StatusServiceUnavailable)
		case strings.HasPrefix(text, "/"):
			http.Redirect(w, req, text, http.StatusFound)
		default:
			fmt.Fprint(w, text)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *loadServer) set(text string) { s.answer.Store(&text) }

func TestBeatsHaveTheLoadThatTheInstanceAnswers(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	s := newLoadServer(t)
	s.set(`{"cpu":0.5,"mem":0.25,"in_flight":3,"queue":1,"incarnation":"its own"}`)
	heard := r.beats(user1)
	p := start(t, []string{"PROXIMA_LOAD=" + s.URL + "/load?x=1"}, announce(r.url, deadAddress(t), "--beat-interval", "100ms")...)
	in := r.await(user1, events.Up)
	want := events.Beat{CPU: 0.5, Memory: 0.25, InFlight: 3, Queue: 1, Incarnation: in.Incarnation}
	if got := heard.await("the first", func(events.Beat) bool { return true }); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}

	for _, tt := range []struct{ answer, trouble string }{
		{"503", `got 503 Service Unavailable, want 2xx`},
		{"/load?x=1", `got 302 Found, want 2xx`},
		{`{"status":"UP"}`, `want at least one of cpu, mem, in_flight and queue`},
		{`{"cpu":42}`, `events: cpu \\"42\\": want a number, 0 to 1`},
		{`<html>`, `want a JSON object`},
		{`{"cpu":0}` + strings.Repeat(" ", 1<<20), `want at most 1024`},
	} {
		s.set(tt.answer)
		p.logs(`level=WARN msg="the load is unknown, no beats are sent" service=user instance=user-1 url="?` + s.URL + `/load\?x=1"? error="[^\n]*` + tt.trouble)
		before := len(heard.get())
		time.Sleep(300 * time.Millisecond) // in which no beat may come
		if n := len(heard.get()); n != before {
			t.Errorf("%.30s: %d beats", tt.answer, n-before)
		}
	}
	s.set(`{"queue":7}`)
	heard.await("the new load", func(b events.Beat) bool { return b == events.Beat{Queue: 7, Incarnation: in.Incarnation} })
	p.logs(`level=INFO msg="the load is known again"`)
	logged := regexp.MustCompile(`the load is unknown.*`).FindAllString(p.Stderr.String(), -1)
	logged = slices.DeleteFunc(logged, func(line string) bool { return strings.Contains(line, "no answer within") }) // a slow machine
	if n := len(logged); n != 6 {
		t.Errorf("logged %d troubles, want 6\n%s", n, p.Stderr)
	}
}

func TestALoadThatIsNotAnsweredInTimeIsUnknown(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	s := newLoadServer(t)
	s.set(`{"cpu":0.5}`)
	s.delay.Store(int64(time.Minute))
	p := start(t, nil, announce(r.url, deadAddress(t), "--beat-interval", "100ms", "--load", strings.Replace(s.URL, "//", "//u:secret@", 1)+"/load?x=1")...)
	p.logs(`the load is unknown, no beats are sent.*url="?http://u:xxxxx@127.* error="no answer within 2s"`)
	if strings.Contains(p.Stderr.String(), "secret") {
		t.Errorf("stderr %s", p.Stderr)
	}
	s.delay.Store(0)
	r.beats(user1).await("its load", func(b events.Beat) bool { return b.CPU == 0.5 })
}

func TestWithoutALoadThereAreNoBeats(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	heard := r.beats(user1)
	for _, more := range [][]string{{"--load", "none", "--", "sleep", "100"}, nil} {
		p := start(t, nil, announce(r.url, deadAddress(t), append([]string{"--check", "none", "--beat-interval", "100ms"}, more...)...)...)
		r.await(user1, events.Up)
		p.registered()
		time.Sleep(500 * time.Millisecond) // in which no beat may come
		p.Signal(syscall.SIGTERM)
		p.Exit()
	}
	if all := heard.get(); len(all) > 0 {
		t.Errorf("heard %+v", all)
	}
}
