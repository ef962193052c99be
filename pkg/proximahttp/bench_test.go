package proximahttp_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/proximahttp"
)

// BenchmarkGet compares a Transport with the http.Transport under it, against
// a real server on the loopback interface.
func BenchmarkGet(b *testing.B) {
	near := serve(b, "near", "a", says("hello"))
	plain := proximahttp.NewBase()
	b.Cleanup(plain.CloseIdleConnections)
	for _, bb := range []struct {
		name string
		rt   http.RoundTripper
		url  string
	}{
		{"plain", plain, "http://" + near.Endpoints["http"] + "/"},
		{"proxima", newFleet(b, proximahttp.Options{}, near).Transport, "http://user/"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				get(b, bb.rt, http.MethodGet, bb.url, nil)
			}
		})
		b.Run(bb.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					get(b, bb.rt, http.MethodGet, bb.url, nil)
				}
			})
		})
	}
}

// BenchmarkOverhead is what a Transport adds, without a network.
func BenchmarkOverhead(b *testing.B) {
	nothing := roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("hello"))}, nil
	})
	near := at("near", "a", "http", "10.0.0.1:80")
	for _, bb := range []struct {
		name, method string
		rt           http.RoundTripper
	}{
		{"baseline", http.MethodGet, nothing},
		{"method=GET", http.MethodGet, newFleet(b, proximahttp.Options{Base: nothing}, near)},
		{"method=POST", http.MethodPost, newFleet(b, proximahttp.Options{Base: nothing}, near)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				get(b, bb.rt, bb.method, "http://user/", nil)
			}
		})
	}
}

func get(b *testing.B, rt http.RoundTripper, method, url string, body io.Reader) {
	req, err := http.NewRequestWithContext(b.Context(), method, url, body)
	if err != nil {
		b.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		b.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}
