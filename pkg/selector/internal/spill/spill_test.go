package spill_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/spill"
)

const (
	ms   = time.Millisecond
	tick = 200 * ms
)

// place counts calls as a caller does. Calls end within the look in which they begin.
type place struct {
	t    *testing.T
	rule *spill.Rule
	now  time.Duration
	seen []spill.Seen
	took []time.Duration // inside, by circle
	rate float64         // calls a look
	left []float64       // calls that are left over
	most float64         // share that left the first circle at most
}

// start is a caller of 40 calls a second that has seen circles at these distances in
// peace, where a call takes 20 ms.
func start(t *testing.T, o spill.Options, distances ...time.Duration) *place {
	p := &place{t: t, rule: spill.New(o, len(distances)), rate: 8, left: make([]float64, len(distances))}
	for i, d := range distances {
		p.seen = append(p.seen, spill.Seen{Circle: uint8(i), Distance: d, Ramp: 1})
		p.took = append(p.took, 20*ms)
	}
	if shares := p.run(20 * time.Second); shares[0] != 1 || p.most != 0 {
		t.Fatalf("at first: %v", shares)
	}
	return p
}

// near calls are rejected from then on in a part.
func (p *place) look(rejected float64) []float64 {
	shares, _, _ := p.rule.Look(p.now, p.seen)
	p.now += tick
	sum := 0.0
	for i, share := range shares {
		sum += share
		p.left[i] += p.rate * share
		n := math.Floor(p.left[i])
		p.left[i] -= n
		s := &p.seen[i]
		r := 0.0
		if i == 0 {
			r = math.Round(n * rejected)
		}
		s.Picks += uint64(n)
		s.Completions += uint64(n)
		s.Rejects += uint64(r)
		s.Measured += uint64(n - r)
		s.Busy += time.Duration(n-r) * (p.took[s.Circle] + s.Distance)
		s.InFlight = int(math.Round(n * (p.took[s.Circle] + s.Distance).Seconds() / tick.Seconds()))
	}
	if len(shares) > 0 && math.Abs(sum-1) > 1e-9 {
		p.t.Fatalf("%v: sum %v", shares, sum)
	}
	p.most = max(p.most, 1-shares[0])
	return shares
}

// run lets time pass, and returns the last shares.
func (p *place) run(d time.Duration) (shares []float64) {
	p.most = 0
	for end := p.now + d; p.now < end; {
		shares = p.look(0)
	}
	return shares
}

func TestCallsLeaveOnlyWhenTheNextCircleIsQuicker(t *testing.T) {
	for _, tt := range []struct {
		name      string
		o         spill.Options
		way       time.Duration
		near, far time.Duration // what calls take inside from then on
		least     float64       // leaves at most in the minute
		most      float64
	}{
		{"nothing happens", spill.Options{}, ms, 20 * ms, 20 * ms, 0, 0},
		{"a little slower", spill.Options{}, ms, 36 * ms, 20 * ms, 0, 0},
		{"much slower, the next is near", spill.Options{}, ms, 100 * ms, 20 * ms, 0.5, 1},
		{"much slower, the next is too far", spill.Options{}, 150 * ms, 100 * ms, 20 * ms, 0, 0},
		{"so slow that the way is worth it", spill.Options{}, 150 * ms, 400 * ms, 20 * ms, 0.5, 1},
		{"both are much slower", spill.Options{}, ms, 100 * ms, 100 * ms, 0.001, 0.1},
		{"so slow that the way would be worth it, but there too", spill.Options{}, 150 * ms, 400 * ms, 400 * ms, 0.001, 0.1},
		{"the price is too high", spill.Options{Price: []time.Duration{0, 90 * ms}}, ms, 100 * ms, 20 * ms, 0, 0},
		{"the price is not", spill.Options{Price: []time.Duration{0, 50 * ms}}, ms, 100 * ms, 20 * ms, 0.5, 1},
		{"a price for both: the difference", spill.Options{Price: []time.Duration{60 * ms, 90 * ms}}, ms, 100 * ms, 20 * ms, 0.5, 1},
		{"never", spill.Options{Price: []time.Duration{0, spill.Never}}, ms, 10 * time.Second, 20 * ms, 0, 0},
		{"off", spill.Options{Off: true}, ms, 10 * time.Second, 20 * ms, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, tt.o, ms/2, tt.way)
			p.took[0], p.took[1] = tt.near, tt.far
			p.run(time.Minute)
			if p.most < tt.least || p.most > tt.most {
				t.Errorf("%.3f left at most, want %v to %v: %+v", p.most, tt.least, tt.most, p.rule.Why(1))
			}
			p.took[0], p.took[1] = 20*ms, 20*ms
			if shares := p.run(40 * time.Second); shares[0] != 1 {
				t.Errorf("after it: %v: %+v", shares, p.rule.Why(1))
			}
		})
	}
}

func TestACircleThatCallsMustNotLeaveForIsPassedOver(t *testing.T) {
	p := start(t, spill.Options{Price: []time.Duration{0, spill.Never}}, ms/2, ms, 2*ms)
	p.took[0] = 200 * ms
	if shares := p.run(40 * time.Second); shares[1] != 0 || shares[2] < 0.5 {
		t.Errorf("%v", shares)
	}
	if why := p.rule.Why(2); why.From != 0 || why.Share < 0.5 || p.rule.Why(1) != (spill.Reason{}) || p.rule.Why(0) != (spill.Reason{}) || p.rule.Why(99) != (spill.Reason{}) {
		t.Errorf("%+v", why)
	}
}

func TestRejectsMakeCallsLeave(t *testing.T) {
	for _, tt := range []struct {
		part float64
		way  time.Duration
		want bool
	}{{0.02, ms, false}, {0.3, ms, true}, {0.3, 150 * ms, true}, {0.3, 2 * time.Second, false}} {
		p := start(t, spill.Options{}, ms/2, tt.way)
		var shares []float64
		for range 100 {
			shares = p.look(tt.part)
		}
		if got := 1-shares[0] > 0.2; got != tt.want {
			t.Errorf("%v rejected, next %v: %v", tt.part, tt.way, shares)
		}
		if why := p.rule.Why(1).String(); tt.part > 0.1 && !strings.Contains(why, "are rejected") {
			t.Errorf("%q", why)
		}
	}
}

func TestReasons(t *testing.T) {
	p := start(t, spill.Options{}, ms/2, ms)
	if why := p.rule.Why(1); why.Share != 0 || why.String() != "" {
		t.Errorf("in peace: %q %+v", why, why)
	}
	p.took[0] = 100 * ms
	p.run(3 * time.Second)
	if why := p.rule.Why(1); why.Share == 0 || !why.Overloaded || why.Gain < 60*ms || !strings.HasPrefix(why.String(), "calls take 4.") && !strings.HasPrefix(why.String(), "calls take 5.") {
		t.Errorf("%q %+v", why, why)
	}
	p = start(t, spill.Options{}, ms/2, ms)
	p.took[0], p.took[1] = 100*ms, 100*ms
	p.run(15 * time.Second)
	if why := p.rule.Why(1); why.Share > 0.2 || !why.Failed && !why.Trial || !why.Overloaded {
		t.Errorf("both: %q %+v", why, why)
	}
	p = start(t, spill.Options{}, ms/2, ms)
	p.seen[0].Queued = true
	p.run(tick)
	if why := p.rule.Why(1).String(); why != "its instances report a queue" {
		t.Errorf("%q", why)
	}
}

// A caller that starts in the overload takes it for normal, unless another caller tells it.
func TestWhatOthersMeasured(t *testing.T) {
	for _, tt := range []struct {
		name   string
		tell   func(*place)
		leaves bool
	}{
		{"no caller tells", func(*place) {}, false},
		{"another caller tells", func(p *place) { p.rule.Hint(0, 20*ms, p.now) }, true},
		{"the least counts", func(p *place) { p.rule.Hint(0, 20*ms, p.now); p.rule.Hint(0, 200*ms, p.now) }, true},
		{"nonsense does not", func(p *place) {
			for _, d := range []time.Duration{0, -1, 1, time.Hour, math.MaxInt64} {
				p.rule.Hint(0, d, p.now)
			}
			p.rule.Hint(99, ms, p.now)
		}, false},
		{"its instances report a queue", func(p *place) { p.seen[0].Queued = true }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &place{
				t: t, rule: spill.New(spill.Options{}, 2), rate: 8, left: make([]float64, 2), took: []time.Duration{200 * ms, 20 * ms},
				seen: []spill.Seen{{Circle: 0}, {Circle: 1, Distance: ms}},
			}
			tt.tell(p)
			if p.run(30 * time.Second); p.most > 0.5 != tt.leaves {
				t.Errorf("%.3f left: %+v", p.most, p.rule.Why(1))
			}
			if d, ok := p.rule.Baseline(0); ok && (d < 190*ms || d > 210*ms) && tt.name != "its instances report a queue" {
				t.Errorf("tells others %v, which it has not measured", d)
			}
		})
	}
}

func TestBaseline(t *testing.T) {
	p := start(t, spill.Options{}, 5*ms, ms)
	if d, ok := p.rule.Baseline(0); !ok || d < 19*ms || d > 21*ms {
		t.Errorf("%v, %v: without the way it is 20 ms", d, ok)
	}
	for _, c := range []uint8{1, 2, 255} {
		if d, ok := p.rule.Baseline(c); ok {
			t.Errorf("circle %d: %v, though nothing was measured", c, d)
		}
	}
	p.took[0] = 30 * ms // a new version
	p.run(2 * time.Minute)
	if d, _ := p.rule.Baseline(0); d < 22*ms || d > 27*ms {
		t.Errorf("%v after two minutes of 30 ms, want a tenth more each minute", d)
	}
	p.run(10 * time.Minute)
	if d, _ := p.rule.Baseline(0); d < 29*ms || d > 31*ms {
		t.Errorf("%v after long", d)
	}
}

func TestACircleThatReturnsRampsUp(t *testing.T) {
	p := start(t, spill.Options{Off: true}, ms/2, ms)
	both := p.seen
	p.seen = []spill.Seen{both[1]}
	p.run(10 * time.Second)
	both[1] = p.seen[0]
	both[0].Ramp = 0.1
	p.seen = both
	p.look(0)
	var shares []float64
	for _, tt := range []struct{ near, far, want float64 }{{0.1, 1, 0.9}, {0.5, 1, 0.5}, {0.5, 0.5, 0}} {
		p.seen[0].Ramp, p.seen[1].Ramp = tt.near, tt.far
		shares = p.look(0)
		if math.Abs(shares[1]-tt.want) > 0.011 {
			t.Errorf("ramps %v and %v: %v, want %v", tt.near, tt.far, shares, tt.want)
		}
		if why := p.rule.Why(1); tt.want > 0 && (!why.Returned || why.String() != "its oldest instance is new") {
			t.Errorf("%q %+v", why, why)
		}
	}
	p.seen[0].Ramp, p.seen[1].Ramp = 0.1, 1
	if shares = p.look(0); shares[0] != 1 {
		t.Errorf("it had ramped up: %v", shares)
	}
	// Its instances were replaced while it carried the calls.
	p = start(t, spill.Options{}, ms/2, ms)
	p.seen[0].Ramp = 0.1
	if shares = p.look(0); shares[0] != 1 {
		t.Errorf("%v", shares)
	}
}

func TestNoAnswersAtAllAreOverload(t *testing.T) {
	p := start(t, spill.Options{}, ms/2, ms)
	left := 0.0
	for range 50 {
		shares, _, _ := p.rule.Look(p.now, p.seen)
		p.now += tick
		for i := range p.seen {
			n := uint64(8*shares[i] + 0.5)
			p.seen[i].Picks += n
			if i == 0 {
				p.seen[i].InFlight += int(n)
			} else {
				p.seen[i].Completions += n
				p.seen[i].Measured += n
				p.seen[i].Busy += time.Duration(n) * 21 * ms
			}
		}
		left = max(left, shares[1])
	}
	if left < 0.5 {
		t.Errorf("%v left: %+v", left, p.rule.Why(1))
	}
}

func TestIdle(t *testing.T) {
	p := start(t, spill.Options{}, ms/2, ms)
	p.took[0] = 100 * ms
	p.run(10 * time.Second)
	for i := range p.seen {
		p.seen[i].InFlight = 0
	}
	idle, changed := false, false
	var shares []float64
	for i := 0; !idle && i < 200; i++ {
		p.now += tick
		var c bool
		shares, c, idle = p.rule.Look(p.now, p.seen)
		changed = changed || c
	}
	if !idle || !changed || shares[0] != 1 {
		t.Errorf("idle %v, changed %v: %v", idle, changed, shares)
	}
	p.now += time.Hour
	shares, _, idle = p.rule.Look(p.now, p.seen)
	if idle || shares[0] != 1 {
		t.Errorf("idle %v: %v", idle, shares)
	}
	p.took[0] = 20 * ms
	p.run(5 * time.Second)
	p.took[0] = 100 * ms
	if p.run(40 * time.Second); p.most < 0.5 {
		t.Errorf("%v left: what it took an hour ago is forgotten", p.most)
	}
}

func TestCirclesComeAndGo(t *testing.T) {
	p := start(t, spill.Options{}, ms/2, ms, 2*ms)
	p.took[0] = 200 * ms
	p.run(10 * time.Second)
	all := p.seen
	p.seen = []spill.Seen{all[0], all[2]} // the one that helped dies
	if shares, changed, _ := p.rule.Look(p.now, p.seen); len(shares) != 2 || !changed {
		t.Fatalf("%v, changed %v", shares, changed)
	}
	if p.run(40 * time.Second); p.most < 0.5 {
		t.Errorf("%v left for the one behind it", p.most)
	}
	p.seen = nil
	if shares, changed, _ := p.rule.Look(p.now+tick, nil); len(shares) != 0 || !changed {
		t.Errorf("%v, changed %v", shares, changed)
	}
	p.seen = []spill.Seen{all[2], all[0]}
	if shares := p.look(0); len(shares) != 2 || shares[0] != 1 {
		t.Errorf("%v", shares)
	}
	if shares, changed, _ := p.rule.Look(p.now-time.Second, p.seen); changed || shares[0] != 1 {
		t.Errorf("the clock goes back: %v", shares)
	}
}

func TestLooksAllocateNothing(t *testing.T) {
	p := start(t, spill.Options{Price: []time.Duration{0, ms, 2 * ms}}, ms/2, ms, 2*ms)
	p.took[0], p.took[1] = 200*ms, 100*ms
	if n := testing.AllocsPerRun(500, func() { p.look(0.1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLook(b *testing.B) {
	r := spill.New(spill.Options{}, 4)
	seen := []spill.Seen{{Circle: 0, Distance: ms}, {Circle: 1, Distance: 2 * ms}, {Circle: 2, Distance: 30 * ms}, {Circle: 3, Distance: 150 * ms}}
	now := time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		now += tick
		for i := range seen {
			seen[i].Picks += 100
			seen[i].Completions += 100
			seen[i].Measured += 100
			seen[i].Busy += 100 * 30 * ms
			seen[i].InFlight = 15
		}
		r.Look(now, seen)
	}
}
