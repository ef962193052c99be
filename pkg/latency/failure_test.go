package latency_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

func TestBacksOffFromAPathThatFails(t *testing.T) {
	s := time.Second
	tests := []struct {
		name     string
		interval time.Duration
		want     []time.Duration // between probes; the last one goes on
	}{
		{"default", 0, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 25 * s}},
		{"short: six intervals at most", 500 * time.Millisecond, []time.Duration{s / 2, s, 2 * s, 3 * s}},
		{"long: not more often than the interval in the end", 60 * s, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(refuses)
				p := start(t, n, latency.Options{Interval: tt.interval})
				pa := p.Path(target(0))
				p.group("user").Set(members(pa))
				time.Sleep(time.Hour)

				gaps := n.gaps(address(0))
				for i, gap := range gaps {
					want := tt.want[min(i, len(tt.want)-1)]
					if !within(gap, want) {
						t.Errorf("%v between probes %d and %d, want %v ±20 %%", gap, i, i+1, want)
					}
				}
				if got := pa.Failures(); got != len(gaps)+1 {
					t.Errorf("Failures() = %d after %d probes", got, len(gaps)+1)
				}
				if d, ok := pa.Measured(); ok {
					t.Errorf("Measured() = %v, but failures are no samples", d)
				}
			})
		})
	}
}

func TestNoticesARecoveryWithin30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(refuses)
		p := start(t, n, latency.Options{})
		pa := p.Path(target(0))
		p.group("user").Set(members(pa))
		for range 20 {
			n.set(refuses)
			time.Sleep(10 * time.Minute)
			if pa.Failures() < 10 {
				t.Fatalf("%d failures in 10 minutes", pa.Failures())
			}
			n.set(2 * time.Millisecond)
			time.Sleep(30*time.Second + 10*time.Millisecond)
			if d, ok := pa.Measured(); d != 2*time.Millisecond || !ok || pa.Failures() != 0 {
				t.Fatalf("30s after it works again: Measured() = %v, %v, Failures() = %d", d, ok, pa.Failures())
			}
		}
	})
}

func TestATimeoutIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(silent)
		p := start(t, n, latency.Options{Timeout: 3 * time.Second})
		pa := p.Path(target(0))
		p.group("user").Set(members(pa))
		time.Sleep(3*time.Second - time.Millisecond)
		if got := pa.Failures(); got != 0 {
			t.Errorf("%d failures before the time-out", got)
		}
		time.Sleep(10 * time.Millisecond)
		if got := pa.Failures(); got != 1 {
			t.Errorf("%d failures after the time-out, want 1", got)
		}
	})
}

func TestKeepsTheDistanceOfAPathThatFailsWhileItIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(5 * time.Millisecond)
		p := start(t, n, latency.Options{})
		pa := p.Path(target(0))
		p.group("user").Set(members(pa))
		time.Sleep(50 * time.Millisecond) // one sample
		n.set(refuses)
		time.Sleep(29 * time.Second)
		if d, ok := pa.Measured(); d != 5*time.Millisecond || !ok {
			t.Errorf("after 29s: Measured() = %v, %v, want 5ms, true", d, ok)
		}
		time.Sleep(2 * time.Second) // the first of them before it is known how near the path is
		if d, ok := pa.Measured(); ok {
			t.Errorf("after 31s: Measured() = %v, want none", d)
		}
	})
}

// Time-outs of many dead paths need more probes than there may be, at once or
// in a minute; the live instances must be measured all the same.
func TestADeadZoneDoesNotKeepTheOthersFromBeingMeasured(t *testing.T) {
	for _, budget := range []float64{0, -1} {
		t.Run(fmt.Sprintf("budget=%v", budget), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const living, all = 10, 290
				var dead atomic.Bool
				lives := make(map[string]bool)
				n := newNetwork(0)
				n.setFunc(func(a string) time.Duration {
					switch {
					case lives[a]:
						return 80 * time.Millisecond
					case dead.Load():
						return silent
					default:
						return time.Millisecond
					}
				})
				p := start(t, n, latency.Options{Budget: budget})
				paths := makePaths(p, all)
				list := members(paths...)
				for i := range living {
					lives[address(i)] = true
					list[i].Circle = 1
				}
				p.group("user").Set(list)
				time.Sleep(30 * time.Minute)
				dead.Store(true)
				n.dialled()
				const minutes = 60
				for range minutes * 60 {
					time.Sleep(time.Second)
					for i := range living {
						if !paths[i].Estimate(0).Measured() {
							t.Fatalf("path %d lives and is not measured", i)
						}
					}
				}
				alive, others := 0, 0
				for i := range all {
					if i < living {
						alive += len(n.at(address(i)))
					} else {
						others += len(n.at(address(i)))
					}
				}
				t.Logf("probes in a minute: %d to live instances, %d to dead ones", alive/minutes, others/minutes)
				if alive < minutes || others < 5*minutes {
					t.Error("want both to be probed")
				}
			})
		})
	}
}

func TestConfirmsAJumpWithinSeconds(t *testing.T) {
	tests := []struct {
		name     string
		from, to time.Duration
		soon     bool
	}{
		{"three times as far", 20 * time.Millisecond, 60 * time.Millisecond, true},
		{"a third as far", 60 * time.Millisecond, 20 * time.Millisecond, true},
		{"half as far again", 20 * time.Millisecond, 30 * time.Millisecond, false},
		{"three times nothing", 100 * time.Microsecond, 300 * time.Microsecond, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(tt.from)
				p := start(t, n, latency.Options{})
				pa := p.Path(target(0))
				p.group("user").Set(members(pa))
				for range 10 {
					n.set(tt.from)
					time.Sleep(5 * time.Minute)
					n.set(tt.to)
					probes := len(n.at(address(0)))
					began := time.Now()
					for d := tt.from; d != tt.to; d, _ = pa.Measured() {
						time.Sleep(100 * time.Millisecond)
					}
					first := n.at(address(0))[probes].Sub(began) // that saw it
					took := time.Since(began) - first
					if tt.soon != (took < 3*time.Second) {
						t.Errorf("believed %v after the first sample that said so", took)
					}
				}
			})
		})
	}
}

func TestASingleSlowPacketDoesNotMoveTheDistance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(20 * time.Millisecond)
		p := start(t, n, latency.Options{})
		pa := p.Path(target(0))
		p.group("user").Set(members(pa))
		for range 10 {
			n.set(20 * time.Millisecond)
			time.Sleep(time.Minute)
			n.set(900 * time.Millisecond)
			for before := len(n.at(address(0))); len(n.at(address(0))) == before; {
				time.Sleep(20 * time.Millisecond)
			}
			n.set(20 * time.Millisecond)
			for range 100 {
				time.Sleep(100 * time.Millisecond)
				if d, ok := pa.Measured(); d != 20*time.Millisecond || !ok {
					t.Fatalf("Measured() = %v, %v, want 20ms, true", d, ok)
				}
			}
		}
	})
}
