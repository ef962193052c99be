package proximahttp_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// distance is that of the one instance of service user.
func (f *fleet) distance(t *testing.T, protocol string) (ms float64, source string) {
	t.Helper()
	e, err := f.selector.Explain(t.Context(), selector.Request{Service: "user", Protocol: protocol})
	if err != nil || len(e.Instances) != 1 {
		t.Fatalf("%+v, %v", e, err)
	}
	return e.Instances[0].DistanceMS, e.Instances[0].DistanceSource
}

func TestConnectionsOfCallsMeasureTheDistance(t *testing.T) {
	slow := func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(50 * time.Millisecond) // which is not distance
		says(r.Proto)(w, r)
	}
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(slow))
			srv.EnableHTTP2 = version == "HTTP/2.0"
			srv.StartTLS()
			t.Cleanup(srv.Close)
			roots := x509.NewCertPool()
			roots.AddCert(srv.Certificate())
			base := proximahttp.NewBase()
			base.TLSClientConfig = &tls.Config{RootCAs: roots}
			t.Cleanup(base.CloseIdleConnections)
			f := newFleet(t, proximahttp.Options{Base: base}, at("i", "a", events.HTTPS, srv.Listener.Addr().String()))

			if ms, source := f.distance(t, events.HTTPS); source != "assumed" {
				t.Errorf("before the first call: %v ms, %s", ms, source)
			}
			req := request(t, http.MethodGet, nil)
			req.URL.Scheme = "https"
			resp, err := f.RoundTrip(req)
			if _, got := read(t, resp, err); got != version {
				t.Errorf("answered by %s", got)
			}
			if ms, source := f.distance(t, events.HTTPS); source != "measured" || ms <= 0 || ms > 25 {
				t.Errorf("after a call: %v ms, %s", ms, source)
			}
		})
	}
}

func TestAFailureIsNoSampleOfTheDistance(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{"503": fails(503), "hangs up": hangsUp} {
		f := newFleet(t, proximahttp.Options{}, serve(t, "i", "a", h))
		if resp, err := f.RoundTrip(request(t, http.MethodGet, nil)); err == nil {
			resp.Body.Close()
		}
		if ms, source := f.distance(t, ""); source != "assumed" {
			t.Errorf("%s: %v ms, %s", name, ms, source)
		}
	}
}

func TestABaseWithoutObservedConnectionsWorks(t *testing.T) {
	base := proximahttp.NewBase()
	base.DialContext = new(net.Dialer).DialContext
	t.Cleanup(base.CloseIdleConnections)
	f := newFleet(t, proximahttp.Options{Base: base}, serve(t, "i", "a", says("hello")))
	resp, err := f.RoundTrip(request(t, http.MethodGet, nil))
	read(t, resp, err)
	if ms, source := f.distance(t, ""); source != "assumed" {
		t.Errorf("%v ms, %s", ms, source)
	}
}
