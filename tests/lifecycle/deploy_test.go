//go:build faults && linux

package lifecycle

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// A rolling deploy: one instance after the other is told to stop, and started
// again at its own address, while callers call.
func TestARollingDeployFailsNoCall(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5*time.Second)
	const instances = 4
	var ids, addresses []string
	var processes []*testkit.Process
	var lives []string
	for i := range instances {
		ids, addresses = append(ids, fmt.Sprintf("user-%d", i)), append(addresses, address(t, 1+i))
		processes = append(processes, f.wrap(ids[i], addresses[i], "--drain", "1s"))
	}
	for i := range ids {
		_, life := f.up(ids[i], "")
		lives = append(lives, life)
	}
	_, door := f.router()
	direct := begin(t, 200, f.call)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	proxied := begin(t, 100, func(ctx context.Context, i int, tried func(string, error)) error {
		method := http.MethodGet
		if i%4 == 0 {
			method = http.MethodPost
		}
		_, err := get(ctx, client, method, door+"/proxy/user/")
		tried("", err)
		return err
	})
	time.Sleep(time.Second)
	for i, p := range processes {
		began := time.Now()
		p.Signal(syscall.SIGTERM)
		if code := p.Exit(); code != 0 {
			t.Errorf("%s ended with code %d", ids[i], code)
		}
		stopped := time.Since(began)
		f.wrap(ids[i], addresses[i], "--drain", "1s")
		took, _ := f.up(ids[i], lives[i])
		t.Logf("%s: stopped in %v, listed anew %v later", ids[i], stopped.Round(time.Millisecond), took.Round(time.Millisecond))
		direct.answers(t, ids[i], 1, began.Add(stopped))
	}
	time.Sleep(time.Second)
	if retries := direct.check(t, "selector.Do"); retries > 3 {
		t.Errorf("%d retries, want none: an instance is draining before it leaves", retries)
	}
	proxied.check(t, "the router's proxy")
	requests, picks := metric(t, door, `proxima_router_requests_total\{.*service="user"`), metric(t, door, `proxima_picks_total\{.*service="user"`)
	t.Logf("the router made %d attempts for %d requests", picks, requests)
	if requests < 100 || picks-requests > 3 {
		t.Errorf("the router made %d attempts for %d requests, want one for each", picks, requests)
	}
}

// metric is the sum of the series of a router's metrics that match.
func metric(t testing.TB, door, pattern string) (sum int) {
	t.Helper()
	body, err := get(t.Context(), http.DefaultClient, http.MethodGet, door+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`(?m)^`+pattern+`.*\} (\d+)$`).FindAllStringSubmatch(body, -1) {
		n, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// Ten thousand requests or some more, in the middle of which one of two instances
// leaves.
func TestAGracefulStopFailsNoneOfTenThousandCalls(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5*time.Second)
	stays, leaves := address(t, 11), address(t, 12)
	f.wrap("stays", stays)
	p := f.wrap("leaves", leaves, "--drain", "1s")
	f.up("stays", "")
	f.up("leaves", "")

	const calls, callers, perSecond = 10_000, 16, 1200
	l := &load{stop: make(chan struct{}), inVain: map[string][]time.Time{}, answered: map[string][]time.Time{}}
	var next, last atomic.Int64
	last.Store(math.MaxInt64)
	var work sync.WaitGroup
	began := time.Now()
	for range callers {
		work.Go(func() {
			for i := next.Add(1); i <= last.Load(); i = next.Add(1) {
				time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / perSecond))) // the pace
				ctx, cancel := context.WithTimeout(t.Context(), perCall)
				start := time.Now()
				err := f.call(ctx, int(i), l.tried)
				cancel()
				l.mu.Lock()
				l.calls++
				l.took = append(l.took, time.Since(start))
				if err != nil {
					l.failures = append(l.failures, err.Error())
				}
				l.mu.Unlock()
			}
		})
	}
	testkit.Eventually(t, "a fifth of the calls", func() bool { return next.Load() > calls/5 })
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	ended := time.Now()
	last.Store(max(calls, next.Load()+500))
	work.Wait()
	if retries := l.check(t, "selector.Do"); retries > 3 {
		t.Errorf("%d retries, want none", retries)
	}
	if l.count(l.answered, "leaves", began) < 100 || l.last(l.answered, "leaves", ended) > 0 {
		t.Errorf("the one that left has answered %d calls, the last %v after its end",
			l.count(l.answered, "leaves", began), l.last(l.answered, "leaves", ended))
	}
}

// Routers are replaced too: a caller that asks by NATS does not notice.
func TestRoutersAreReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5*time.Second)
	at := address(t, 71)
	service(t, at)
	f.announce("user", at)
	f.up("user", "")
	nc, err := nats.Connect(f.url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var routers []*testkit.Process
	for range 2 {
		p, _ := f.router()
		routers = append(routers, p)
	}
	calls := begin(t, 100, func(ctx context.Context, _ int, tried func(string, error)) error {
		answer, err := nc.RequestWithContext(ctx, "proxima.route.user", []byte("{}"))
		if err == nil && answer.Header.Get("Nats-Service-Error-Code") != "" {
			err = fmt.Errorf("status %s: %s", answer.Header.Get("Nats-Service-Error-Code"), answer.Header.Get("Nats-Service-Error"))
		}
		tried("user", err)
		return err
	})
	for _, p := range routers {
		calls.answers(t, "user", 30, time.Now())
		p.Signal(syscall.SIGTERM)
		if code := p.Exit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		f.router()
	}
	calls.answers(t, "user", 30, time.Now())
	calls.check(t, "by NATS")
}
