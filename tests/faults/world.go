//go:build unix

package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// Options configure [Start]. The zero value is ready to use.
type Options struct {
	// Cluster of servers. With Size 1 it is one server.
	Cluster natstest.ClusterOptions
	// Memory keeps the bucket in memory.
	Memory bool
	// Replicas of the bucket. Default: as many as there are servers.
	Replicas int
	// Announcers is how many servers, the first ones, announcers are connected
	// to at first. Default: all.
	Announcers int
}

// World is servers, instances and callers. Its methods are for the goroutine of
// the test. It ends with the test, and then nothing of it may be left.
type World struct {
	*natstest.Cluster
	*Recorder

	whole *testing.T // the world ends with it
	t     *testing.T // of the case; between cases the same
	opts  Options
	line  timeline
	conns []*nats.Conn // for announcers, one that prefers each server
	regs  []*kv.Registry

	instances []*Instance
	callers   []*Caller
	beacon    *beacon
	named     int

	watch sync.WaitGroup
	stop  context.CancelFunc
}

// followersAnswer is how long after a stream was made its followers begin to
// answer direct gets.
const followersAnswer = 2500 * time.Millisecond

// service is what is announced and called.
const service = "user"

// Start starts the servers and makes the bucket.
func Start(t *testing.T, o Options) *World {
	t.Helper()
	// Whatever is started from here on bears the name of the test: see leaks.
	pprof.SetGoroutineLabels(pprof.WithLabels(t.Context(), pprof.Labels("world", t.Name())))
	if o.Cluster.Size == 0 {
		o.Cluster.Size = 3
	}
	if o.Replicas == 0 {
		o.Replicas = o.Cluster.Size
	}
	w := &World{Recorder: NewRecorder(), whole: t, t: t, opts: o, Cluster: natstest.StartCluster(t, o.Cluster)}
	w.line.begin()
	for i := range cmp.Or(o.Announcers, len(w.Nodes)) {
		nc := w.connect(fmt.Sprintf("announcers %d", i+1), w.from(i))
		w.conns = append(w.conns, nc)
		w.regs = append(w.regs, w.open(nc, w.line.logger(fmt.Sprintf("announcers %d", i+1))))
	}
	testkit.Retry(w.t, "the bucket has all its replicas", func(ctx context.Context) error {
		c, err := w.cluster(ctx)
		if err == nil && c != nil && len(c.Replicas)+1 != o.Replicas {
			err = fmt.Errorf("there are %d others, want %d replicas", len(c.Replicas), o.Replicas)
		}
		return err
	})
	if o.Replicas > 1 {
		w.Pass(followersAnswer)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	w.watch.Go(func() { w.look(ctx) })
	t.Cleanup(w.end)
	return w
}

// look checks all the time.
func (w *World) look(ctx context.Context) {
	every := time.NewTicker(100 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			w.Check()
		}
	}
}

// Case runs a story, and then waits until every caller sees exactly the living
// instances. It fails if the recorder has found a violation.
func (w *World) Case(name string, b Bounds, story func()) bool {
	w.whole.Helper()
	return w.whole.Run(name, func(t *testing.T) {
		w.t = t
		defer func() { w.t = w.whole }()
		b = b.withDefaults()
		w.line.begin()
		w.Begin(b)
		defer func() {
			t.Logf("%s\n%s", w.Figures(), &w.line)
			for _, v := range w.Violations() {
				t.Error(v)
			}
		}()
		story()
		w.Whole(b.Heal)
		w.noConsumers()
	})
}

// Note adds a line to the timeline.
func (w *World) Note(format string, args ...any) { w.line.add(format, args...) }

// Log is what a case reads or measured, in the test's log.
func (w *World) Log(format string, args ...any) { w.t.Helper(); w.t.Logf(format, args...) }

// Pass lets time pass, in which the fault does what it does.
func (w *World) Pass(d time.Duration) { time.Sleep(d) }

// Whole ends the fault, waits until every caller sees exactly the living
// instances and all of them are registered, and returns how long that took.
func (w *World) Whole(within time.Duration) time.Duration {
	w.t.Helper()
	w.Healed()
	began := time.Now()
	before := w.beacon.acked()
	for {
		missing := w.missing(before)
		if missing == "" {
			took := time.Since(began)
			w.Note("all is well, %.2f s after the fault ended", took.Seconds())
			return took
		}
		if time.Since(began) > within {
			w.t.Errorf("%v after the fault ended: %s", within, missing)
			return within
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// missing says what is not as it should be, "" if nothing.
func (w *World) missing(before uint64) string {
	for _, n := range w.Nodes {
		if !n.Running() {
			return n.Name + " does not run"
		}
	}
	if what := w.unregistered(); what != "" {
		return what
	}
	if w.beacon != nil && w.beacon.acked() < before+2 {
		return "no change is acknowledged"
	}
	return w.unseen()
}

// noConsumers checks that the stream has no consumer: none is needed, and one
// that is left costs the server for ever.
func (w *World) noConsumers() {
	w.t.Helper()
	testkit.Retry(w.t, "the stream tells of its consumers", func(ctx context.Context) error {
		s, err := w.stream(ctx)
		if err == nil && s.CachedInfo().State.Consumers != 0 {
			w.t.Errorf("the stream has %d consumers", s.CachedInfo().State.Consumers)
		}
		return err
	})
}

// from is the URLs of all servers, beginning with the i-th.
func (w *World) from(i int) string {
	urls := make([]string, len(w.Nodes))
	for k := range urls {
		urls[k] = w.Nodes[(i+k)%len(w.Nodes)].URL
	}
	return strings.Join(urls, ",")
}

// connect connects as the commands do: for ever, and noticing within 6 s that a
// server is silent. The servers are tried in the order given.
func (w *World) connect(name, urls string, more ...nats.Option) *nats.Conn {
	w.t.Helper()
	flags := daemon.NATSFlags{URL: urls, ConnectTimeout: testkit.Patience}
	nc, err := flags.Connect(w.t.Context(), name, w.line.logger(name), append(more, nats.DontRandomize())...)
	if err != nil {
		w.t.Fatal(err)
	}
	return nc
}

// open opens the bucket, and makes it if it is not there.
func (w *World) open(nc *nats.Conn, log *slog.Logger) *kv.Registry {
	w.t.Helper()
	r, err := kv.Open(w.t.Context(), nc, kv.Options{Memory: w.opts.Memory, Replicas: w.opts.Replicas, Logger: log})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// What follows does something to servers, and says so in the timeline.

// Break begins a fault.
func (w *World) Break(what string, how func()) {
	w.Broken()
	w.Note("%s", what)
	how()
}

// Mend ends one.
func (w *World) Mend(what string, how func()) {
	w.Note("%s", what)
	how()
}

// Kill kills servers.
func (w *World) Kill(all ...*natstest.Process) {
	for _, n := range all {
		w.Break(n.Name+" is killed", n.Kill)
	}
}

// Freeze stops servers, their connections stay open.
func (w *World) Freeze(all ...*natstest.Process) {
	for _, n := range all {
		w.Break(n.Name+" freezes", n.Stop)
	}
}

// Thaw lets them go on.
func (w *World) Thaw(all ...*natstest.Process) {
	for _, n := range all {
		w.Mend(n.Name+" goes on", n.Continue)
	}
}

// Terminate ends a server in the orderly way.
func (w *World) Terminate(n *natstest.Process) {
	w.Break(n.Name+" is terminated", n.Terminate)
	w.Note("%s has ended", n.Name)
}

// Restart starts servers that have ended, and waits until they are well.
func (w *World) Restart(all ...*natstest.Process) {
	w.t.Helper()
	for _, n := range all {
		w.Mend(n.Name+" starts", func() { n.Start(w.whole) }) // it outlives the case
	}
	for _, n := range all {
		n.Healthy(w.t)
		w.Note("%s is well", n.Name)
	}
}

// end ends the world: first what the servers serve. Then nothing may be left.
func (w *World) end() {
	w.stop()
	w.watch.Wait()
	w.beacon.close()
	for len(w.callers) > 0 {
		w.callers[0].Close()
	}
	// Leaving does not wait for servers that may be gone.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var leaving sync.WaitGroup
	for _, i := range w.instances {
		leaving.Go(func() { i.close(ctx) })
	}
	leaving.Wait()
	for _, nc := range w.conns {
		if n := nc.NumSubscriptions(); n > 1 { // one is nats.go's, for answers
			w.t.Errorf("announcers have left %d subscriptions", n)
		}
		nc.Close()
	}
	testkit.Retry(w.t, "no goroutine is left after everything was closed", func(context.Context) error {
		if left := leaks(w.t.Name()); left != "" {
			return errors.New(left)
		}
		return nil
	})
}
