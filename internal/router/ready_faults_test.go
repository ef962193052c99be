//go:build faults

package router_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

func TestSaysThatJetStreamIsGoneAndMakesTheBucketAgain(t *testing.T) {
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
	if err := f.ns.EnableJetStream(&server.JetStreamConfig{StoreDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the bucket was made again", func() bool {
		return strings.Contains(d.get("/readyz").body, `"writable":true}`)
	})
}
