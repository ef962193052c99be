package latency_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// perMinute is how many probes an instance of a fleet gets in a minute, over some minutes.
func (f *fleet) perMinute(minutes int) float64 {
	f.drain()
	time.Sleep(time.Duration(minutes) * time.Minute)
	sum := 0
	for _, n := range f.drain() {
		sum += n
	}
	return float64(sum) / float64(len(f.targets)*minutes)
}

// A service that is not called is measured a tenth as often, then not at all, and at once
// when it is called again: alone, and in a zone, where that does not depend on the number
// of callers.
func TestAServiceThatIsNotCalledIsMeasuredLess(t *testing.T) {
	for _, callers := range []int{1, 2, 20, 60} {
		t.Run(fmt.Sprint(callers, " callers"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3, func(int) time.Duration { return time.Millisecond })
				all := f.rush(callers, time.Second, latency.Options{})
				defer closeAll(t, all)
				for _, c := range all {
					c.group("user").Used()
				}
				time.Sleep(time.Minute)
				usual := f.perMinute(8)
				time.Sleep(3 * time.Minute)
				rarely := f.perMinute(40)
				t.Logf("%.1f probes of an instance a minute, %.2f while it is not called", usual, rarely)
				if rarely < usual/20 || rarely > usual/10*2 {
					t.Errorf("%.2f probes of an instance a minute while it is not called, want a tenth of %.1f", rarely, usual)
				}
				for _, c := range all {
					if n := c.unknown(); n > 0 {
						t.Fatalf("a caller does not know %d of 3 distances", n)
					}
				}
				time.Sleep(20 * time.Minute)
				if never := f.perMinute(60); never > 0 {
					t.Errorf("%.2f probes of an instance a minute after an hour without calls", never)
				}
				if got := f.bus.subscriptions(); got != callers {
					t.Errorf("%d subscriptions of %d callers", got, callers)
				}

				all[0].group("user").Used()
				time.Sleep(1500 * time.Millisecond)
				if n := all[0].unknown(); n > 0 {
					t.Errorf("%d of 3 distances are not known 1.5 s after a call", n)
				}
				for _, n := range f.drain() {
					if n > 2 {
						t.Errorf("an instance got %d probes at once", n)
					}
				}
			})
		})
	}
}

// Callers that do not call leave the measuring to those that do, and go on hearing them.
func TestCallersThatDoNotCallLeaveTheMeasuringToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3, func(int) time.Duration { return time.Millisecond })
		all := f.rush(10, time.Second, latency.Options{})
		defer closeAll(t, all)
		for _, c := range all {
			c.group("user").Used()
		}
		time.Sleep(time.Minute)
		usual := f.perMinute(5)
		busy, idle := all[:2], all[2:]
		for range 200 * 60 {
			for _, c := range busy {
				c.group("user").Used()
			}
			time.Sleep(time.Second)
		}
		before := uint64(0)
		for _, c := range idle {
			before += c.Counts().Probes
		}
		f.drain()
		for range 10 * 60 {
			for _, c := range busy {
				c.group("user").Used()
			}
			time.Sleep(time.Second)
		}
		sum := 0
		for _, n := range f.drain() {
			sum += n
		}
		if now := float64(sum) / 3 / 10; now < usual*0.7 || now > usual*1.3 {
			t.Errorf("%.1f probes of an instance a minute by two callers, %.1f by ten", now, usual)
		}
		for _, c := range idle {
			before -= c.Counts().Probes
			if n := c.unknown(); n > 0 {
				t.Errorf("an idle caller does not know %d of 3 distances", n)
			}
		}
		if before != 0 {
			t.Errorf("the idle callers made %d probes", -before)
		}
	})
}

// A gateway asks for a thousand services. It opens no more connections than its total
// budget, and measures all of them.
func TestAProcessMeasuresAnyNumberOfServicesWithinItsBudget(t *testing.T) {
	const services, each = 1000, 3
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{})
		at := func(service, i int) string { return fmt.Sprintf("10.%d.%d.%d:80", service/250, service%250, i) }
		paths := make([][]*latency.Path, services)
		size := func(s int) int {
			if s == 0 {
				return 200 // a large one takes no more than its part
			}
			return each
		}
		for s := range services {
			for i := range size(s) {
				paths[s] = append(paths[s], p.Path(latency.Target{Address: at(s, i)}))
			}
			p.group(fmt.Sprint(s)).Set(members(paths[s]...))
		}
		dials := func() (sum int) {
			for s := range services {
				for i := range size(s) {
					sum += len(n.at(at(s, i)))
				}
			}
			return sum
		}
		last := 0
		for second := range 10 * 60 {
			time.Sleep(time.Second)
			if second%60 > 0 && second > 5 {
				continue
			}
			now := dials()
			if most := 100 + 20*(second+1) + 20; now > most {
				t.Fatalf("%d connections in %d s, want at most %d", now, second+1, most)
			}
			last = now
		}
		if want := 10 * 60 * 20 * 7 / 10; last < want {
			t.Errorf("%d connections in ten minutes, want at least %d: the budget is there to be used", last, want)
		}
		unknown, least := 0, 1000
		for s := range paths {
			if s == 0 {
				continue
			}
			sum := 0
			for i, pa := range paths[s] {
				sum += len(n.at(at(s, i)))
				if _, ok := pa.Measured(); !ok {
					unknown++
				}
			}
			least = min(least, sum)
		}
		if unknown > 0 {
			t.Errorf("%d distances are not known", unknown)
		}
		if fair := last / services; least < fair/2 {
			t.Errorf("a service got %d probes, want about %d", least, fair)
		}
		large := 0
		for i := range size(0) {
			large += len(n.at(at(0, i)))
		}
		t.Logf("%d connections in ten minutes; the least of a service %d, of the large one %d", last, least, large)
	})
}
