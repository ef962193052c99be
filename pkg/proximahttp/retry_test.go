package proximahttp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func request(tb testing.TB, method string, body io.Reader, header ...string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, "http://user/", body)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

// hangsUp ends the connection without an answer, after it has the request.
func hangsUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestTriesAnotherInstanceWhenThatIsSafe(t *testing.T) {
	large := strings.Repeat("x", 100<<10)
	text := func(s string) io.Reader { return strings.NewReader(s) }
	stream := func(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) } // without GetBody
	key := []string{"Idempotency-Key", "7"}
	for _, failure := range []struct {
		name string
		near func(testing.TB) events.Entry
		sent bool
	}{
		{"refused", func(tb testing.TB) events.Entry { return at("near", "a", events.HTTP, testkit.FreeAddress(tb)) }, false},
		{"hangs up", func(tb testing.TB) events.Entry { return serve(tb, "near", "a", hangsUp) }, true},
		{"502", func(tb testing.TB) events.Entry { return serve(tb, "near", "a", fails(502)) }, true},
		{"503", func(tb testing.TB) events.Entry { return serve(tb, "near", "a", fails(503)) }, true},
		{"504", func(tb testing.TB) events.Entry { return serve(tb, "near", "a", fails(504)) }, true},
	} {
		for _, tt := range []struct {
			name, method string
			body         io.Reader
			header       []string
			again        bool // also when it was sent
		}{
			{"GET", "GET", nil, nil, true},
			{"HEAD", "HEAD", nil, nil, true},
			{"OPTIONS", "OPTIONS", nil, nil, true},
			{"TRACE", "TRACE", nil, nil, true},
			{"DELETE", "DELETE", nil, nil, true},
			{"PUT text", "PUT", text("hello"), nil, true},
			{"PUT stream", "PUT", stream("hello"), nil, true},
			{"PUT large text", "PUT", text(large), nil, true},
			{"PUT large stream", "PUT", stream(large), nil, false},
			{"POST empty", "POST", nil, nil, false},
			{"POST text", "POST", text("hello"), nil, false},
			{"POST stream", "POST", stream("hello"), nil, false},
			{"POST large stream", "POST", stream(large), nil, false},
			{"PATCH", "PATCH", text("hello"), nil, false},
			{"POST with a key", "POST", text("hello"), key, true},
			{"POST stream with a key", "POST", stream("hello"), key, true},
		} {
			t.Run(failure.name+"/"+tt.name, func(t *testing.T) {
				var got atomic.Int64
				f := newFleet(t, proximahttp.Options{}, failure.near(t),
					serve(t, "far", "b", func(_ http.ResponseWriter, r *http.Request) {
						n, err := io.Copy(io.Discard, r.Body)
						if err != nil {
							t.Error(err)
						}
						got.Store(n)
					}))
				want := int64(-1)
				if tt.body != nil { // how much of it the far instance must get
					data, _ := io.ReadAll(tt.body)
					want = int64(len(data))
					if _, again := tt.body.(*strings.Reader); again {
						tt.body = bytes.NewReader(data)
					} else {
						tt.body = io.MultiReader(bytes.NewReader(data))
					}
				}
				resp, err := f.RoundTrip(request(t, tt.method, tt.body, tt.header...))
				if err == nil {
					defer resp.Body.Close()
				}
				wantAgain := tt.again || !failure.sent
				if again := err == nil && resp.StatusCode == 200; again != wantAgain {
					t.Fatalf("tried again %v: %v, %v, want %v", again, resp, err, wantAgain)
				}
				if wantAgain && want >= 0 && got.Load() != want {
					t.Errorf("the far instance got %d bytes, want %d", got.Load(), want)
				}
				if f.opened() != "near open" {
					t.Errorf("breakers: %q, want near open", f.opened())
				}
			})
		}
	}
}

func TestTheLastResponseIsReturnedAsItIs(t *testing.T) {
	t.Parallel()
	f := newFleet(t, proximahttp.Options{},
		serve(t, "near", "a", fails(503)), serve(t, "far", "b", fails(502)), at("gone", "c", events.HTTP, testkit.FreeAddress(t)))
	resp, err := f.client().Get("http://user/")
	if status, body := read(t, resp, err); status != 502 && status != 503 || body != http.StatusText(status)+"\n" {
		t.Errorf("got %d %q, want one of the instances' answers", status, body)
	}
	if n := f.picks(); n != 4 {
		t.Errorf("%d attempts, want all 3 instances, and the first again", n)
	}

	f = newFleet(t, proximahttp.Options{}, serve(t, "near", "a", fails(503)))
	resp, err = f.client().Get("http://user/")
	if status, body := read(t, resp, err); status != 503 || body != "Service Unavailable\n" || f.picks() != 1 {
		t.Errorf("got %d %q after %d attempts", status, body, f.picks())
	}
}

func TestTheLastErrorNamesTheInstance(t *testing.T) {
	t.Parallel()
	f := newFleet(t, proximahttp.Options{}, at("gone", "a", events.HTTP, testkit.FreeAddress(t)))
	_, err := f.client().Get("http://user/") //nolint:bodyclose // there is none
	if err == nil || !strings.Contains(err.Error(), "user: 3 attempts, last at gone (zone): ") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Errorf("%v does not wrap the dialler's error", err)
	}
}

func TestAnswersAreNotTriedAgainAndAreNoFailures(t *testing.T) {
	for _, status := range []int{200, 204, 304, 400, 404, 408, 409, 501, 505} {
		f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(status)
		}), serve(t, "far", "b", says("far")))
		resp, err := f.RoundTrip(request(t, "GET", nil))
		if got, _ := read(t, resp, err); got != status || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("status %d, want %d", got, status)
		}
		if f.opened() != "" || f.picks() != 1 || f.inFlight() != 0 {
			t.Errorf("%d: breakers %q, %d attempts, %d in flight", status, f.opened(), f.picks(), f.inFlight())
		}
	}
}

// What another instance may do better is sent to it, if that is safe.
func TestErrorsOfAnInstanceAreTriedAtAnotherOneIfThatIsSafe(t *testing.T) {
	for _, tt := range []struct {
		status     int
		retryAfter string
		opens      bool
	}{{500, "", true}, {502, "", true}, {503, "", true}, {504, "", true}, {507, "", true}, {429, "", false}, {429, "1", true}, {503, "1", true}} {
		for _, method := range []string{"GET", "PUT", "POST"} {
			f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", func(w http.ResponseWriter, _ *http.Request) {
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status)
			}), serve(t, "far", "b", says("far")))
			resp, err := f.RoundTrip(request(t, method, nil))
			want := 200
			if method == "POST" {
				want = tt.status
			}
			if got, _ := read(t, resp, err); got != want {
				t.Errorf("%s, %d: status %d, want %d", method, tt.status, got, want)
			}
			if opened := f.opened() != ""; opened != tt.opens {
				t.Errorf("%s, %d, Retry-After %q: breakers %q", method, tt.status, tt.retryAfter, f.opened())
			}
		}
	}
}

func TestWhatAResponseMeansCanBeChanged(t *testing.T) {
	f := newFleet(t, proximahttp.Options{Classify: func(resp *http.Response) selector.Outcome {
		if resp.StatusCode == 404 {
			return selector.Fault
		}
		return proximahttp.ClassifyResponse(resp)
	}}, serve(t, "near", "a", fails(404)), serve(t, "far", "b", says("far")))
	resp, err := f.client().Get("http://user/")
	if status, body := read(t, resp, err); status != 200 || body != "far" {
		t.Errorf("got %d %q", status, body)
	}
}

func TestRequestsThatCannotBeSentAreNoFailures(t *testing.T) {
	reads := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	near, far := serve(t, "near", "a", reads), serve(t, "far", "b", says("far"))
	for name, spoil := range map[string]func(*http.Request){
		"method":  func(r *http.Request) { r.Method = "GET /" },
		"name":    func(r *http.Request) { r.Header["a b"] = []string{"x"} },
		"value":   func(r *http.Request) { r.Header.Set("X-Test", "a\nb") },
		"trailer": func(r *http.Request) { r.Trailer = http.Header{"X": {"a\nb"}} },
		"nil":     func(r *http.Request) { r.Header = nil },
		"body": func(r *http.Request) {
			r.Method, r.Body = "PUT", io.NopCloser(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(errors.New("the disk is broken"))))
		},
		"short": func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "PUT", io.NopCloser(strings.NewReader("abc")), 5
		},
		"long": func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "PUT", io.NopCloser(strings.NewReader("abcdef")), 5
		},
	} {
		f := newFleet(t, proximahttp.Options{}, near, far)
		req := request(t, "GET", nil)
		spoil(req)
		resp, err := f.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
			if name != "long" { // the answer may come before net/http notices
				t.Errorf("%s: no error", name)
			}
		}
		if f.opened() != "" || f.picks() != 1 || f.inFlight() != 0 {
			t.Errorf("%s: breakers %q, %d attempts, %d in flight: %v", name, f.opened(), f.picks(), f.inFlight(), err)
		}
	}
}

func TestABodyThatCannotBeMadeAgainIsNoFailureOfAnotherInstance(t *testing.T) {
	f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", fails(503)), serve(t, "far", "b", says("far")))
	req := request(t, "PUT", strings.NewReader("x"))
	req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
	resp, err := f.RoundTrip(req)
	if status, _ := read(t, resp, err); status != 503 || f.opened() != "near open" || f.inFlight() != 0 {
		t.Errorf("status %d, breakers %q, %d in flight", status, f.opened(), f.inFlight())
	}
}

func TestASlowInstanceIsLeftWhenTheBaseTimesOut(t *testing.T) {
	t.Parallel()
	base := proximahttp.NewBase()
	base.ResponseHeaderTimeout = 250 * time.Millisecond
	release := make(chan struct{})
	defer close(release)
	f := newFleet(t, proximahttp.Options{Base: base},
		serve(t, "near", "a", func(http.ResponseWriter, *http.Request) { <-release }), serve(t, "far", "b", says("far")))
	resp, err := f.client().Get("http://user/")
	if _, got := read(t, resp, err); got != "far" || f.opened() != "near open" {
		t.Errorf("answered by %q, breakers %q", got, f.opened())
	}
}

func TestTheCallersTimeoutIsTheInstancesFailureAndNotTriedAgain(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	near := serve(t, "near", "a", func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) }) // before the server's Close, which waits for it
	far := serve(t, "far", "b", says("far"))

	f := newFleet(t, proximahttp.Options{}, near, far)
	client := f.client()
	client.Timeout = 500 * time.Millisecond
	_, err := client.Get("http://user/") //nolint:bodyclose // there is none
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() || f.picks() != 1 || f.opened() != "near open" {
		t.Errorf("Client.Timeout: %v after %d attempts, breakers %q", err, f.picks(), f.opened())
	}

	f = newFleet(t, proximahttp.Options{}, near, far)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = f.client().Do(request(t, "GET", nil).WithContext(ctx)) //nolint:bodyclose // there is none
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() || !errors.Is(err, context.DeadlineExceeded) || f.picks() != 1 || f.opened() != "near open" {
		t.Errorf("deadline: %v after %d attempts, breakers %q", err, f.picks(), f.opened())
	}
}

func TestACanceledRequestIsNoFailure(t *testing.T) {
	for _, how := range []string{"context", "cause", "channel"} {
		arrived, release := make(chan struct{}), make(chan struct{})
		f := newFleet(t, proximahttp.Options{}, serve(t, "near", "a", func(http.ResponseWriter, *http.Request) {
			close(arrived)
			<-release
		}), serve(t, "far", "b", says("far")))
		ctx, cancel := context.WithCancelCause(t.Context())
		req := request(t, "GET", nil).WithContext(ctx)
		stop := make(chan struct{})
		req.Cancel = stop //nolint:staticcheck // http.Client uses it
		go func() {
			<-arrived
			switch how {
			case "context":
				cancel(nil)
			case "cause":
				cancel(errors.New("enough"))
			case "channel":
				close(stop)
			}
		}()
		_, err := f.RoundTrip(req) //nolint:bodyclose // there is none
		close(release)
		if err == nil || f.opened() != "" || f.picks() != 1 || f.inFlight() != 0 {
			t.Errorf("%s: %v, breakers %q, %d attempts, %d in flight", how, err, f.opened(), f.picks(), f.inFlight())
		}
		cancel(nil)
	}
}

func TestNoCallFailsWhenAnInstanceIsKilled(t *testing.T) {
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hang: // killed while it works
			panic(http.ErrAbortHandler)
		case <-time.After(time.Millisecond):
			says("near")(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	f := newFleet(t, proximahttp.Options{},
		at("near", "a", events.HTTP, srv.Listener.Addr().String()), serve(t, "far", "b", says("far")))
	client := f.client()
	var by [2]atomic.Int64
	var callers sync.WaitGroup
	stop := make(chan struct{})
	end := sync.OnceFunc(func() {
		close(stop)
		callers.Wait()
	})
	defer end()
	for range 8 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := client.Get("http://user/")
				if err != nil {
					t.Errorf("a call failed: %v", err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if proximahttp.Instance(resp).ID == "near" {
					by[0].Add(1)
				} else {
					by[1].Add(1)
				}
			}
		})
	}
	until := func(what string, n *atomic.Int64) {
		t.Helper()
		testkit.Eventually(t, "50 calls are answered by "+what, func() bool { return n.Load() >= 50 })
	}
	until("near", &by[0])
	_ = srv.Listener.Close() // the kill: no new connections,
	close(hang)              // no answers,
	srv.CloseClientConnections()
	until("far", &by[1])
	end()
	if n := f.inFlight(); n != 0 {
		t.Errorf("%d in flight at the end", n)
	}
}

func TestTheBudgetBoundsRetries(t *testing.T) {
	var attempts atomic.Int64
	patient := func(o *selector.Options) { o.Breaker.Failures = 1e6 }
	f := newFleetWith(t, patient, proximahttp.Options{Base: roundTripper(func(*http.Request) (*http.Response, error) {
		attempts.Add(1)
		return nil, errors.New("reset")
	})}, at("near", "a", events.HTTP, "10.0.0.1:80"), at("far", "b", events.HTTP, "10.0.0.2:80"))
	budget := 0
	for range 200 {
		_, err := f.RoundTrip(request(t, "GET", nil)) //nolint:bodyclose // there is none
		if errors.Is(err, selector.ErrBudget) {
			budget++
		} else if err == nil {
			t.Fatal("no error")
		}
	}
	if n := attempts.Load(); n > 300 || budget == 0 {
		t.Errorf("%d attempts for 200 requests, %d refused by the budget", n, budget)
	}
	if n := f.inFlight(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

func TestAnInstanceThatHangsCostsAnAttemptNotTheCall(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	hung := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer hung.Close()
	defer close(hang)
	works := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "works") }))
	defer works.Close()
	a := at("a", "a", events.HTTP, hung.Listener.Addr().String())
	b := at("b", "b", events.HTTP, works.Listener.Addr().String())
	f := newFleet(t, proximahttp.Options{AttemptTimeout: 500 * time.Millisecond}, a, b)
	resp, err := (&http.Client{Transport: f}).Get("http://user/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "works" || f.opened() == "" {
		t.Errorf("got %q, %v; breakers: %q", body, err, f.opened())
	}

	// A request that may not be sent twice has no limit, nor has the only instance.
	o := proximahttp.Options{AttemptTimeout: 50 * time.Millisecond}
	for name, f := range map[string]*fleet{"POST": newFleet(t, o, a, b), "GET": newFleet(t, o, a)} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		req, err := http.NewRequestWithContext(ctx, name, "http://user/", nil)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		resp, err := f.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if err == nil || time.Since(began) < 190*time.Millisecond {
			t.Errorf("%s: %v after %v, want to wait as long as the caller does", name, err, time.Since(began))
		}
		cancel()
	}
}

// Of two instances one takes long now and then.
func TestAHedgedRequestGetsTheFirstGoodResponse(t *testing.T) {
	t.Parallel()
	var slow atomic.Bool
	handler := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if slow.Load() && name == "near" {
				select {
				case <-time.After(10 * time.Second):
				case <-r.Context().Done():
				}
			}
			if slow.Load() { // the body goes on after the head has won
				_ = http.NewResponseController(w).Flush()
				time.Sleep(200 * time.Millisecond) // the instance takes its time
			}
			_, _ = io.WriteString(w, name+string(body))
		}
	}
	f := newFleet(t, proximahttp.Options{Hedge: true}, serve(t, "near", "a", handler("near")), serve(t, "far", "b", handler("far")))
	get := func(method, body string) (string, time.Duration) {
		t.Helper()
		began := time.Now()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://user/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := f.client().Do(req)
		status, text := read(t, resp, err)
		if status != 200 {
			t.Errorf("status %d", status)
		}
		return text, time.Since(began)
	}
	for range 30 {
		get("GET", "")
	}
	slow.Store(true)
	for range 3 {
		if text, took := get("PUT", "x"); text != "farx" || took > 5*time.Second {
			t.Errorf("answered by %q after %v", text, took)
		}
	}
	if n := f.inFlight(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}
