package latency_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestWhatAnInstanceReceivesDoesNotGrowWithItsCallers(t *testing.T) {
	for _, callers := range []int{1, 10} {
		for _, within := range []time.Duration{0, 3 * time.Second} {
			t.Run(fmt.Sprintf("callers=%d/within=%v", callers, within), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testFlat(t, callers, within, 5, 30) })
			})
		}
	}
}

func TestANewCallerHasTheDistancesOfItsZoneAtOnce(t *testing.T) {
	orders := map[string]func(p *prober, f *fleet) []*latency.Path{
		"Share, Path, Probe": func(p *prober, f *fleet) (paths []*latency.Path) {
			_ = p.group("user").Share(context.Background())
			for _, to := range f.targets {
				paths = append(paths, p.Path(to))
			}
			return paths
		},
		"Path, Probe, Share": func(p *prober, f *fleet) (paths []*latency.Path) {
			for _, to := range f.targets {
				paths = append(paths, p.Path(to))
			}
			p.group("user").Set(members(paths...))
			_ = p.group("user").Share(context.Background())
			return paths
		},
		"Share, Probe later": func(p *prober, f *fleet) (paths []*latency.Path) {
			for _, to := range f.targets {
				paths = append(paths, p.Path(to))
			}
			_ = p.group("user").Share(context.Background())
			p.group("user").Set(members(paths...))
			return paths
		},
	}
	for name, arrive := range orders {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				far := func(i int) time.Duration { return time.Duration(10+i) * time.Millisecond }
				f := newFleet(t, 30, far)
				all := f.rush(5, 0, latency.Options{})
				defer closeAll(t, all)
				time.Sleep(2 * time.Minute)

				began := time.Now()
				p := start(t, nil, latency.Options{Dial: newNetwork(silent).Dial}, latency.Caller{Bus: f.bus, Location: zoneA})
				for i, pa := range arrive(p, f) {
					want := latency.Estimate{Distance: far(i), Source: latency.SourceShared}
					if got := pa.Estimate(time.Hour); got != want {
						t.Errorf("instance %d: %v, want %v", i, got, want)
					}
				}
				if took := time.Since(began); took > 0 {
					t.Errorf("that took %v", took)
				}
			})
		})
	}
}

// An id is unique in a zone. Another zone may have an instance of the same id, and even
// the same incarnation where those are not random.
func TestInstancesOfTwoZonesMayHaveTheSameID(t *testing.T) {
	for _, incarnations := range [][2]string{{"x", "y"}, {"1", "1"}} {
		for _, early := range []bool{false, true} {
			t.Run(fmt.Sprint(incarnations, early), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					far := []time.Duration{5 * time.Millisecond, 40 * time.Millisecond}
					f := newFleet(t, 2, func(i int) time.Duration { return far[i] })
					f.targets[1].Key.ID, f.targets[1].Key.Zone = f.targets[0].Key.ID, "b"
					for i := range f.targets {
						f.targets[i].Incarnation = incarnations[i]
					}
					late := func() *caller { return f.join("late", latency.Options{Dial: newNetwork(silent).Dial}) }
					var p *caller
					if !early {
						p = late() // it has the paths before others tell of them
					}
					all := f.rush(3, 0, latency.Options{})
					defer closeAll(t, all)
					time.Sleep(2 * time.Minute)
					if early {
						p = late()
					}
					defer closeAll(t, []*caller{p})
					for i, pa := range p.paths {
						if got, want := pa.Estimate(time.Hour), (latency.Estimate{Distance: far[i], Source: latency.SourceShared}); got != want {
							t.Errorf("%s of zone %s: %v, want %v", f.targets[i].Key.ID, f.targets[i].Key.Zone, got, want)
						}
					}
					// One leaves, and the other one is heard of all the same.
					for _, c := range append(all, p) {
						c.group("user").Set(members(c.paths[1]))
					}
					const now = 60 * time.Millisecond
					f.set(now)
					time.Sleep(5 * time.Minute)
					if got := p.paths[1].Estimate(time.Hour); got.Distance != now || got.Source != latency.SourceShared {
						t.Errorf("after the other one left: %v, want %v", got, now)
					}
				})
			})
		}
	}
}

// A reporter that does not say the place, as older ones, is believed where it is clear
// which instance it speaks of.
func TestASampleWithoutAPlaceIsOfTheOnlyInstanceThatItFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ear{}
		p := start(t, newNetwork(silent), latency.Options{}, latency.Caller{Bus: e, Location: zoneA, Reporter: "me"})
		if err := p.group("user").Share(t.Context()); err != nil {
			t.Fatal(err)
		}
		a, b, c := target(0), target(0), target(0)
		b.Key.Zone, c.Key.Zone, c.Incarnation = "b", "c", "2"
		paths := []*latency.Path{p.Path(a), p.Path(b), p.Path(c)}
		p.group("user").Set(members(paths...))
		for i, tt := range []struct {
			sample string
			want   []latency.Source
		}{
			{`{"id":"i0","incarnation":"1","rtt_us":1000,"count":1,"age_ms":0}`, []latency.Source{latency.SourceAssumed, latency.SourceAssumed, latency.SourceAssumed}},
			{`{"id":"i0","incarnation":"2","rtt_us":1000,"count":1,"age_ms":0}`, []latency.Source{latency.SourceAssumed, latency.SourceAssumed, latency.SourceShared}},
			{`{"id":"i0","incarnation":"1","place":"r/x","rtt_us":1000,"count":1,"age_ms":0}`, []latency.Source{latency.SourceAssumed, latency.SourceAssumed, latency.SourceShared}},
			{`{"id":"i0","incarnation":"1","place":"r/b","rtt_us":1000,"count":1,"age_ms":0}`, []latency.Source{latency.SourceAssumed, latency.SourceShared, latency.SourceShared}},
		} {
			e.handle("latency.r.a.user.other", fmt.Appendf(nil, `{"seq":%d,"samples":[%s]}`, i+1, tt.sample), 0)
			for k, pa := range paths {
				if got := pa.Estimate(time.Second).Source; got != tt.want[k] {
					t.Errorf("after %s: %d is %s, want %s", tt.sample, k, got, tt.want[k])
				}
			}
		}
		if n := p.Counts().Rejected; n > 0 {
			t.Errorf("%d were rejected", n)
		}
	})
}

// What others measure may come while a probe of our own is under way: that one
// is not joined by a second.
func TestAPathHasOneProbeInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, b := newNetwork(silent), newBus(t)
		p := start(t, n, latency.Options{Interval: 200 * time.Millisecond, Budget: -1}, latency.Caller{Bus: b, Location: zoneA})
		if err := p.group("user").Share(t.Context()); err != nil {
			t.Fatal(err)
		}
		subject := wire.Report{Region: "r", Zone: "a", Service: "user", Reporter: "other"}.Subject()
		said := uint64(0)
		say := func(samples ...wire.Sample) {
			said++
			data, err := wire.EncodeBatch(wire.Batch{Sequence: said, Samples: samples})
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Publish(subject, data); err != nil {
				t.Fatal(err)
			}
		}
		var paths []*latency.Path
		for i := range 40 {
			// Some time after the first, others know that we are there.
			paths = append(paths, p.Path(target(i)))
			p.group("user").Set(members(paths[i:]...))
			for range 30 {
				time.Sleep(100 * time.Millisecond)
				if n.open() > 1 {
					t.Fatalf("%d probes of one path in flight", n.open())
				}
				var sample []wire.Sample
				if n.open() > 0 {
					sample = append(sample, wire.Sample{ID: fmt.Sprintf("i%d", i), Incarnation: "1", RTT: time.Millisecond, Count: 1})
				}
				say(sample...)
			}
		}
	})
}

func TestAnotherIncarnationStartsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, func(int) time.Duration { return 5 * time.Millisecond })
		all := f.rush(5, 0, latency.Options{})
		defer closeAll(t, all)
		time.Sleep(time.Minute)
		p := start(t, newNetwork(silent), latency.Options{}, latency.Caller{Bus: f.bus, Location: zoneA})
		if err := p.group("user").Share(t.Context()); err != nil {
			t.Fatal(err)
		}
		to := target(0)
		to.Incarnation = "2"
		pa := p.Path(to)
		p.group("user").Set(members(pa))
		for range 60 {
			if got := pa.Estimate(1); got.Source != latency.SourceAssumed {
				t.Fatalf("%v, but that was measured of the one before it", got)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestOnlyReportersOfTheSameZoneCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3, func(int) time.Duration { return 5 * time.Millisecond })
		all := f.rush(5, 0, latency.Options{})
		defer closeAll(t, all)
		time.Sleep(time.Minute)
		for _, where := range []topology.Location{{Region: "r", Zone: "b"}, {Region: "q", Zone: "a"}, {Region: "r"}, {Zone: "a"}, {}} {
			p := start(t, newNetwork(silent), latency.Options{}, latency.Caller{Bus: f.bus, Location: where})
			if err := p.group("user").Share(t.Context()); err != nil {
				t.Fatal(err)
			}
			pa := p.Path(target(0))
			p.group("user").Set(members(pa))
			time.Sleep(30 * time.Second)
			if got := pa.Estimate(1); got.Measured() {
				t.Errorf("in %v: %v", where, got)
			}
		}
	})
}

// Callers come, leave, and vanish without a last batch. A caller that has been
// there for a while has a distance of every instance all the time.
func TestAllDistancesStayKnownWhileCallersComeAndGo(t *testing.T) {
	t.Parallel()
	seeds := uint64(3)
	if raced {
		seeds = 1
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			f := newFleet(t, 10, func(i int) time.Duration { return time.Duration(10+i*i) * time.Millisecond })
			var here, vanished []*caller
			defer func() { closeAll(t, append(here, vanished...)) }()
			unknown, looks := 0, 0
			for second := range 900 {
				switch {
				case len(here) < 3, r.IntN(10) == 0 && len(here) < 20:
					here = append(here, f.join(fmt.Sprintf("c%d", second), latency.Options{}))
				case r.IntN(15) == 0:
					i := r.IntN(len(here))
					c := here[i]
					here = append(here[:i], here[i+1:]...)
					if r.IntN(2) == 0 {
						closeAll(t, []*caller{c})
						break
					}
					c.cable.pull()
					vanished = append(vanished, c)
					c.end("user") // it probes no more either
				}
				time.Sleep(time.Second)
				for _, c := range here {
					if time.Since(c.since) > 20*time.Second {
						looks += len(c.paths)
						unknown += c.unknown()
					}
				}
			}
			least, middle, most := spread(f.drain())
			t.Logf("seed %d: not known %d of %d times; %d–%d–%d probes per instance in 15 minutes", seed, unknown, looks, least, middle, most)
			if unknown > looks/1000 {
				t.Errorf("not known %d of %d times", unknown, looks)
			}
		})
	}
}

// An instance that is down gets no more probes from many callers than from a
// few, and all of them notice when it is there again.
func TestAZoneSharesTheProbesOfAnInstanceThatIsDown(t *testing.T) {
	t.Parallel()
	crowd := 60
	if raced {
		crowd = 20
	}
	for _, callers := range []int{10, crowd} {
		t.Run(fmt.Sprintf("callers=%d", callers), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var down atomic.Bool
				down.Store(true)
				f := newFleet(t, 4, func(i int) time.Duration {
					if i == 0 && down.Load() {
						return refuses
					}
					return time.Millisecond
				})
				all := f.rush(callers, time.Second, latency.Options{})
				defer closeAll(t, all)
				time.Sleep(2 * time.Minute)
				for range 3 {
					f.drain()
					time.Sleep(5 * time.Minute)
					counts := f.drain()
					t.Logf("%d probes of it in 5 minutes", counts[0])
					if counts[0] < 10 || counts[0] > 70 {
						t.Errorf("%d probes of it in 5 minutes, want at most one in 5 s", counts[0])
					}
					down.Store(false)
					time.Sleep(45 * time.Second)
					for _, c := range all {
						if e := c.paths[0].Estimate(0); !e.Measured() || c.paths[0].Failures() > 0 {
							t.Errorf("%s: %v, %d failures 45 s after it came back", c.name, e, c.paths[0].Failures())
						}
					}
					down.Store(true)
					time.Sleep(3 * time.Minute)
				}
			})
		})
	}
}

func TestCloseEndsTheSubscriptionAndOtherReportersTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 6, func(int) time.Duration { return time.Millisecond })
		all := f.rush(4, 0, latency.Options{})
		time.Sleep(2 * time.Minute)
		for i, c := range all[:3] {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			r := wire.Report{Region: "r", Zone: "a", Service: "user", Reporter: c.name}
			if b, _, err := wire.DecodeBatch(f.bus.latest(r.Subject())); err != nil || !b.Leaving {
				t.Errorf("the last words of %s: %+v, %v, want a batch that it leaves", c.name, b, err)
			}
			if got, want := f.bus.subscriptions(), 3-i; got != want {
				t.Errorf("%d subscriptions, want %d", got, want)
			}
			f.drain()
			time.Sleep(time.Minute)
			if least, middle, most := spread(f.drain()); least < 3 || middle > 15 {
				t.Errorf("in the minute after %s left: %d–%d–%d probes per instance", c.name, least, middle, most)
			}
		}
		closeAll(t, all[3:])
		messages, _ := f.bus.sent()
		time.Sleep(time.Hour)
		if again, _ := f.bus.sent(); again != messages {
			t.Errorf("%d messages after all had left", again-messages)
		}
	})
}

func TestAClosedGroupLeavesTheBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3, func(int) time.Duration { return time.Millisecond })
		c := f.join("c", latency.Options{})
		defer closeAll(t, []*caller{c})
		for range 3 {
			time.Sleep(time.Minute)
			c.end("user")
			synctest.Wait()
			if got := f.bus.subscriptions(); got != 0 {
				t.Errorf("%d subscriptions after the group ended", got)
			}
			r := wire.Report{Region: "r", Zone: "a", Service: "user", Reporter: "c"}
			if b, _, err := wire.DecodeBatch(f.bus.latest(r.Subject())); err != nil || !b.Leaving {
				t.Errorf("its last words: %+v, %v", b, err)
			}
			if err := c.group("user").Share(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.group("user").Set(members(c.paths...))
		}
	})
}

func TestAGroupIsStillSharedAfterItHadNoMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3, func(int) time.Duration { return time.Millisecond })
		all := f.rush(2, 0, latency.Options{})
		defer closeAll(t, all)
		time.Sleep(time.Minute)
		for _, c := range all {
			c.group("user").Set(nil)
		}
		time.Sleep(10 * time.Minute)
		if got := f.bus.subscriptions(); got != 2 {
			t.Fatalf("%d subscriptions of 2 callers while there are no instances", got)
		}
		all[0].group("user").Set(members(all[0].paths...))
		time.Sleep(5 * time.Second)
		c := all[1]
		c.group("user").Set(members(c.paths...))
		if n := c.unknown(); n > 0 {
			t.Errorf("%d instances are not known from the other caller", n)
		}
	})
}

// deafBus refuses subscriptions.
type deafBus struct{ *bus }

func (deafBus) Subscribe(context.Context, string, func(string, []byte, time.Duration)) (func(), error) {
	return nil, errNoAnswer
}

func TestWithoutASubscriptionItMeasuresAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		b := newBus(t)
		p := start(t, n, latency.Options{}, latency.Caller{Bus: deafBus{b}, Location: zoneA})
		if err := p.group("user").Share(t.Context()); !errors.Is(err, errNoAnswer) {
			t.Errorf("PerInterval: %v, want the error of the bus", err)
		}
		all := makePaths(p, 5)
		p.group("user").Set(members(all...))
		time.Sleep(time.Second)
		for i, pa := range all {
			if _, ok := pa.Measured(); !ok {
				t.Errorf("path %d is not measured", i)
			}
		}
	})
}

func TestWithoutAZoneNothingIsSharedAndTheNearestIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 100, func(i int) time.Duration { return time.Duration(5+(i*37)%100) * time.Millisecond })
		c := f.join("alone", latency.Options{NoCoordinates: true}, latency.Caller{Location: topology.Location{Host: "h"}})
		defer closeAll(t, []*caller{c})
		time.Sleep(12 * time.Minute)
		if messages, requests := f.bus.sent(); messages+requests > 0 || f.bus.subscriptions() > 0 {
			t.Errorf("%d messages, %d requests, %d subscriptions", messages, requests, f.bus.subscriptions())
		}
		if got := c.nearest(); got != 0 {
			t.Errorf("the nearest is instance %d, want 0", got)
		}
		if got := c.Counts().Probes; got > 13*30 {
			t.Errorf("%d probes in 12 minutes", got)
		}
	})
}

func TestNoShareAndNoCoordinatesPublishNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 5, func(int) time.Duration { return time.Millisecond })
		all := f.rush(3, 0, latency.Options{NoShare: true, NoCoordinates: true})
		defer closeAll(t, all)
		time.Sleep(5 * time.Minute)
		if messages, requests := f.bus.sent(); messages+requests > 0 || f.bus.subscriptions() > 0 {
			t.Errorf("%d messages, %d requests, %d subscriptions", messages, requests, f.bus.subscriptions())
		}
		for _, c := range all {
			if c.unknown() > 0 {
				t.Errorf("%s has not measured all", c.name)
			}
		}
	})
}
