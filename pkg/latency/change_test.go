package latency_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// calls remembers the calls of OnChange.
type calls struct {
	mu  sync.Mutex
	all []call
}

type call struct {
	group string
	at    time.Time
}

func (c *calls) OnChange(group string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, call{group, time.Now()})
}

// take waits for what is due and returns the groups that were called since.
func (c *calls) take() []string {
	time.Sleep(time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	var groups []string
	for _, one := range c.all {
		groups = append(groups, one.group)
	}
	c.all = nil
	slices.Sort(groups)
	return groups
}

func TestOnChangeReportsChangesThatMatter(t *testing.T) {
	us, ms := time.Microsecond, time.Millisecond
	tests := []struct {
		name    string
		samples []time.Duration // with a window of one
		want    []bool          // called after each
	}{
		{"the first", []time.Duration{5 * ms}, []bool{true}},
		{"the same again", []time.Duration{5 * ms, 5 * ms}, []bool{true, false}},
		{"more than a tenth", []time.Duration{5 * ms, 5510 * us, 5 * ms, 4490 * us}, []bool{true, true, false, true}},
		{"a tenth and less", []time.Duration{5 * ms, 5500 * us, 4500 * us}, []bool{true, false, false}},
		{"much of nothing", []time.Duration{100 * us, 300 * us, 50 * us}, []bool{true, false, false}},
		{"more than nothing", []time.Duration{100 * us, 301 * us, 100 * us}, []bool{true, true, true}},
		{"a slow drift", []time.Duration{100 * ms, 104 * ms, 108 * ms, 112 * ms, 116 * ms}, []bool{true, false, false, true, false}},
		{"rejected", []time.Duration{0, 11 * time.Second}, []bool{false, false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c calls
				p := start(t, nil, latency.Options{Window: 1}).notify(c.OnChange)
				pa := p.Path(latency.Target{})
				p.group("user").Set(members(p.Path(latency.Target{}), pa))
				if got := c.take(); len(got) > 0 {
					t.Errorf("called for %v before anything was measured", got)
				}
				for i, d := range tt.samples {
					pa.Observe(d)
					if got := len(c.take()); got > 1 || (got == 1) != tt.want[i] {
						t.Errorf("called %d times after sample %d, want: %v", got, i, tt.want[i])
					}
				}
				time.Sleep(28 * time.Second) // expires
				want := tt.want[0]
				if got := len(c.take()) + len(c.take()); (got == 1) != want {
					t.Errorf("called %d times of the expiry, want: %v", got, want)
				}
			})
		})
	}
}

func TestOnChangeReportsTheFirstChangeAtOnceAndTheNextTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c calls
		p := start(t, nil, latency.Options{Window: 1}).notify(c.OnChange)
		list := make([]*latency.Path, 250)
		for i := range list {
			list[i] = p.Path(latency.Target{})
		}
		other := p.Path(latency.Target{})
		p.group("user").Set(members(list...))
		p.group("order").Set(members(other))
		began := time.Now()
		for i := range list { // a change every millisecond
			list[i].Observe(time.Millisecond)
			if i == 50 {
				other.Observe(time.Millisecond)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		at := make(map[string][]time.Duration) // in milliseconds
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, one := range c.all {
			at[one.group] = append(at[one.group], one.at.Sub(began)/time.Millisecond)
		}
		if got, want := at["user"], []time.Duration{0, 100, 200, 300}; !slices.Equal(got, want) {
			t.Errorf("user called at %d ms, want %d", got, want)
		}
		if got, want := at["order"], []time.Duration{50}; !slices.Equal(got, want) {
			t.Errorf("order called at %d ms, want %d", got, want)
		}
	})
}

func TestOnChangeIsCalledForTheGroupOfThePathAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c calls
		p := start(t, nil, latency.Options{Window: 1}).notify(c.OnChange)
		a, b, far := p.Path(latency.Target{}), p.Path(latency.Target{}), p.Path(latency.Target{})
		p.group("user").Set(members(a, b, far, far))
		p.group("order").Set(members(far)) // ignored: it is in another
		p.group("cart").Set(nil)

		check := func(what string, want ...string) {
			t.Helper()
			if got := c.take(); !slices.Equal(got, want) {
				t.Errorf("%s: called for %v, want %v", what, got, want)
			}
		}
		far.Observe(time.Millisecond)
		check("listed twice", "user")
		p.group("user").Set(members(a, b, far))
		far.Observe(2 * time.Millisecond)
		check("listed once less", "user")
		p.group("user").Set(members(a, b))
		far.Observe(3 * time.Millisecond)
		check("left it")
		p.group("order").Set(nil)
		p.group("order").Set(members(far))
		if got := slices.Compact(c.take()); !slices.Equal(got, []string{"order"}) { // once more if the ranking was later
			t.Errorf("came to another measured: called for %v", got)
		}
		p.group("order").Set(nil)
		c.take() // its nearest has left
		p.group("user").Set(members(far, b))
		check("came to it measured", "user")
		p.group("user").Set(members(b, far))
		check("moved in it")
		far.Observe(4 * time.Millisecond)
		p.group("user").Set(nil)
		c.take() // may still have been called
		far.Observe(5 * time.Millisecond)
		check("in no group")
	})
}

func TestOnChangeReportsProbesThatFailAndSucceedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c calls
		n := newNetwork(5 * time.Millisecond)
		p := start(t, n, latency.Options{}).notify(c.OnChange)
		pa := p.Path(target(0))
		p.group("user").Set(members(pa))
		if got := len(c.take()); got != 1 {
			t.Errorf("called %d times of the first sample", got)
		}
		time.Sleep(time.Hour)
		if got := len(c.take()); got != 0 {
			t.Errorf("called %d times of nothing", got)
		}
		n.set(refuses)
		time.Sleep(time.Hour)
		if got, failed := len(c.take()), pa.Failures(); got != failed+1 || failed < 100 {
			t.Errorf("called %d times, want once of each of %d failures and once of the expiry", got, failed)
		}
		n.set(5 * time.Millisecond)
		time.Sleep(time.Hour)
		if got := len(c.take()); got != 1 {
			t.Errorf("called %d times of the recovery", got)
		}
		n.set(refuses)
		for pa.Failures() == 0 {
			time.Sleep(time.Second)
		}
		n.set(5 * time.Millisecond)
		time.Sleep(20 * time.Second)
		if got := len(c.take()); got != 2 || pa.Failures() != 0 {
			t.Errorf("called %d times of a short failure, with %d failures left", got, pa.Failures())
		}
	})
}

func TestOnChangeIsNotCalledForAClosedGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c calls
		p := start(t, nil, latency.Options{Window: 1}).notify(c.OnChange)
		pa := p.Path(latency.Target{})
		p.group("user").Set(members(pa))
		pa.Observe(time.Millisecond)
		synctest.Wait() // called at once
		pa.Observe(2 * time.Millisecond)
		p.end("user")
		if got := c.take(); len(got) != 1 {
			t.Errorf("called for %v, want only what was before its end", got)
		}
	})
}

// A selector does this: it rebuilds its table and sets the group's members.
func TestOnChangeMayCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(5 * time.Millisecond)
		n.setFunc(func(a string) time.Duration {
			if a == address(2) {
				return time.Millisecond
			}
			return 5 * time.Millisecond
		})
		var p *prober
		var all []*latency.Path
		var mu sync.Mutex
		rebuilt := 0
		rebuild := func(group string) {
			mu.Lock()
			defer mu.Unlock()
			rebuilt++
			slices.SortStableFunc(all, func(a, b *latency.Path) int {
				return int(a.Estimate(time.Second).Distance - b.Estimate(time.Second).Distance)
			})
			p.group(group).Set(members(all...))
		}
		p = start(t, n, latency.Options{}).notify(rebuild)
		all = makePaths(p, 3)
		nearest := all[2]
		rebuild("user")
		time.Sleep(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if all[0] != nearest {
			t.Error("the nearest is not the first")
		}
		if rebuilt > 4 {
			t.Errorf("rebuilt %d times for three distances that stay", rebuilt)
		}
	})
}

func TestASlowOnChangeDelaysNoProbeAndIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		entered, left := 0, 0
		p := newProber(latency.Caller{}, latency.Options{Dial: n.Dial}).notify(func(string) {
			entered++
			time.Sleep(time.Minute)
			left++
		})
		all := makePaths(p, 2)
		p.group("user").Set(members(all[:1]...))
		p.group("order").Set(members(all[1:]...))
		time.Sleep(50 * time.Second)
		for _, pa := range all {
			if _, ok := pa.Measured(); !ok {
				t.Error("a path is not measured")
			}
		}
		if got := len(n.at(address(0))); got < 4 {
			t.Errorf("%d probes in 50s", got)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if entered != 1 || left != 1 {
			t.Errorf("OnChange entered %d times and left %d times, want once, and Close to wait", entered, left)
		}
	})
}
