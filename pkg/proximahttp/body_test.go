package proximahttp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
)

// countingBody counts how often it is closed. It has no GetBody.
type countingBody struct {
	io.Reader
	closed atomic.Int32
}

func (b *countingBody) Close() error {
	b.closed.Add(1)
	return nil
}

// closedOnce waits until the body is closed, which net/http may do after
// RoundTrip has returned, and checks that it stays at once.
func (b *countingBody) closedOnce(t *testing.T, when string) {
	t.Helper()
	testkit.Eventually(t, when+": the body is closed", func() bool { return b.closed.Load() > 0 })
	if n := b.closed.Load(); n != 1 {
		t.Errorf("%s: the body was closed %d times, want once", when, n)
	}
}

func TestClosesTheRequestsBodyOnEveryPath(t *testing.T) {
	t.Parallel()
	gone := func(t *testing.T) events.Entry { return at("near", "a", events.HTTP, testkit.FreeAddress(t)) }
	with := func(h http.HandlerFunc) func(*testing.T) events.Entry {
		return func(t *testing.T) events.Entry { return serve(t, "near", "a", h) }
	}
	for _, tt := range []struct {
		name      string
		near, far func(*testing.T) events.Entry
		url       string
	}{
		{name: "answered", near: with(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })},
		{name: "answered before the body is read", near: with(says("early"))},
		{name: "tried again", near: gone, far: with(says("far"))},
		{name: "tried again after an answer", near: with(fails(503)), far: with(says("far"))},
		{name: "all gone", near: gone},
		{name: "all unavailable", near: with(fails(503)), far: with(hangsUp)},
		{name: "unknown service", near: gone, url: "http://nobody/"},
		{name: "no service", near: gone, url: "http://user:80/"},
	} {
		for _, kind := range []string{"stream", "repeatable"} {
			for _, method := range []string{http.MethodPut, http.MethodPost} {
				t.Run(tt.name+" "+kind+" "+method, func(t *testing.T) {
					t.Parallel() // some are tried again for over a second
					instances := []events.Entry{tt.near(t)}
					if tt.far != nil {
						far := tt.far(t)
						far.ID, far.Location.Zone = "far", "b"
						instances = append(instances, far)
					}
					f := newFleet(t, proximahttp.Options{}, instances...)
					first := &countingBody{Reader: strings.NewReader("hello")}
					var repeats []*countingBody
					req := request(t, method, nil)
					req.Body, req.ContentLength = first, 5
					if kind == "repeatable" {
						req.GetBody = func() (io.ReadCloser, error) {
							b := &countingBody{Reader: strings.NewReader("hello")}
							repeats = append(repeats, b)
							return b, nil
						}
					}
					if tt.url != "" {
						parsed, err := req.URL.Parse(tt.url)
						if err != nil {
							t.Fatal(err)
						}
						req.URL = parsed
					}
					if resp, err := f.RoundTrip(req); err == nil {
						resp.Body.Close()
					}
					first.closedOnce(t, "the first")
					for _, b := range repeats {
						b.closedOnce(t, "repeated")
					}
					if n := f.inFlight(); n != 0 {
						t.Errorf("%d in flight", n)
					}
				})
			}
		}
	}
}

// attempts is a base with one function for each attempt of a request.
type attempts []func(*http.Request) (*http.Response, error)

func (a *attempts) RoundTrip(req *http.Request) (*http.Response, error) {
	next := (*a)[0]
	*a = (*a)[1:]
	return next(req)
}

// FuzzWhatIsReadOfABodyIsSentAgain reads part of a stream and fails. The next attempt gets
// all of it, or there is no next attempt.
func FuzzWhatIsReadOfABodyIsSentAgain(f *testing.F) {
	f.Add([]byte("hello world"), uint16(5), int64(8), uint8(3), true)
	f.Add([]byte("hello world"), uint16(11), int64(4), uint8(100), true)
	f.Add([]byte(""), uint16(1), int64(-1), uint8(0), false)
	f.Add(bytes.Repeat([]byte("x"), 300), uint16(256), int64(256), uint8(255), false)
	f.Fuzz(func(t *testing.T, data []byte, first uint16, limit int64, chunk uint8, known bool) {
		consume := func(req *http.Request, n int) ([]byte, error) {
			var got []byte
			buf := make([]byte, int(chunk)+1)
			for len(got) < n {
				m, err := req.Body.Read(buf[:min(len(buf), n-len(got))])
				got = append(got, buf[:m]...)
				if err != nil {
					return got, err
				}
			}
			return got, nil
		}
		read := 0
		tries := attempts{func(req *http.Request) (*http.Response, error) {
			got, _ := consume(req, int(first))
			read = len(got)
			if !bytes.Equal(got, data[:read]) {
				t.Errorf("read %q first", got)
			}
			req.Body.Close()
			return nil, errors.New("reset")
		}, func(req *http.Request) (*http.Response, error) {
			got, err := consume(req, len(data)+1)
			if !bytes.Equal(got, data) || !errors.Is(err, io.EOF) {
				t.Errorf("the second attempt read %q, %v, want %q", got, err, data)
			}
			req.Body.Close()
			return &http.Response{StatusCode: 200}, nil
		}}
		fl := newFleet(t, proximahttp.Options{Base: &tries, MaxBody: limit},
			at("near", "a", events.HTTP, "10.0.0.1:80"), at("far", "b", events.HTTP, "10.0.0.2:80"))
		body := &countingBody{Reader: bytes.NewReader(data)}
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodPut, "http://user/", body)
		if known {
			req.ContentLength = int64(len(data))
		}
		resp, err := fl.RoundTrip(req) //nolint:bodyclose // it has none
		kept := limit
		if limit == 0 {
			kept = 64 << 10
		}
		if again := err == nil; again != (int64(read) <= max(kept, 0)) {
			t.Errorf("after %d bytes with %d kept: tried again %v", read, kept, again)
		}
		if err == nil && resp.Body != http.NoBody {
			t.Error("no body is not http.NoBody")
		}
		body.closedOnce(t, "at the end")
	})
}

func TestABaseMayReadOnWhileTheNextAttemptStarts(t *testing.T) {
	source, feed := io.Pipe()
	reading, late := make(chan struct{}), make(chan struct{})
	var former *http.Request
	tries := attempts{func(req *http.Request) (*http.Response, error) {
		former = req
		go func() { // as net/http's writer after an early answer
			defer close(late)
			close(reading)
			buf := make([]byte, 5)
			n, err := req.Body.Read(buf)
			if string(buf[:n]) != "hello" || err != nil {
				t.Errorf("the late reader got %q, %v", buf[:n], err)
			}
			if n, err := req.Body.Read(buf); n != 0 || err == nil {
				t.Errorf("the late reader went on: %d, %v", n, err)
			}
		}()
		<-reading
		return &http.Response{StatusCode: 503, Body: io.NopCloser(strings.NewReader("busy"))}, nil
	}, func(req *http.Request) (*http.Response, error) {
		go func() {
			_, _ = io.WriteString(feed, "hello")
			_, _ = io.WriteString(feed, " world")
			_ = feed.Close()
		}()
		<-late
		got, err := io.ReadAll(req.Body)
		former.Body.Close()
		req.Body.Close()
		return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(got))}, err
	}}
	f := newFleet(t, proximahttp.Options{Base: &tries},
		at("near", "a", events.HTTP, "10.0.0.1:80"), at("far", "b", events.HTTP, "10.0.0.2:80"))
	resp, err := f.RoundTrip(request(t, "PUT", source))
	if _, got := read(t, resp, err); got != "hello world" {
		t.Errorf("the second attempt read %q", got)
	}
}

func TestNetHTTPMayTryAgainOnAConnectionThatWasClosed(t *testing.T) {
	tries := attempts{func(req *http.Request) (*http.Response, error) {
		if _, err := io.ReadFull(req.Body, make([]byte, 3)); err != nil {
			t.Error(err)
		}
		req.Body.Close()
		again, err := req.GetBody() // as net/http does
		if err != nil {
			return nil, err
		}
		got, err := io.ReadAll(again)
		if string(got) != "hello" || err != nil {
			t.Errorf("net/http read %q, %v", got, err)
		}
		if _, err := req.Body.Read(make([]byte, 1)); err == nil {
			t.Error("the first body can still be read")
		}
		again.Close()
		return &http.Response{StatusCode: 200}, nil
	}}
	f := newFleet(t, proximahttp.Options{Base: &tries}, at("near", "a", events.HTTP, "10.0.0.1:80"))
	body := &countingBody{Reader: strings.NewReader("hello")}
	resp, err := f.RoundTrip(request(t, "PUT", body))
	read(t, resp, err)
	body.closedOnce(t, "at the end")

	tries = attempts{func(req *http.Request) (*http.Response, error) {
		_, _ = io.ReadFull(req.Body, make([]byte, 3))
		req.Body.Close()
		_, err := req.GetBody()
		return nil, err
	}}
	f = newFleet(t, proximahttp.Options{Base: &tries, MaxBody: 2}, at("near", "a", events.HTTP, "10.0.0.1:80"))
	if resp, err := f.RoundTrip(request(t, "PUT", io.MultiReader(strings.NewReader("hello")))); err == nil {
		resp.Body.Close()
		t.Error("a body of which too much was read was sent again")
	}
}
