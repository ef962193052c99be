package proximahttp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/policy"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// ruled is a source whose services have a policy.
type ruled struct {
	static

	mu      sync.Mutex
	current policy.Current
	apply   []func(policy.Current)
}

func (r *ruled) WatchPolicy(ctx context.Context, _ string, apply func(policy.Current)) error {
	r.mu.Lock()
	apply(r.current)
	r.apply = append(r.apply, apply)
	r.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (r *ruled) set(tb testing.TB, text string) {
	tb.Helper()
	p, err := policy.Decode([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current.Service = policy.Document{Name: "user", Policy: p, Revision: r.current.Service.Revision + 1}
	for _, apply := range r.apply {
		apply(r.current)
	}
}

// newRuled makes a fleet whose service has a policy.
func newRuled(tb testing.TB, text string, o proximahttp.Options, instances ...events.Entry) (*fleet, *ruled) {
	tb.Helper()
	r := &ruled{static: instances}
	r.set(tb, text)
	return newFleetWith(tb, func(o *selector.Options) { o.Source, o.Strategy = r, "" }, o, instances...), r
}

// serveVersion starts an instance of a version.
func serveVersion(tb testing.TB, id, version string, h http.HandlerFunc) events.Entry {
	tb.Helper()
	srv := httptest.NewServer(h)
	tb.Cleanup(srv.Close)
	e := at(id, "a", events.HTTP, strings.TrimPrefix(srv.URL, "http://"))
	e.Version = version
	return e
}

func replies(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(w, text)
	}
}

// ask makes a request, and returns the body of the answer.
func (f *fleet) ask(tb testing.TB, req *http.Request) (string, error) {
	tb.Helper()
	resp, err := (&http.Client{Transport: f}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func TestHeadersOfARequestDecideByPolicy(t *testing.T) {
	f, _ := newRuled(t, `{"overrides":[{"header":"x-version","value":"2","where":"version=2"}],"splits":[{"where":"version=2","share":0.5,"key":{"header":"x-user"}}]}`, proximahttp.Options{},
		serveVersion(t, "one", "1", replies("1")), serveVersion(t, "two", "2", replies("2")))
	to := map[string]int{}
	for user := range 40 {
		req := request(t, "GET", nil)
		req.Header.Set("X-User", fmt.Sprint("user", user))
		first, err := f.ask(t, req)
		if err != nil {
			t.Fatal(err)
		}
		to[first]++
		if again, err := f.ask(t, req); err != nil || again != first {
			t.Errorf("user %d got %s, then %s, %v", user, first, again, err)
		}
		req.Header.Set("X-Version", "2")
		if got, err := f.ask(t, req); err != nil || got != "2" {
			t.Errorf("with the header: %s, %v", got, err)
		}
	}
	if to["1"] < 8 || to["2"] < 8 {
		t.Errorf("users by version: %v", to)
	}
}

func TestAMirrorGetsCopiesOfRequests(t *testing.T) {
	var mu sync.Mutex
	var got []string
	f, _ := newRuled(t, `{"where":"version=1","mirror":{"where":"version=2","share":1}}`, proximahttp.Options{},
		serveVersion(t, "one", "1", replies("1")), serveVersion(t, "two", "2", func(w http.ResponseWriter, req *http.Request) {
			body, _ := io.ReadAll(req.Body)
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprint(req.Method, " ", req.URL, " ", req.Host, " ", req.Header.Get("X-A"), " ", string(body)))
			if len(got) > 4 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}))
	want := []string{"GET / user yes ", "POST / user yes again", "PUT / user yes once", "POST / user yes " + strings.Repeat("x", 1000)}
	for i, body := range []io.Reader{nil, bytes.NewReader([]byte("again")), io.MultiReader(strings.NewReader("once")), io.MultiReader(strings.NewReader(strings.Repeat("x", 1000)))} {
		req := request(t, strings.Fields(want[i])[0], body)
		req.Header.Set("X-A", "yes")
		if answer, err := f.ask(t, req); err != nil || answer != "1" {
			t.Fatalf("%s, %v", answer, err)
		}
		req.Header.Set("X-A", "changed") // the caller may, when it has read the answer
		testkit.Eventually(t, "the mirror has a copy", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) == i+1 && got[i] == want[i]
		})
	}
	// A body that is too large to be kept is not copied.
	if answer, err := f.ask(t, request(t, "POST", io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20))))); err != nil || answer != "1" {
		t.Fatalf("%s, %v", answer, err)
	}
	s := f.selector.Stats().Services[0]
	if s.Mirrored != 4 || s.DroppedMirrors != 1 {
		t.Errorf("%d copies, %d dropped", s.Mirrored, s.DroppedMirrors)
	}
	if _, err := f.ask(t, request(t, "GET", nil)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the breaker of the mirror is open", func() bool { return strings.Contains(f.opened(), "two open") })
	s = f.selector.Stats().Services[0]
	if faults := s.Circles[0].Outcomes[selector.Fault]; faults != 0 || s.Circles[0].Picks != 6 {
		t.Errorf("the mirror's %d faults count, %d picks", faults, s.Circles[0].Picks)
	}
}

// A mirror that hangs, refuses, breaks or floods costs the caller nothing.
func TestAMirrorNeitherSlowsNorFailsTheCaller(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refuses := at("refuses", "a", events.HTTP, l.Addr().String())
	refuses.Version = "2"
	_ = l.Close()
	for name, mirror := range map[string]events.Entry{
		"hangs": serveVersion(t, "hangs", "2", func(_ http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body) // else the server does not notice that the caller is gone
			<-req.Context().Done()
		}),
		"refuses": refuses,
		"panics":  serveVersion(t, "panics", "2", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		"floods": serveVersion(t, "floods", "2", func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			for req.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := newRuled(t, `{"where":"version=1","timeout":"5s","mirror":{"where":"version=2","share":1},"breaker":{"failures":1000000,"failure_ratio":0},"over_code":true}`, proximahttp.Options{},
				serveVersion(t, "one", "1", replies("1")), mirror)
			const calls = 150
			for range calls {
				began := time.Now()
				if answer, err := f.ask(t, request(t, "POST", strings.NewReader("body"))); err != nil || answer != "1" {
					t.Fatalf("%s, %v", answer, err)
				}
				if took := time.Since(began); took > 4*time.Second { // the copy has 5 s
					t.Fatalf("a call took %v", took)
				}
			}
			s := f.selector.Stats().Services[0]
			if s.Circles[0].Outcomes[selector.Success] != calls || s.Circles[0].Picks != calls {
				t.Errorf("%+v", s.Circles[0])
			}
			if name == "hangs" && (s.Mirrored > 64 || s.DroppedMirrors < calls-64) {
				t.Errorf("%d copies, %d dropped", s.Mirrored, s.DroppedMirrors)
			}
			began := time.Now()
			if _ = f.selector.Close(); time.Since(began) > 4*time.Second {
				t.Errorf("the selector took %v to close", time.Since(began))
			}
		})
	}
}

// panicking is a base that panics for one instance.
type panicking struct {
	http.RoundTripper
	at string
}

func (p panicking) RoundTrip(req *http.Request) (*http.Response, error) {
	if a, _ := proximahttp.AttemptFrom(req.Context()); a.ID == p.at {
		panic("the base")
	}
	return p.RoundTripper.RoundTrip(req)
}

func TestAPanicForTheSakeOfAMirrorIsNotThatOfTheCall(t *testing.T) {
	f, _ := newRuled(t, `{"where":"version=1","mirror":{"where":"version=2","share":1}}`, proximahttp.Options{Base: panicking{proximahttp.NewBase(), "two"}},
		serveVersion(t, "one", "1", replies("1")), serveVersion(t, "two", "2", replies("2")))
	req := request(t, "POST", strings.NewReader("body"))
	get := req.GetBody
	bodies := 0
	req.GetBody = func() (io.ReadCloser, error) {
		if bodies++; bodies == 1 {
			panic("GetBody")
		}
		return get()
	}
	for range 2 {
		if answer, err := f.ask(t, req); err != nil || answer != "1" {
			t.Errorf("%s, %v", answer, err)
		}
		req.Body, _ = get()
	}
	testkit.Eventually(t, "a copy was made", func() bool { return f.selector.Stats().Services[0].Mirrored == 1 })
}

func TestThePolicyBoundsTheTimeUntilTheHeadOfAnAnswer(t *testing.T) {
	var slow atomic.Bool
	f, _ := newRuled(t, `{"timeout":"300ms"}`, proximahttp.Options{}, serveVersion(t, "one", "1", func(w http.ResponseWriter, req *http.Request) {
		if slow.Load() {
			select {
			case <-req.Context().Done():
			case <-time.After(5 * time.Second):
			}
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(500 * time.Millisecond) // the body takes longer than the limit
		_, _ = io.WriteString(w, "late")
	}))
	if body, err := f.ask(t, request(t, "GET", nil)); err != nil || body != "late" {
		t.Errorf("a body that takes longer: %q, %v", body, err)
	}
	slow.Store(true)
	began := time.Now()
	_, err := f.ask(t, request(t, "GET", nil))
	if failed, ok := errors.AsType[*url.Error](err); !ok || !failed.Timeout() || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the policy allows, 300ms") || time.Since(began) > 2*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	req := request(t, "GET", nil)
	ctx, cancel := context.WithTimeout(req.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.ask(t, req.WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "policy") {
		t.Errorf("the caller has less time: %v", err)
	}
}

func TestThePolicyBoundsTheTimeOfAnAttemptUnlessTheProgramDoes(t *testing.T) {
	hang := func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }
	for _, tt := range []struct {
		policy   string
		option   time.Duration
		at, most time.Duration
	}{
		{`{"strategy":"nearest","attempt_timeout":"100ms"}`, 0, 100 * time.Millisecond, time.Second},
		{`{"strategy":"nearest","attempt_timeout":"10ms"}`, 400 * time.Millisecond, 400 * time.Millisecond, 2 * time.Second},
		{`{"strategy":"nearest","attempt_timeout":"100ms","over_code":true}`, 2 * time.Second, 100 * time.Millisecond, time.Second},
	} {
		hangs, works := serveVersion(t, "hangs", "1", hang), serveVersion(t, "works", "1", replies("works"))
		works.Location.Zone = "b"
		f, _ := newRuled(t, tt.policy, proximahttp.Options{AttemptTimeout: tt.option}, hangs, works)
		began := time.Now()
		body, err := f.ask(t, request(t, "GET", nil))
		if took := time.Since(began); err != nil || body != "works" || took < tt.at || took > tt.most {
			t.Errorf("%s, %v: %q after %v: %v", tt.policy, tt.option, body, took, err)
		}
	}
}

// Real instances are called 500 times a second while their policy changes.
func TestNoCallFailsWhileThePolicyChanges(t *testing.T) {
	f, r := newRuled(t, `{}`, proximahttp.Options{},
		serveVersion(t, "one", "1", replies("ok")), serveVersion(t, "two", "1", replies("ok")), serveVersion(t, "three", "2", replies("ok")), serveVersion(t, "four", "2", replies("ok")))
	const seconds, rate, callers = 2, 500, 10
	var all sync.WaitGroup
	var calls, failed atomic.Int64
	for range callers {
		all.Go(func() {
			tick := time.NewTicker(time.Second * callers / rate)
			defer tick.Stop()
			for range seconds * rate / callers {
				<-tick.C
				calls.Add(1)
				if body, err := f.ask(t, request(t, "GET", nil)); err != nil || body != "ok" {
					failed.Add(1)
					t.Errorf("%q, %v", body, err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	changes := 0
	for tick := time.NewTicker(20 * time.Millisecond); ; changes++ {
		select {
		case <-tick.C:
		case <-done:
			tick.Stop()
			t.Logf("%d calls, %d changes of the policy, %d failed", calls.Load(), changes, failed.Load())
			if changes < 20 {
				t.Errorf("the policy changed %d times only", changes)
			}
			return
		}
		r.set(t, []string{
			`{"strategy":"round_robin","where":"version=2"}`, `{"splits":[{"where":"version=2","share":0.1}],"leave":{"regions":["eu"]},"mirror":{"where":"version=1","share":0.5}}`,
			`{"strategy":"consistent_hash","where":"version=7","fallback":"any"}`, `{"timeout":"1s","attempt_timeout":"500ms","breaker":{"failures":1,"window":"1s"},"over_code":true}`, `{}`,
		}[changes%5])
	}
}

func TestAFullServiceIsAnErrorThatSaysSo(t *testing.T) {
	inside, end, finish := make(chan struct{}), make(chan struct{}), make(chan struct{})
	f, _ := newRuled(t, `{"bulkhead":{"per_service":1}}`, proximahttp.Options{}, serveVersion(t, "one", "1", func(w http.ResponseWriter, _ *http.Request) {
		inside <- struct{}{}
		<-end
		w.(http.Flusher).Flush()
		<-finish
	}))
	client := &http.Client{Transport: f}
	first := make(chan *http.Response)
	go func() {
		resp, err := client.Get("http://user/") //nolint:bodyclose // it is closed below
		if err != nil {
			t.Error(err)
		}
		first <- resp
	}()
	<-inside
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://user/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.ask(t, req)
	if full, ok := errors.AsType[*selector.FullError](err); !ok || full.InFlight != 1 || !errors.Is(err, selector.ErrFull) {
		t.Errorf("while a call is in flight: %v", err)
	}
	close(end)
	resp := <-first // its body goes on
	second := make(chan error)
	go func() {
		other, err := client.Get("http://user/")
		if err == nil {
			_ = other.Body.Close()
		}
		second <- err
	}()
	<-inside // the second call is in the instance, beside the stream
	close(finish)
	if err := <-second; err != nil {
		t.Errorf("beside an answer that streams: %v", err)
	}
	_ = resp.Body.Close()
}
