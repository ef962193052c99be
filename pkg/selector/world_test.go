package selector_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// fixed is a source of lists that come through a channel, whatever the service.
type fixed struct{ lists chan events.Snapshot }

func (f *fixed) Watch(ctx context.Context, _ string, apply func(events.Snapshot)) error {
	for {
		select {
		case s := <-f.lists:
			apply(s)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watching is a source that is a function.
type watching func(ctx context.Context, service string, apply func(events.Snapshot)) error

func (w watching) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	return w(ctx, service, apply)
}

// always is a source of one list that never changes.
func always(entries ...events.Entry) selector.Source {
	return watching(func(ctx context.Context, service string, apply func(events.Snapshot)) error {
		apply(events.Snapshot{Service: service, Entries: sortEntries(entries)})
		<-ctx.Done()
		return ctx.Err()
	})
}

func sortEntries(entries []events.Entry) []events.Entry {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b events.Entry) int { return a.Compare(b.Instance) })
	return entries
}

// Places of the tests: home is the selector's own by default.
var (
	home     = topology.Location{Region: "us", Zone: "us-a"}
	nextDoor = topology.Location{Region: "us", Zone: "us-b"}
	farAway  = topology.Location{Region: "eu", Zone: "eu-a"}
	nowhere  = topology.Location{}
)

// instance is one that works. It has no address, so that it is not probed.
func instance(id string, at topology.Location, change ...func(*events.Entry)) events.Entry {
	e := events.Entry{Instance: &events.Instance{
		ID: id, Service: "user", Incarnation: "1", Endpoints: map[string]string{events.NATS: "user"},
		Location: at, Status: events.Up, Weight: 100, TTL: 15 * time.Second,
	}}
	for _, f := range change {
		f(&e)
	}
	return e
}

func status(s events.Status) func(*events.Entry) { return func(e *events.Entry) { e.Status = s } }
func weight(w int) func(*events.Entry)           { return func(e *events.Entry) { e.Weight = w } }
func suspect(e *events.Entry)                    { e.Suspect = true }
func incarnation(s string) func(*events.Entry)   { return func(e *events.Entry) { e.Incarnation = s } }

func endpoint(protocol, address string) func(*events.Entry) {
	return func(e *events.Entry) { e.Endpoints = map[string]string{protocol: address} }
}

func label(name, value string) func(*events.Entry) {
	return func(e *events.Entry) { e.Metadata = map[string]string{name: value} }
}

// distances is the network of a test: round trips by address. An address without one does
// not answer.
type distances struct {
	mu sync.Mutex
	to map[string]time.Duration
}

func (d *distances) set(address string, distance time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.to == nil {
		d.to = make(map[string]time.Duration)
	}
	d.to[address] = distance
}

func (d *distances) dial(ctx context.Context, _, address string) (net.Conn, error) {
	d.mu.Lock()
	distance, ok := d.to[address]
	d.mu.Unlock()
	if !ok {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	time.Sleep(distance)
	return connection{}, nil
}

// connection is one that nothing goes over.
type connection struct{ net.Conn }

func (connection) Close() error { return nil }

// at is an instance with an address at a distance.
func (d *distances) at(id string, where topology.Location, distance time.Duration, change ...func(*events.Entry)) events.Entry {
	address := id + ".example:80"
	d.set(address, distance)
	return instance(id, where, append(change, endpoint(events.TCP, address))...)
}

// world is a selector in a bubble, and what it sees.
type world struct {
	*selector.Selector
	t *testing.T
	*fixed
	distances
}

// start makes a selector at home that sees entries. It is closed with the test.
func start(t *testing.T, o selector.Options, entries ...events.Entry) *world {
	t.Helper()
	w := newWorld(t, o)
	w.list(entries...)
	return w
}

// newWorld is start without a first list.
func newWorld(t *testing.T, o selector.Options) *world {
	t.Helper()
	w := &world{t: t, fixed: &fixed{make(chan events.Snapshot)}}
	if o.Source == nil {
		o.Source = w.fixed
	}
	if o.Location == (topology.Location{}) {
		o.Location = home
	}
	if o.Latency.Dial == nil {
		o.Latency.Dial = w.dial
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := selector.New(t.Context(), nil, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w.Selector = s
	return w
}

// list makes entries the list of the source, and waits until it is applied and new
// instances are measured.
func (w *world) list(entries ...events.Entry) {
	w.t.Helper()
	w.send(events.Snapshot{Service: "user", Entries: sortEntries(entries)})
	time.Sleep(time.Second)
	synctest.Wait()
}

func (w *world) send(s events.Snapshot) {
	w.t.Helper()
	var asked sync.WaitGroup // the source is watched from the first pick on
	asked.Go(func() { _, _ = w.Explain(w.t.Context(), selector.Request{Service: "user"}) })
	w.lists <- s
	asked.Wait()
	synctest.Wait()
}

// pick fails the test when there is no instance.
func (w *world) pick(r ...selector.Request) selector.Pick {
	p, err := w.try(r...)
	if err != nil {
		w.t.Helper() // no sooner: it costs more than a pick
		w.t.Fatalf("pick: %v", err)
	}
	return p
}

func (w *world) try(r ...selector.Request) (selector.Pick, error) {
	if len(r) == 0 {
		return w.Pick(w.t.Context(), "user")
	}
	r[0].Service = "user"
	return w.PickFor(w.t.Context(), r[0])
}

// picks makes n successful calls and counts them by instance.
func (w *world) picks(n int, r ...selector.Request) map[string]int {
	w.t.Helper()
	count := make(map[string]int)
	for range n {
		p := w.pick(r...)
		count[p.ID]++
		p.Done(nil)
	}
	return count
}

// only returns the instances that get picks, of many.
func (w *world) only(r ...selector.Request) []string {
	w.t.Helper()
	var ids []string
	for id := range w.picks(200, r...) {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// call calls one instance, whatever else there is.
func (w *world) call(id string, result error) {
	w.t.Helper()
	p := w.aim(id)
	p.Done(result)
}

func (w *world) aim(id string) selector.Pick {
	w.t.Helper()
	var others []string
	for _, c := range w.explain().Instances {
		if c.ID != id {
			others = append(others, c.ID)
		}
	}
	p := w.pick(selector.Request{Avoid: others})
	if p.ID != id {
		w.t.Fatalf("picked %s, want %s", p.ID, id)
	}
	return p
}

// errRefused is the error of dialling a port on which no process listens.
var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("connect: %w", syscall.ECONNREFUSED)}

var errCall = errors.New("the call failed")

func (w *world) explain(r ...selector.Request) selector.Explanation {
	w.t.Helper()
	ask := selector.Request{}
	if len(r) > 0 {
		ask = r[0]
	}
	ask.Service = "user"
	e, err := w.Explain(w.t.Context(), ask)
	if err != nil {
		w.t.Fatalf("explain: %v", err)
	}
	return e
}

func (w *world) candidate(id string, r ...selector.Request) selector.Candidate {
	w.t.Helper()
	for _, c := range w.explain(r...).Instances {
		if c.ID == id {
			return c
		}
	}
	w.t.Fatalf("%s is not listed", id)
	panic("unreachable")
}

// several are n instances at home: i0, i1 and so on.
func several(n int, change ...func(*events.Entry)) []events.Entry {
	entries := make([]events.Entry, n)
	for i := range entries {
		entries[i] = instance(fmt.Sprint("i", i), home, change...)
	}
	return entries
}

// some are n instances somewhere, of which the first are changed.
func some(prefix string, at topology.Location, n, first int, change ...func(*events.Entry)) []events.Entry {
	entries := make([]events.Entry, n)
	for i := range entries {
		entries[i] = instance(fmt.Sprint(prefix, i), at)
		if i < first {
			entries[i] = instance(fmt.Sprint(prefix, i), at, change...)
		}
	}
	return entries
}

func join(lists ...[]events.Entry) (all []events.Entry) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// aged makes an instance start that long ago.
func aged(d time.Duration) func(*events.Entry) {
	return func(e *events.Entry) { e.Started = time.Now().Add(-d) }
}

func evacuated(e *events.Entry) { e.Evacuated = true }

func (d *distances) silence(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.to, address)
}

// until waits for a condition, at most for limit, and returns how long it took.
func (w *world) until(what string, limit time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			w.t.Fatalf("after %v still not: %s", limit, what)
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
	}
	took := time.Since(began)
	time.Sleep(200 * time.Millisecond) // tables are a moment behind Explain
	synctest.Wait()
	return took
}

// quick measures often without a budget, and uses the last sample only.
func quick(o selector.Options) selector.Options {
	o.Latency.Budget = -1
	o.Latency.Interval, o.Latency.Window, o.Latency.Fresh = 500*time.Millisecond, 1, 2*time.Second
	return o
}

// patient are options of breakers that stay open.
func patient(o selector.Options) selector.Options {
	o.Breaker.OpenFor = time.Hour
	return o
}

// fail opens the breakers of instances, one after the other.
func (w *world) fail(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		for range 5 {
			w.call(id, errCall)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// circles are those of the only service in the selector's stats.
func (w *world) circles() []selector.Circle { return w.Stats().Services[0].Circles }

// state is a circle in Explain.
func (w *world) state(circle string) selector.Circle {
	w.t.Helper()
	for _, c := range w.explain().Circles {
		if c.Name == circle {
			return c
		}
	}
	w.t.Fatalf("no instance in %s", circle)
	panic("unreachable")
}

// shares are the shares of the circles in Explain.
func (w *world) shares(r ...selector.Request) map[string]float64 {
	w.t.Helper()
	shares := make(map[string]float64)
	for _, c := range w.explain(r...).Circles {
		if c.Share > 0 {
			shares[c.Name] = c.Share
		}
	}
	return shares
}

// wantShares fails when counts are not what shares make probable: chi-square,
// at a level that a sound test passes 999,999 times of a million.
func wantShares(t *testing.T, counts map[string]int, shares map[string]float64) {
	t.Helper()
	total, weights := 0, 0.0
	for id, n := range counts {
		total += n
		if _, ok := shares[id]; !ok {
			t.Errorf("%s was picked %d times, want never", id, n)
		}
	}
	for _, s := range shares {
		weights += s
	}
	chi := 0.0
	for id, s := range shares {
		want := float64(total) * s / weights
		chi += (float64(counts[id]) - want) * (float64(counts[id]) - want) / want
	}
	// The quantile of 1-1e-6 by Wilson and Hilferty.
	df := float64(len(shares) - 1)
	limit := df * math.Pow(1-2/(9*df)+4.7534*math.Sqrt(2/(9*df)), 3)
	if chi > limit {
		t.Errorf("chi-square %.1f, want at most %.1f: picks %v, shares %v", chi, limit, counts, shares)
	}
}

func equalShares(n int) map[string]float64 {
	shares := make(map[string]float64)
	for i := range n {
		shares[fmt.Sprint("i", i)] = 1
	}
	return shares
}

func openAlways(t *testing.T, o selector.Options, entries ...events.Entry) *selector.Selector {
	t.Helper()
	o.Source, o.Logger, o.Location = always(entries...), silent, home
	s, err := selector.New(t.Context(), nil, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func openReal(tb testing.TB, o selector.Options, entries ...events.Entry) *selector.Selector {
	tb.Helper()
	o.Source, o.Location = always(entries...), home
	s, err := selector.New(tb.Context(), nil, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	for _, r := range requests() {
		if _, err := s.PickFor(tb.Context(), r); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

func wantReasons(t *testing.T, e selector.Explanation, want []string) {
	t.Helper()
	var got []string
	for _, c := range e.Instances[:min(len(e.Instances), len(want))] {
		near := " false "
		if c.Near {
			near = " true "
		}
		got = append(got, c.ID+" "+c.Circle+near+c.Reason)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

// learned is what a candidate shows of what this caller has learned.
func learned(c selector.Candidate) string {
	return fmt.Sprintf("%d picks, %d in flight, %v ms, breaker %s, %v ms %s away",
		c.Picks, c.InFlight, c.CallMS, c.Breaker, c.DistanceMS, c.DistanceSource)
}

var silent = slog.New(slog.DiscardHandler)
