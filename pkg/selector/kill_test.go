package selector_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// servesAs is the environment variable that makes a process of this test an instance.
const servesAs = "SELECTOR_TEST_SERVES_AS"

func TestMain(m *testing.M) {
	if id := os.Getenv(servesAs); id != "" {
		if err := serve(id); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serve answers HTTP with its id until its input ends, so that it does not
// outlive the test.
func serve(id string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, id) }))
	}()
	fmt.Println(l.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// Real processes on real sockets in a real registry: the nearest one is killed under 200
// calls a second.
func TestNoCallFailsWhenTheNearestIsKilled(t *testing.T) {
	ns := natstest.Start(t)
	r, err := kv.Open(t.Context(), natstest.Connect(t, ns), kv.Options{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	processes := make(map[string]*testkit.Process)
	for id, at := range map[string]topology.Location{"here": home, "door": nextDoor, "far": farAway} {
		processes[id] = testkit.Start(t, testkit.Command{Env: []string{servesAs + "=" + id}})
		address := processes[id].Stdout.Await(t, "^.+$")
		a := announce(t, r, instance(id, at, endpoint(events.HTTP, address)))
		testkit.Eventually(t, id+" is listed", func() bool { return a.State().Registered() })
	}
	o := selector.Options{Location: home, Logger: silent, Spill: selector.Spill{Off: true}} // a busy machine is not a busy instance
	o.Breaker.OpenFor = time.Minute
	s, err := selector.New(t.Context(), natstest.Connect(t, ns), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	get := func(tried func(id string, err error)) error {
		return s.Do(t.Context(), "user", func(ctx context.Context, in *events.Instance) (err error) {
			defer func() { tried(in.ID, err) }()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+in.Endpoints[events.HTTP]+"/", http.NoBody)
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if err == nil && string(body) != in.ID {
				t.Errorf("%s answered as %s", in.ID, body)
			}
			return err
		})
	}

	var calls sync.WaitGroup
	var here, door atomic.Int64
	load := func(d time.Duration) {
		tick := time.NewTicker(5 * time.Millisecond) // 200 a second
		defer tick.Stop()
		for range int(d / (5 * time.Millisecond)) {
			<-tick.C
			calls.Go(func() {
				err := get(func(id string, _ error) {
					switch id {
					case "here":
						here.Add(1)
					case "door":
						door.Add(1)
					}
				})
				if err != nil {
					t.Errorf("a call failed: %v", err)
				}
			})
		}
	}
	load(500 * time.Millisecond)
	if h, d := here.Load(), door.Load(); h == 0 || d != 0 {
		t.Errorf("%d calls here and %d next door, want all here", h, d)
	}
	processes["here"].Kill()
	load(time.Second)
	calls.Wait()
	if door.Load() < 190 {
		t.Errorf("%d calls next door after here was killed, want about 200", door.Load())
	}

	// One call after the other: the first to be refused is the last to go there.
	processes["door"].Kill()
	var order []string
	refused := -1
	for range 50 {
		err := get(func(id string, err error) {
			if order = append(order, id); refused < 0 && breaker.Refused(err) {
				refused = len(order)
			}
		})
		if err != nil {
			t.Errorf("a call failed: %v", err)
		}
	}
	if refused < 1 || refused > 10 || slices.Contains(order[refused:], "door") || slices.Contains(order, "here") {
		t.Errorf("calls went to %v, want door until it refuses (at %d), then far", order, refused)
	}
}
