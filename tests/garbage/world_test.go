//go:build faults

package garbage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	service = "user"
	ttl     = 3 * time.Second
)

var home = topology.Location{Region: "us-east-1", Zone: "us-east-1a"}

// victims are the honest listeners: announcers of three instances, a caller that
// picks all the time, and a router with its callers.
type victims struct {
	t        *testing.T
	nc       *nats.Conn // the hostile writer's
	calls    *selector.Selector
	registry *kv.Registry // the caller's
	routers  *kv.Registry
	router   string // its URL
	honest   map[string]string
	log      *lines
	misled   atomic.Bool // wrong picks are to be expected

	mu      sync.Mutex // guards what follows
	picks   int
	wrong   []string
	proxied int
	failed  []string
}

// lines counts what is logged.
type lines struct{ n atomic.Int64 }

func (l *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l *lines) Handle(context.Context, slog.Record) error        { l.n.Add(1); return nil }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *lines) WithGroup(string) slog.Handler                    { return l }

func newVictims(t *testing.T) *victims {
	t.Helper()
	server := natstest.StartSingle(t, "../../deploy/nats/single.conf")
	v := &victims{t: t, honest: map[string]string{}, log: &lines{}}
	v.nc = v.connect(server.URL)
	ids := []string{"user-1", "user-2", "user-3"}
	for _, id := range ids {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, id) }))
		t.Cleanup(srv.Close)
		v.honest[id] = srv.Listener.Addr().String()
		a, err := v.open(server.URL).Announce(events.Instance{
			ID: id, Service: service, Location: home, TTL: ttl, Endpoints: map[string]string{events.HTTP: v.honest[id]},
		}, kv.AnnounceOptions{
			Logger: slog.New(v.log), BeatInterval: 200 * time.Millisecond,
			Load: func() (events.Beat, bool) { return events.Beat{CPU: 0.2}, true },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Leave(context.Background()) })
		testkit.Eventually(v.t, id+" to be registered", func() bool { return a.State().Registered() })
	}
	v.startCaller(server.URL)
	v.startRouter(server.URL)
	testkit.Eventually(v.t, "the first picks", func() bool { return v.right(len(ids)) })
	return v
}

func (v *victims) connect(url string) *nats.Conn {
	v.t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(nc.Close)
	return nc
}

func (v *victims) open(url string) *kv.Registry {
	v.t.Helper()
	r, err := kv.Open(v.t.Context(), v.connect(url), kv.Options{Logger: slog.New(v.log)})
	if err != nil {
		v.t.Fatal(err)
	}
	return r
}

// startCaller picks, by all that it may hear: distances and beats too.
func (v *victims) startCaller(url string) {
	v.t.Helper()
	v.registry = v.open(url)
	var err error
	v.calls, err = selector.New(v.t.Context(), v.connect(url), selector.Options{
		Source: v.registry, Location: home, Strategy: selector.LoadAware, Logger: slog.New(v.log),
	})
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = v.calls.Close() })
	if _, err := v.calls.Pick(v.t.Context(), service); err != nil {
		v.t.Fatal(err)
	}
	v.always(time.Millisecond, v.pick)
}

// pick notes a pick that fails, or leads elsewhere than to an honest instance.
func (v *victims) pick() {
	p, err := v.calls.Pick(v.t.Context(), service)
	p.Done(nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.picks++
	switch {
	case v.misled.Load() || v.t.Context().Err() != nil:
	case err != nil:
		v.wrong = append(v.wrong, err.Error())
	case v.honest[p.ID] != p.Endpoints[events.HTTP]:
		v.wrong = append(v.wrong, p.ID+" at "+p.Endpoints[events.HTTP])
	}
}

// startRouter calls through a router, which watches all services.
func (v *victims) startRouter(url string) {
	v.t.Helper()
	v.routers = v.open(url)
	r, err := router.New(v.t.Context(), v.connect(url), v.routers, router.Options{
		Selector: selector.Options{Location: home}, Logger: slog.New(v.log),
	})
	if err != nil {
		v.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		v.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { _ = r.Serve(ctx, l) })
	v.t.Cleanup(func() { cancel(); served.Wait(); _ = r.Close() })
	v.router = "http://" + l.Addr().String()
	if err := r.Wait(v.t.Context()); err != nil {
		v.t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	v.t.Cleanup(client.CloseIdleConnections)
	v.always(20*time.Millisecond, func() {
		misled := v.misled.Load()
		body, err := get(client, v.router+"/proxy/user/")
		v.mu.Lock()
		defer v.mu.Unlock()
		v.proxied++
		if _, ok := v.honest[body]; !ok && !misled {
			v.failed = append(v.failed, fmt.Sprint(body, err))
		}
	})
}

// always does something again and again until the test ends.
func (v *victims) always(every time.Duration, do func()) {
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				do()
			}
		}
	})
	v.t.Cleanup(func() { close(stop); work.Wait() })
}

func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// right reports whether the caller and the router see the honest instances, as
// they are, and no others but suspects.
func (v *victims) right(n int) bool {
	e, err := v.calls.Explain(v.t.Context(), selector.Request{Service: service})
	if err != nil {
		return false
	}
	seen := 0
	for _, c := range e.Instances {
		switch {
		case c.Suspect && v.honest[c.ID] == "":
		case c.Suspect || v.honest[c.ID] != c.Endpoints[events.HTTP]:
			return false
		default:
			seen++
		}
	}
	list, err := get(http.DefaultClient, v.router+"/v1/services/user")
	return err == nil && seen == n && strings.Count(list, `"suspect":false`) == n
}

// heap is what the process holds, in MiB.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}
