//go:build faults

package router_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

func TestSaysThatJetStreamIsGone(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	d.instance("user", "u", zoneA, says("hello"))
	ready := func(what, body string) {
		t.Helper()
		testkit.Eventually(t, what, func() bool {
			got := d.get("/readyz")
			return got.status == 200 && strings.HasPrefix(got.body, body)
		})
	}
	if err := f.ns.ShutdownJetStream(); err != nil {
		t.Fatal(err)
	}
	ready("without JetStream", `{"ready":true,"stale":true,"services":1,"writable":false,"reason":"kv: the registry does not answer: `)
}

func TestMakesTheBucketAgainSoonAfterItWasLost(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	js, err := jetstream.New(f.nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "KV_proxima"); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, 10*time.Second, "an instance can register", func() bool {
		return d.do("POST", "/v1/register", u1Body).status == 201
	})
}
