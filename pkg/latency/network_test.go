package latency_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

var errRefused = errors.New("connection refused")

const (
	refuses = time.Duration(-1) // a delay: the dial fails at once
	silent  = time.Duration(-2) // a delay: nothing answers, the dial ends with its context
)

// network is a simulated one, to be dialled inside a bubble. It remembers who
// dialled what and when.
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
		here, there := net.Pipe()
		return closer{here, there}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// closer closes both ends of a pipe.
type closer struct {
	net.Conn
	there net.Conn
}

func (c closer) Close() error {
	_ = c.there.Close()
	return c.Conn.Close()
}

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
