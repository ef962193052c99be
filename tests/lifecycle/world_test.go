//go:build faults && linux

package lifecycle

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var (
	home  = topology.Location{Region: "us-east-1", Zone: "us-east-1a"}
	quiet = slog.New(slog.DiscardHandler)
)

// fleet is a NATS server, what is listed there, and a caller.
type fleet struct {
	t   testing.TB
	url string
	*selector.Selector
	client *http.Client // one attempt

	mu      sync.Mutex // guards what follows
	listed  map[string]events.Entry
	missing []string // ids that were listed once, as they vanished
}

// newFleet starts a server, and a caller that gives up an attempt after a time.
func newFleet(t testing.TB, perAttempt time.Duration) *fleet {
	t.Helper()
	ns := natstest.Start(t, natstest.Listen)
	f := &fleet{t: t, url: ns.ClientURL(), listed: map[string]events.Entry{}}
	registry, err := kv.Open(t.Context(), natstest.Connect(t, ns), kv.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() { _ = registry.Watch(ctx, "user", f.take) })
	t.Cleanup(func() { cancel(); watch.Wait() })
	// On a busy machine measured distances differ by milliseconds that are none.
	o := selector.Options{Location: home, Logger: quiet, Near: selector.Near{Slack: time.Second}}
	if f.Selector, err = selector.New(t.Context(), natstest.Connect(t, ns), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	base := &http.Transport{MaxIdleConnsPerHost: 256, ResponseHeaderTimeout: perAttempt}
	t.Cleanup(base.CloseIdleConnections)
	f.client = &http.Client{Transport: base}
	return f
}

func (f *fleet) take(s events.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := make(map[string]events.Entry)
	for _, e := range s.Entries {
		now[e.ID] = e
	}
	for id := range f.listed {
		if _, ok := now[id]; !ok {
			f.missing = append(f.missing, id)
		}
	}
	f.listed = now
}

// find is an instance as it is listed, false if it is not.
func (f *fleet) find(id string) (events.Entry, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.listed[id]
	return e, ok
}

// vanished reports whether an instance was removed from the list at some time.
func (f *fleet) vanished(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.missing, id)
}

// up waits until another incarnation of an instance than the given one is
// listed, and returns how long that took and which it is.
func (f *fleet) up(id, other string) (took time.Duration, incarnation string) {
	f.t.Helper()
	took = testkit.Eventually(f.t, id+" to be listed", func() bool {
		e, ok := f.find(id)
		incarnation = incarnationOf(e)
		return ok && e.Status == events.Up && !e.Suspect && incarnation != other
	})
	return took, incarnation
}

// announce starts an announcer of an instance, beside it or, with a command
// after "--", around it.
func (f *fleet) announce(id, address string, args ...string) *testkit.Process {
	f.t.Helper()
	all := []string{
		"run", "--nats-url", f.url, "--service", "user", "--id", id, "--endpoint", "http=" + address,
		"--region", home.Region, "--zone", home.Zone,
	}
	return testkit.Start(f.t, command(filepath.Join(testkit.Build(f.t, "cmd/..."), "announcer"), []string{serviceAt + "=" + address}, append(all, args...)...))
}

// wrap starts an announcer around an instance.
func (f *fleet) wrap(id, address string, args ...string) *testkit.Process {
	f.t.Helper()
	return f.announce(id, address, append(args, "--check", "http://"+address+"/healthz", "--", os.Args[0])...)
}

// router starts a router, and returns it and its URL when it is ready.
func (f *fleet) router(args ...string) (*testkit.Process, string) {
	f.t.Helper()
	p := testkit.Start(f.t, command(filepath.Join(testkit.Build(f.t, "cmd/..."), "router"), nil, append([]string{
		"serve", "--nats-url", f.url, "--http", "127.0.0.1:0", "--region", home.Region, "--zone", home.Zone,
	}, args...)...))
	door := p.Stdout.Await(f.t, `HTTP: (http://\S+)`)
	testkit.Eventually(f.t, "the router to be ready", func() bool {
		_, err := get(f.t.Context(), http.DefaultClient, http.MethodGet, door+"/readyz")
		return err == nil
	})
	return p, door
}

// get is one attempt of a call.
func get(ctx context.Context, client *http.Client, method, url string) (body string, err error) {
	var content io.Reader = http.NoBody
	if method == http.MethodPost {
		content = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %.200s", resp.Status, data)
	}
	return string(data), err
}

// call is a call with [selector.Do], of which every fourth must not be
// repeated. It reports each attempt to tried.
func (f *fleet) call(ctx context.Context, i int, tried func(id string, err error)) error {
	r := selector.Request{Service: "user", NonIdempotent: i%4 == 0}
	method := http.MethodGet
	if r.NonIdempotent {
		method = http.MethodPost
	}
	return f.DoFor(ctx, r, func(ctx context.Context, p *selector.Pick) error {
		_, err := get(ctx, f.client, method, "http://"+p.Endpoints[events.HTTP]+"/")
		tried(p.ID, err)
		return err
	})
}

func incarnationOf(e events.Entry) string {
	if e.Instance == nil {
		return ""
	}
	return e.Incarnation
}

// read is call without those that must not be repeated: of them, one that the
// instance has received ends with it.
func (f *fleet) read(ctx context.Context, i int, tried func(id string, err error)) error {
	return f.call(ctx, i|1, tried)
}

// inFlight is how many calls of the selector an instance has under way.
func (f *fleet) inFlight(id string) int {
	f.t.Helper()
	e, err := f.Explain(f.t.Context(), selector.Request{Service: "user"})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, c := range e.Instances {
		if c.ID == id {
			return c.InFlight
		}
	}
	return 0
}

// command is a program with one output for standard output and standard error.
func command(path string, env []string, args ...string) testkit.Command {
	all := new(testkit.Output)
	return testkit.Command{Path: path, Args: args, Env: env, Stdout: all, Stderr: all}
}

// address is a free one of the loopback network, on a host that no connection
// comes from, so that it stays free while its owner is replaced.
func address(t testing.TB, host int) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.1.%d:0", host))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// service starts an instance without an announcer, and waits until it
// listens.
func service(t testing.TB, address string) *testkit.Process {
	t.Helper()
	p := testkit.Start(t, command("", []string{serviceAt + "=" + address}))
	testkit.Eventually(t, address+" listens", func() bool { return pidAt(address) == p.PID() })
	return p
}

// pidAt is the process id of the instance that answers at an address, 0 if
// none does.
func pidAt(address string) int {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + "/")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	pid, _ := strconv.Atoi(string(body))
	return pid
}
