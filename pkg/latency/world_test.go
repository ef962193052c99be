package latency_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// The world of these tests: a network, a bus, and fleets of callers on them.

var errRefused = errors.New("connection refused")

const (
	refuses = time.Duration(-1) // a delay: the dial fails at once
	silent  = time.Duration(-2) // a delay: nothing answers, the dial ends with its context
)

// network is a simulated one, to be dialled inside a bubble. It remembers what
// was dialled when.
type network struct {
	mu       sync.Mutex
	delay    func(address string) time.Duration
	dials    map[string][]time.Time
	inFlight int
	most     int // in flight, ever
}

// newNetwork makes a network where every address is equally far.
func newNetwork(delay time.Duration) *network {
	n := &network{dials: make(map[string][]time.Time)}
	n.set(delay)
	return n
}

func (n *network) set(delay time.Duration) { n.setFunc(func(string) time.Duration { return delay }) }

func (n *network) setFunc(delay func(address string) time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = delay
}

func (n *network) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[address] = append(n.dials[address], time.Now())
	n.inFlight++
	n.most = max(n.most, n.inFlight)
	delay := n.delay(address)
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.inFlight--
		n.mu.Unlock()
	}()

	var answer <-chan time.Time
	switch delay {
	case refuses:
		return nil, errRefused
	case silent:
	default:
		answer = time.After(delay)
	}
	select {
	case <-answer:
		return connection{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connection is one that nothing goes over.
type connection struct{ net.Conn }

func (connection) Close() error { return nil }

// open is the number of dials in flight, and peak the largest it ever was.
func (n *network) open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.inFlight
}

func (n *network) peak() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.most
}

// at returns when the address was dialled.
func (n *network) at(address string) []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]time.Time(nil), n.dials[address]...)
}

// gaps returns the times between dials of the address.
func (n *network) gaps(address string) []time.Duration {
	at := n.at(address)
	var gaps []time.Duration
	for i := 1; i < len(at); i++ {
		gaps = append(gaps, at[i].Sub(at[i-1]))
	}
	return gaps
}

// dialled returns which addresses were dialled since the last call.
func (n *network) dialled() map[string]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make(map[string]bool)
	for a := range n.dials {
		all[a] = true
	}
	clear(n.dials)
	return all
}

// prober is a prober whose groups are found by the names of their services.
type prober struct {
	*latency.Prober
	onChange func(group string)

	mu     sync.Mutex
	groups map[string]*latency.Group
}

func newProber(c latency.Caller, o latency.Options) *prober {
	return &prober{Prober: latency.New(c, o), groups: make(map[string]*latency.Group)}
}

// start makes a prober that is closed with the test; the network may be nil.
func start(tb testing.TB, n *network, o latency.Options, c ...latency.Caller) *prober {
	tb.Helper()
	if n != nil {
		o.Dial = n.Dial
	}
	p := newProber(append(c, latency.Caller{})[0], o)
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return p
}

// notify makes f the onChange of groups to come.
func (p *prober) notify(f func(group string)) *prober {
	p.onChange = f
	return p
}

// group is the group of a name, a new one when there is none.
func (p *prober) group(name string) *latency.Group {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.groups[name] == nil {
		var onChange func()
		if f := p.onChange; f != nil {
			onChange = func() { f(name) }
		}
		p.groups[name] = p.Group(name, onChange)
	}
	return p.groups[name]
}

// end closes the group of a name, which is then another one.
func (p *prober) end(name string) {
	p.mu.Lock()
	g := p.groups[name]
	delete(p.groups, name)
	p.mu.Unlock()
	g.Close()
}

// address is the i-th address.
func address(i int) string { return fmt.Sprintf("10.0.%d.%d:80", i/256, i%256) }

// target is the i-th instance of a service.
func target(i int) latency.Target {
	return latency.Target{
		Key:         events.Key{Service: "user", Region: "r", Zone: "a", ID: fmt.Sprintf("i%d", i)},
		Incarnation: "1",
		Address:     address(i),
	}
}

// members puts paths into one circle.
func members(paths ...*latency.Path) []latency.Member {
	all := make([]latency.Member, len(paths))
	for i, pa := range paths {
		all[i].Path = pa
	}
	return all
}

// makePaths makes n paths with addresses of their own.
func makePaths(p *prober, n int) []*latency.Path {
	all := make([]*latency.Path, n)
	for i := range all {
		all[i] = p.Path(target(i))
	}
	return all
}

// within reports whether d is want ±20 %, and a bit for the probe itself.
func within(d, want time.Duration) bool {
	return d >= want*8/10 && d <= want*12/10+50*time.Millisecond
}

var errNoAnswer = errors.New("no answer")

// bus carries messages between the probers of a bubble. What is published
// arrives at once and in order, on a goroutine of each subscription's own. The
// last message of each subject is kept for two minutes.
type bus struct {
	mu        sync.Mutex
	last      map[string]message
	listeners map[string]map[*listener]bool // by the subject without its last token
	answers   map[string]func([]byte) []byte
	published []message // only counted when it is not kept
	keep      bool
	count     int
	requests  int
	work      sync.WaitGroup
}

type message struct {
	subject string
	data    []byte
	at      time.Time
}

type listener struct {
	handle func(subject string, data []byte, age time.Duration)
	wake   chan struct{}

	mu    sync.Mutex
	queue []message
	ended bool
}

// newBus makes a bus whose subscriptions must have ended when the test does.
func newBus(tb testing.TB) *bus {
	b := &bus{last: make(map[string]message), listeners: make(map[string]map[*listener]bool), answers: make(map[string]func([]byte) []byte)}
	tb.Cleanup(func() {
		if n := b.subscriptions(); n > 0 {
			tb.Errorf("%d subscriptions were not ended", n)
		}
		b.work.Wait()
	})
	return b
}

// group is the subject without its last token.
func group(subject string) string { return subject[:strings.LastIndexByte(subject, '.')+1] }

func (b *bus) Publish(subject string, data []byte) error {
	m := message{subject, bytes.Clone(data), time.Now()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last[subject] = m
	b.count++
	if b.keep {
		b.published = append(b.published, m)
	}
	for l := range b.listeners[group(subject)] {
		l.put(m)
	}
	return nil
}

func (b *bus) Subscribe(ctx context.Context, pattern string, handle func(subject string, data []byte, age time.Duration)) (stop func(), err error) {
	prefix, ok := strings.CutSuffix(pattern, "*")
	if !ok {
		return nil, errors.New("want a pattern")
	}
	l := &listener{handle: handle, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	for subject, m := range b.last {
		if group(subject) == prefix && time.Since(m.at) < 2*time.Minute {
			l.queue = append(l.queue, m)
		}
	}
	if b.listeners[prefix] == nil {
		b.listeners[prefix] = make(map[*listener]bool)
	}
	b.listeners[prefix][l] = true
	b.mu.Unlock()

	caughtUp := make(chan struct{})
	b.work.Go(func() { l.deliver(caughtUp) })
	select {
	case <-caughtUp:
	case <-ctx.Done():
	}
	return func() {
		b.mu.Lock()
		delete(b.listeners[prefix], l)
		b.mu.Unlock()
		l.mu.Lock()
		l.ended = true
		l.mu.Unlock()
		l.look()
	}, nil
}

func (b *bus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	b.mu.Lock()
	answer := b.answers[subject]
	b.requests++
	b.mu.Unlock()
	if answer == nil {
		return nil, errNoAnswer
	}
	return answer(data), nil
}

// answer lets f answer requests on a subject.
func (b *bus) answer(subject string, f func([]byte) []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[subject] = f
}

func (b *bus) subscriptions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, ls := range b.listeners {
		n += len(ls)
	}
	return n
}

// sent is how many messages were published and requests made.
func (b *bus) sent() (messages, requests int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count, b.requests
}

// latest is the last message of a subject, nil if there is none.
func (b *bus) latest(subject string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last[subject].data
}

func (l *listener) put(m message) {
	l.mu.Lock()
	l.queue = append(l.queue, m)
	l.mu.Unlock()
	l.look()
}

func (l *listener) look() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *listener) deliver(caughtUp chan struct{}) {
	for first := true; ; first = false {
		l.mu.Lock()
		queue, ended := l.queue, l.ended
		l.queue = nil
		l.mu.Unlock()
		if ended {
			return
		}
		for _, m := range queue {
			l.handle(m.subject, m.data, time.Since(m.at))
		}
		if first {
			close(caughtUp)
		}
		<-l.wake
	}
}

// cable connects one prober to the bus, until it is cut.
type cable struct {
	latency.Bus
	mu  sync.Mutex
	cut bool
}

func (c *cable) Publish(subject string, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return errNoAnswer
	}
	return c.Bus.Publish(subject, data)
}

// pull makes what is on it vanish for the others.
func (c *cable) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
}

var zoneA = topology.Location{Region: "r", Zone: "a"}

// fleet is callers of one service in one zone.
type fleet struct {
	*network
	bus     *bus
	targets []latency.Target
}

// caller is one of them.
type caller struct {
	*prober
	name  string
	paths []*latency.Path
	cable *cable
	since time.Time
}

// newFleet makes a fleet without callers: instance i is delay(i) away.
func newFleet(t *testing.T, instances int, delay func(i int) time.Duration) *fleet {
	f := &fleet{newNetwork(0), newBus(t), make([]latency.Target, instances)}
	index := make(map[string]int)
	for i := range f.targets {
		f.targets[i] = target(i)
		index[address(i)] = i
	}
	f.setFunc(func(a string) time.Duration { return delay(index[a]) })
	return f
}

// join starts a caller that knows all instances. Its options may say more.
func (f *fleet) join(name string, o latency.Options, self ...latency.Caller) *caller {
	c := &caller{name: name, cable: &cable{Bus: f.bus}, since: time.Now()}
	me := append(self, latency.Caller{Location: zoneA})[0]
	me.Bus, me.Reporter = c.cable, name
	if o.Dial == nil {
		o.Dial = f.Dial
	}
	c.prober = newProber(me, o)
	_ = c.group("user").Share(context.Background()) // this bus has no errors
	for _, t := range f.targets {
		c.paths = append(c.paths, c.Path(t))
	}
	c.group("user").Set(members(c.paths...))
	return c
}

// nearest is the index of the nearest instance by what the caller knows.
func (c *caller) nearest() int {
	best := 0
	for i, pa := range c.paths {
		if pa.Estimate(time.Hour).Distance < c.paths[best].Estimate(time.Hour).Distance {
			best = i
		}
	}
	return best
}

// unknown is how many instances it knows no measured distance of.
func (c *caller) unknown() int {
	n := 0
	for _, pa := range c.paths {
		if !pa.Estimate(0).Measured() {
			n++
		}
	}
	return n
}

// drain returns how often each instance was dialled since the last call.
func (f *fleet) drain() []int {
	counts := make([]int, len(f.targets))
	for i := range counts {
		counts[i] = len(f.at(address(i)))
	}
	f.dialled()
	return counts
}

// spread is the least, the middle and the most.
func spread(counts []int) (least, middle, most int) {
	s := slices.Sorted(slices.Values(counts))
	return s[0], s[len(s)/2], s[len(s)-1]
}

// rush lets callers join within a time, and returns them.
func (f *fleet) rush(callers int, within time.Duration, o latency.Options) []*caller {
	all := make([]*caller, callers)
	done := make(chan struct{})
	for i := range all {
		go func() {
			time.Sleep(within * time.Duration(i) / time.Duration(callers)) // in a bubble
			all[i] = f.join(fmt.Sprintf("c%d", i), o)
			done <- struct{}{}
		}()
	}
	for range all {
		<-done
	}
	return all
}

func closeAll(t *testing.T, callers []*caller) {
	t.Helper()
	for _, c := range callers {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// testFlat wants what an instance receives not to depend on how many callers
// there are, nor on whether they start together.
func testFlat(t *testing.T, callers int, within time.Duration, minutes, first int) {
	const instances = 6
	f := newFleet(t, instances, func(int) time.Duration { return time.Millisecond })
	all := f.rush(callers, within, latency.Options{})
	defer closeAll(t, all)
	time.Sleep(time.Until(all[0].since.Add(time.Minute))) // in a bubble
	least, middle, most := spread(f.drain())
	t.Logf("%d callers within %v: in the first minute %d–%d–%d probes per instance", callers, within, least, middle, most)
	if most > first {
		t.Errorf("%d probes of an instance in the first minute, want at most %d", most, first)
	}
	for minute := range minutes {
		time.Sleep(time.Minute) // in a bubble
		counts := f.drain()
		least, middle, most = spread(counts)
		t.Logf("minute %d: %d–%d–%d", minute+2, least, middle, most)
		// Share (2) per Interval (10s), if their budgets suffice.
		want := min(12.0, float64(callers)*30*0.75*0.9/instances)
		for i, n := range counts {
			if callers > 1 && (float64(n) < want/2 || float64(n) > want*3/2) || float64(n) > want*2.5 {
				t.Errorf("minute %d: %d probes of instance %d, want %.0f ±50 %%", minute+2, n, i, want)
			}
		}
		for _, c := range all {
			if n := c.unknown(); n > 0 {
				t.Fatalf("minute %d: %s knows nothing of %d instances", minute+2, c.name, n)
			}
		}
	}
	messages, _ := f.bus.sent()
	t.Logf("%d messages in %d minutes", messages, minutes+1)
}

// wobble makes round trips vary by a share of them.
func wobble(r *rand.Rand, d time.Duration, by float64) time.Duration {
	return time.Duration(float64(d) * (1 + by*(2*r.Float64()-1)))
}
