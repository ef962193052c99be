package router_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// instanceEnv makes the test's own program an instance, so that it can be killed.
const instanceEnv = "ROUTER_TEST_INSTANCE"

func TestMain(m *testing.M) {
	if id := os.Getenv(instanceEnv); id != "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(l.Addr())
		srv := &http.Server{Handler: says(id), ReadHeaderTimeout: time.Second}
		fmt.Println(srv.Serve(l))
		os.Exit(1)
	}
	testkit.AtOnce(8)
	os.Exit(m.Run())
}

// process starts an instance as a process and lists it.
func (d *door) process(service, id string, at topology.Location) *testkit.Process {
	d.tb.Helper()
	p := testkit.Start(d.tb, testkit.Command{Env: []string{instanceEnv + "=" + id}})
	address := p.Stdout.Await(d.tb, "^.+$")
	d.list(events.Instance{Service: service, ID: id, Location: at, Endpoints: map[string]string{"http": address}})
	return p
}

func TestKillingTheNearestInstanceUnderLoadFailsNoCall(t *testing.T) {
	t.Parallel()
	d := newFleet(t).router(router.Options{})
	near := d.process("user", "near", zoneA)
	d.process("user", "next", zoneB)
	if got := d.get("/proxy/user/"); got.body != "near" {
		t.Fatalf("before: %d %s", got.status, got.body)
	}

	const calls, callers = 400, 8 // at 200 a second
	var next atomic.Int64
	var mu sync.Mutex
	answered := map[string]int{}
	var failed []string
	start := time.Now()
	var work sync.WaitGroup
	for range callers {
		work.Go(func() {
			for {
				i := next.Add(1)
				if i > calls {
					return
				}
				time.Sleep(time.Until(start.Add(time.Duration(i) * 5 * time.Millisecond))) // the pace of the load
				if i == calls/2 {
					near.Kill()
				}
				var got answer
				if i%2 == 0 {
					got = d.get("/proxy/user/")
				} else {
					reply, code := d.ask("proxima.route.user", "", "Proxima-Method", "GET")
					got = answer{body: string(reply.Data), status: 200}
					if code != "" {
						got = answer{body: code + " " + reply.Header.Get("Nats-Service-Error"), status: 500}
					}
				}
				mu.Lock()
				if got.status == 200 {
					answered[got.body]++
				} else {
					failed = append(failed, fmt.Sprint(i, ": ", got.status, " ", got.body))
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	if len(failed) > 0 {
		t.Errorf("%d of %d calls failed: %v", len(failed), calls, failed)
	}
	if answered["near"] < calls/4 || answered["next"] < calls/4 {
		t.Errorf("answered by %v", answered)
	}
	list := decode[router.Instances](t, d.get("/v1/services/user").body)
	if last := list.Instances[len(list.Instances)-1]; last.ID != "near" || last.Breaker == "closed" {
		t.Errorf("the dead instance is listed as %s %s", last.ID, last.Breaker)
	}
}
