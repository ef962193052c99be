package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// times are what the watchers measured: from before the write to after the new
// table is in place, and, for comparison, of plain NATS messages.
type times struct {
	mu    sync.Mutex
	table []time.Duration
	plain []time.Duration
}

func (t *times) add(into *[]time.Duration, since string) {
	ns, err := strconv.ParseInt(since, 10, 64)
	if err != nil {
		return // not of this benchmark
	}
	took := time.Since(time.Unix(0, ns))
	t.mu.Lock()
	defer t.mu.Unlock()
	*into = append(*into, took)
}

// stopwatch is a source that looks at the clock when a table has been made.
type stopwatch struct {
	*kv.Registry
	done func(version string)
}

func (s *stopwatch) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	return s.Registry.Watch(ctx, service, func(list events.Snapshot) {
		apply(list)
		for _, e := range list.Entries {
			s.done(e.Version)
		}
	})
}

// runWatchers is a process with a number of callers, each with a connection
// and a selector, that answers on "bench" what they saw.
func runWatchers() error {
	ctx := context.Background()
	url := os.Args[1]
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	var t times
	var mu sync.Mutex
	seen := map[string]int{} // by version
	control, err := nats.Connect(url)
	if err != nil {
		return err
	}
	count := func(into *[]time.Duration, version string) {
		t.add(into, version)
		mu.Lock()
		defer mu.Unlock()
		if seen[version]++; seen[version] == n {
			delete(seen, version)
			_ = control.Publish("bench.done", []byte(version))
		}
	}
	for range n {
		nc, err := nats.Connect(url)
		if err != nil {
			return err
		}
		registry, err := kv.Open(ctx, nc, kv.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		s, err := selector.New(ctx, nil, selector.Options{
			Location: topology.Location{Region: "r", Zone: "z"}, Logger: slog.New(slog.DiscardHandler),
			Source: &stopwatch{registry, func(version string) { count(&t.table, version) }},
		})
		if err != nil {
			return err
		}
		p, err := s.Pick(ctx, "user")
		if err != nil {
			return err
		}
		p.Done(nil)
		if _, err := nc.Subscribe("bench.plain", func(m *nats.Msg) { count(&t.plain, string(m.Data)) }); err != nil {
			return err
		}
		if err := nc.Flush(); err != nil {
			return err
		}
	}
	_, err = control.Subscribe("bench.result", func(m *nats.Msg) {
		t.mu.Lock()
		defer t.mu.Unlock()
		data, err := json.Marshal(map[string][2]time.Duration{"table": percentiles(t.table), "plain": percentiles(t.plain)})
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		t.table, t.plain = nil, nil
	})
	if err != nil {
		return err
	}
	if err := control.Publish("bench.ready", nil); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, bufio.NewReader(os.Stdin))
	return err
}

// percentiles are p50 and p99.
func percentiles(all []time.Duration) [2]time.Duration {
	if len(all) == 0 {
		return [2]time.Duration{}
	}
	slices.Sort(all)
	return [2]time.Duration{all[len(all)/2], all[len(all)*99/100]}
}

// BenchmarkAnnounceToTable is a change of an instance until it is in the
// tables of callers in another process, through a NATS server in a third one,
// one change at a time. The plain metrics are the same way with core NATS
// messages: the least that it can take.
func BenchmarkAnnounceToTable(b *testing.B) {
	for _, watchers := range []int{1, 100} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) { announceToTable(b, watchers) })
	}
}

func announceToTable(b *testing.B, watchers int) {
	url := natstest.StartSingle(b, "../deploy/nats/single.conf").URL
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	registry, err := kv.Open(b.Context(), nc, kv.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	in := events.Instance{
		ID: "a", Service: "user", Endpoints: map[string]string{events.NATS: "svc"}, Incarnation: "i",
		Location: topology.Location{Region: "r", Zone: "z"}, Metadata: map[string]string{"team": "a"}, Started: time.Now(),
	}
	revision, err := registry.Register(b.Context(), in, 0)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan *nats.Msg, 16)
	for _, subject := range []string{"bench.done", "bench.ready"} {
		if _, err := nc.ChanSubscribe(subject, done); err != nil {
			b.Fatal(err)
		}
	}
	testkit.Start(b, testkit.Command{Args: []string{url, strconv.Itoa(watchers)}, Env: []string{watchersVar + "=1"}})
	await := func() {
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			b.Fatal("the watchers have not seen it after 20s")
		}
	}
	await()
	for b.Loop() {
		in.Version = strconv.FormatInt(time.Now().UnixNano(), 10)
		if revision, err = registry.Register(b.Context(), in, revision); err != nil {
			b.Fatal(err)
		}
		await()
		if err := nc.Publish("bench.plain", strconv.AppendInt(nil, time.Now().UnixNano(), 10)); err != nil {
			b.Fatal(err)
		}
		await()
	}
	reply, err := nc.Request("bench.result", nil, 5*time.Second)
	if err != nil {
		b.Fatal(err)
	}
	var result map[string][2]time.Duration
	if err := json.Unmarshal(reply.Data, &result); err != nil {
		b.Fatal(err)
	}
	for name, p := range result {
		b.ReportMetric(float64(p[0].Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(p[1].Microseconds()), name+"-p99-µs")
	}
}
