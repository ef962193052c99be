package router_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/router"
)

// BenchmarkProxy compares a call through the router with one through a plain
// reverse proxy to one address, and one without any.
func BenchmarkProxy(b *testing.B) {
	d := newFleet(b).router(router.Options{})
	instance := d.instance("user", "u", zoneA, says("hello"))
	to, err := url.Parse(instance.URL)
	if err != nil {
		b.Fatal(err)
	}
	plain := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.SetXForwarded() }})
	defer plain.Close()
	for name, address := range map[string]string{"direct": instance.URL, "plain": plain.URL, "router": d.url + "/proxy/user/"} {
		b.Run("by="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				resp, err := http.Get(address)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}

// BenchmarkRoute compares a call through the router, to an instance on a
// subject, with a plain request.
func BenchmarkRoute(b *testing.B) {
	f := newFleet(b)
	d := f.router(router.Options{})
	if _, err := f.nc.Subscribe("user.u", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	d.list(onSubject("user", "u", "user.u"))
	for name, subject := range map[string]string{"direct": "user.u", "router": "proxima.route.user"} {
		b.Run("by="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.nc.Request(subject, []byte("hello"), 5*time.Second); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
