package router_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"testing"

	"github.com/proxima-discovery/proxima/internal/router"
)

// Names come from outside: those that no instance has leave nothing behind.
func TestUnknownNamesLeaveNothingBehind(t *testing.T) {
	const names = 10_000
	f := newFleet(t)
	d := f.router(router.Options{})
	d.instance("user", "u", zoneA, echo())
	ask := func(name string) int {
		resp, err := http.Get(d.url + "/proxy/" + name + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	measure := func() (heap int64, goroutines int, subscriptions uint32) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc), runtime.NumGoroutine(), f.ns.NumSubscriptions()
	}
	for i := range 500 {
		ask(fmt.Sprint("warm", i))
	}
	if got := ask("user"); got != http.StatusAccepted {
		t.Fatalf("status %d of a service that exists", got)
	}
	heap, goroutines, subscriptions := measure()
	for i := range names {
		if got := ask(fmt.Sprint("fake", i)); got != http.StatusServiceUnavailable {
			t.Fatalf("status %d of an unknown service", got)
		}
	}
	h, g, s := measure()
	if perName := (h - heap) / names; perName > 20 {
		t.Errorf("%d bytes a name are kept", perName)
	}
	if g > goroutines+5 {
		t.Errorf("%d goroutines, %d before", g, goroutines)
	}
	if s > subscriptions {
		t.Errorf("%d subscriptions, %d before", s, subscriptions)
	}
}
