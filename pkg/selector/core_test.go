package selector_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// stage is a registry with two instances of user at home, and a connection of a caller, whose
// probes are counted.
type stage struct {
	t      *testing.T
	ns     *server.Server
	nc     *nats.Conn
	r      *kv.Registry // on nc
	dials  atomic.Int64
	common selector.Options
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, ns: natstest.Start(t)}
	far, err := kv.Open(t.Context(), natstest.Connect(t, s.ns), kv.Options{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	var d distances
	for _, id := range []string{"i0", "i1"} {
		a := announce(t, far, d.at(id, home, time.Millisecond))
		testkit.Eventually(t, id+" is listed", func() bool { return a.State().Registered() })
	}
	s.nc = natstest.Connect(t, s.ns)
	if s.r, err = kv.Open(t.Context(), s.nc, kv.Options{Logger: silent}); err != nil {
		t.Fatal(err)
	}
	s.common = selector.Options{Source: s.r, Location: home, Logger: silent}
	s.common.Latency.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		s.dials.Add(1)
		return d.dial(ctx, network, address)
	}
	return s
}

// open makes a selector with the common options, but for some.
func (s *stage) open(change ...func(*selector.Options)) *selector.Selector {
	s.t.Helper()
	o := s.common
	for _, f := range change {
		f(&o)
	}
	sel, err := selector.New(s.t.Context(), s.nc, o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = sel.Close() })
	return sel
}

func (s *stage) pick(sel *selector.Selector) selector.Pick {
	s.t.Helper()
	p, err := sel.Pick(s.t.Context(), "user")
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func by(strategy selector.Strategy) func(*selector.Options) {
	return func(o *selector.Options) { o.Strategy = strategy }
}

func opened(o *selector.Options) { o.Source, o.Registry = nil, kv.Options{NoCreate: true} }

func TestSelectorsOfAProcessShareWatchesAndProbes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*selector.Options)
	}{{"one registry as source", func(*selector.Options) {}}, {"registries that New opens", opened}} {
		t.Run(tt.name, func(t *testing.T) {
			var dials [2]int64
			var subscriptions [2]uint32
			for i, strategies := range [][]selector.Strategy{{""}, {"", selector.Nearest, selector.ConsistentHash, ""}} {
				natstest.Bubble(t, func(t *testing.T) {
					s := newStage(t)
					var all []*selector.Selector
					for _, strategy := range strategies {
						all = append(all, s.open(tt.change, by(strategy)))
					}
					for range 60 {
						for _, sel := range all {
							p := s.pick(sel)
							p.Done(nil)
						}
						time.Sleep(time.Second)
					}
					synctest.Wait()
					dials[i], subscriptions[i] = s.dials.Load(), s.ns.NumSubscriptions()
					stats := all[0].Stats()
					if got := int64(stats.Latency.Probes); got != dials[i] {
						t.Errorf("%d probes are counted, want %d", got, dials[i])
					}
					if got := stats.Services[0].Circles[0].Picks; got != uint64(60*len(all)) {
						t.Errorf("%d picks are counted, want %d", got, 60*len(all))
					}
				})
			}
			if dials[0] == 0 || dials[1] > dials[0]*5/4 {
				t.Errorf("four selectors made %d probes in a minute, one makes %d", dials[1], dials[0])
			}
			if subscriptions[1] != subscriptions[0] {
				t.Errorf("four selectors have %d subscriptions, one has %d", subscriptions[1], subscriptions[0])
			}
		})
	}
}

func TestSelectorsShareBreakersAndCallsInFlight(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		s := newStage(t)
		a, b := s.open(), s.open(by(selector.Nearest))
		p := s.pick(a)
		failed := p.ID
		p.Done(errRefused)
		held := s.pick(a)
		synctest.Wait()
		e, err := b.Explain(t.Context(), selector.Request{Service: "user"})
		if err != nil {
			t.Fatal(err)
		}
		if e.Strategy != "nearest" {
			t.Errorf("the strategy of the second is %s", e.Strategy)
		}
		for _, c := range e.Instances {
			want := "closed"
			if c.ID == failed {
				want = "open"
			}
			if c.Breaker != want {
				t.Errorf("for the second the breaker of %s is %s, want %s", c.ID, c.Breaker, want)
			}
			if c.ID == held.ID && c.InFlight != 1 {
				t.Errorf("for the second %s has %d calls in flight, want 1", c.ID, c.InFlight)
			}
		}
		for range 10 {
			p := s.pick(b)
			if p.Done(nil); p.ID == failed {
				t.Errorf("the second picked %s, whose breaker is open", p.ID)
			}
		}
		held.Done(nil)
	})
}

func TestEachSelectorPicksByItsOwnStrategy(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		s := newStage(t)
		var shown []string
		first := s.open(by(selector.RoundRobin))
		hash := s.open(by(selector.ConsistentHash), func(o *selector.Options) {
			o.OnPick = func(p selector.Pick) { shown = append(shown, p.ID) }
		})
		got := make(map[string]int)
		for range 10 {
			p := s.pick(first)
			p.Done(nil)
			got[p.ID]++
		}
		if got["i0"] != 5 || got["i1"] != 5 || len(shown) > 0 {
			t.Errorf("round robin picked %v, and the hook of the other selector saw %v", got, shown)
		}
		owners := make(map[string]bool)
		for range 10 {
			err := hash.DoFor(t.Context(), selector.Request{Service: "user", Key: "one"}, func(_ context.Context, p *selector.Pick) error {
				owners[p.ID] = true
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if len(owners) != 1 || len(shown) != 10 {
			t.Errorf("one key went to %v, the hook saw %v", owners, shown)
		}
		p, err := hash.PickFor(t.Context(), selector.Request{Service: "user", Strategy: selector.Random})
		if err != nil {
			t.Fatal(err)
		}
		p.Done(nil)
	})
}

func TestTheStrategyOfASelectorThatSharesFollowsPolicies(t *testing.T) {
	for _, tt := range []struct {
		policy, stated, want selector.Strategy
		overCode             bool
	}{
		{"", "", selector.P2C, false},
		{"", selector.Random, selector.Random, false},
		{selector.RoundRobin, "", selector.RoundRobin, false},
		{selector.RoundRobin, selector.Random, selector.Random, false},
		{selector.RoundRobin, selector.Random, selector.RoundRobin, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			text := fmt.Sprintf(`{"strategy":%q,"over_code":%v}`, tt.policy, tt.overCode)
			if tt.policy == "" {
				text = ""
			}
			w := startRuled(t, selector.Options{Strategy: selector.Nearest}, text)
			w.list(several(2)...)
			if got := w.StrategyFor("user", tt.stated); got != tt.want {
				t.Errorf("policy %q (over code: %v), code %q: %s, want %s", tt.policy, tt.overCode, tt.stated, got, tt.want)
			}
		})
	}
}

func TestASelectorOutlivesOneThatItSharesWith(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		s := newStage(t)
		a, b := s.open(), s.open(by(selector.Random))
		p := s.pick(a)
		waiting := make(chan error)
		go func() {
			_, err := a.PickFor(t.Context(), selector.Request{Service: "none", Wait: true})
			waiting <- err
		}()
		watched := make(chan int)
		go func() {
			n := 0
			for range a.Watch(t.Context(), "user") {
				n++
			}
			watched <- n
		}()
		synctest.Wait()
		for range 2 {
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-waiting; !errors.Is(err, selector.ErrClosed) {
			t.Errorf("a pick that waited ended with %v", err)
		}
		if n := <-watched; n == 0 {
			t.Error("a watch ended without a snapshot")
		}
		p.Done(nil)
		for name, err := range map[string]error{
			"Pick": second(a.Pick(t.Context(), "user")), "of an unknown service": second(a.Pick(t.Context(), "other")),
			"Explain": second(a.Explain(t.Context(), selector.Request{Service: "user"})),
			"Ready":   a.Ready(t.Context(), "user", 1),
			"Do":      a.DoFor(t.Context(), selector.Request{Service: "user"}, nil),
		} {
			if !errors.Is(err, selector.ErrClosed) {
				t.Errorf("%s of a closed selector: %v", name, err)
			}
		}
		dials := s.dials.Load()
		for range 60 {
			p := s.pick(b)
			p.Done(nil)
			time.Sleep(time.Second)
		}
		if s.dials.Load() == dials {
			t.Error("the other selector measures no more")
		}
		_ = b.Close()
		if n := selector.Cores(); n != 0 {
			t.Errorf("%d cores are left", n)
		}
		testkit.Eventually(t, "no subscription is left", func() bool { return s.nc.NumSubscriptions() <= 1 }) // one is nats.go's, for answers
		c := s.open()
		s.pick(c)
		if c.Shares(b) {
			t.Error("a selector shares with one that was closed")
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestSelectorsThatDifferShareNothing(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		s := newStage(t)
		seen := func(breaker.Key, breaker.State, breaker.State) {}
		config := &tls.Config{}
		for name, tt := range map[string]struct {
			a, b func(*selector.Options)
			want bool
		}{
			"nothing": {func(*selector.Options) {}, func(*selector.Options) {}, true},
			"strategies and loggers": {by(selector.Random), func(o *selector.Options) {
				o.Strategy, o.Logger, o.Registry.Bucket = selector.Nearest, nil, kv.DefaultBucket
			}, true},
			"empty labels":        {func(o *selector.Options) { o.Labels = map[string]string{} }, func(*selector.Options) {}, true},
			"labels":              {func(o *selector.Options) { o.Labels = map[string]string{"a": "b"} }, func(*selector.Options) {}, false},
			"places":              {func(o *selector.Options) { o.Location = nextDoor }, func(*selector.Options) {}, false},
			"breakers":            {func(o *selector.Options) { o.Breaker.Failures = 2 }, func(*selector.Options) {}, false},
			"near sets":           {func(o *selector.Options) { o.Near.Slack = time.Second }, func(*selector.Options) {}, false},
			"one hook":            {func(o *selector.Options) { o.Breaker.OnChange = seen }, func(o *selector.Options) { o.Breaker.OnChange = seen }, true},
			"a hook":              {func(o *selector.Options) { o.Breaker.OnChange = seen }, func(*selector.Options) {}, false},
			"certificates":        {func(o *selector.Options) { o.Probe.TLS = &tls.Config{} }, func(o *selector.Options) { o.Probe.TLS = config }, false},
			"one set of them":     {func(o *selector.Options) { o.Probe.TLS = config }, func(o *selector.Options) { o.Probe.TLS = config }, true},
			"sources":             {func(*selector.Options) {}, opened, false},
			"other sources":       {func(o *selector.Options) { o.Source = selector.Static() }, func(o *selector.Options) { o.Source = selector.Static() }, false},
			"opened":              {opened, opened, true},
			"opened, with others": {opened, func(o *selector.Options) { opened(o); o.Registry.NoSuspects = true }, false},
		} {
			a, b := s.open(tt.a), s.open(tt.b)
			if got := a.Shares(b); got != tt.want {
				t.Errorf("%s: they share: %v", name, got)
			}
			_, _ = a.Close(), b.Close()
		}
		if n := selector.Cores(); n != 0 {
			t.Errorf("%d cores are left", n)
		}
	})
}

func TestSelectorsAreOpenedAndClosedAtTheSameTime(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		s := newStage(t)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		var all sync.WaitGroup
		for i := range 24 {
			all.Go(func() {
				for round := range 5 {
					o := s.common
					ctx := t.Context()
					opened(&o)
					if i%8 == 7 {
						ctx = ended
					}
					o.Strategy = selector.Strategies()[i%8]
					sel, err := selector.New(ctx, s.nc, o)
					if err != nil {
						if ctx != ended {
							t.Errorf("New: %v", err)
						}
						continue
					}
					p, err := sel.Pick(t.Context(), "user")
					if err != nil {
						t.Errorf("round %d of %s: %v", round, o.Strategy, err)
					}
					p.Done(err)
					_ = sel.Close()
				}
			})
		}
		all.Wait()
		if n := selector.Cores(); n != 0 {
			t.Errorf("%d cores are left", n)
		}
	})
}

func TestAPolicyHoldsForAllSelectorsThatShare(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		s := newStage(t)
		a, b, c := s.open(by(selector.Random)), s.open(by(selector.Nearest)), s.open()
		strategies := func() (all string) {
			for _, sel := range []*selector.Selector{a, b, c} {
				e, err := sel.Explain(t.Context(), selector.Request{Service: "user"})
				if err != nil {
					t.Fatal(err)
				}
				all += e.Strategy + " "
			}
			return all
		}
		for _, tt := range []struct{ policy, want string }{
			{`{"panic":0.3}`, "random nearest p2c "},
			{`{"strategy":"round_robin"}`, "random nearest round_robin "},
			{`{"strategy":"round_robin","over_code":true}`, "round_robin round_robin round_robin "},
		} {
			if _, err := s.r.PutPolicy(t.Context(), "user", []byte(tt.policy)); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, tt.policy+" holds: "+tt.want, func() bool { return strategies() == tt.want })
			for _, sel := range []*selector.Selector{a, b, c} {
				p := s.pick(sel)
				p.Done(nil)
			}
		}
	})
}
