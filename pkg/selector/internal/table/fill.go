package table

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

// filler is an instance that could fill in.
type filler struct {
	at     int // in the list
	State  State
	rank   uint8 // of its circle
	opened time.Time
	order  uint64 // differs between callers
}

// fill handles panic: fewer than half (or [Rules.Panic]) of the instances that want calls
// are usable.
// Then it is likely that the judgement is wrong, or that the usable ones cannot bear
// the load. So the least bad of the others fill in until half of the service can be
// picked: breakers and suspicion never take out more than that. Suspects come first,
// then instances with an open breaker; nearer circles first, and in a circle those
// that have been open for longest. An instance that refused the connection does not
// fill in. If nothing is usable, the suspects are filled up instead; if there are no
// suspects either, the order of states stays as it is.
//
// It reports whether verdicts were changed. Their number changes by one instance at a
// time, so there is no hysteresis.
func (d *draft) fill() bool {
	t, members, verdicts := d.Table, &d.members, d.verdicts
	sum := func(what State) (n int) {
		for i := range t.levels {
			n += int(t.counts[int(what)*t.levels+i])
		}
		return n
	}
	base, have := Usable, sum(Usable)
	suspects, opens := sum(Suspect), sum(Open)
	half := int(math.Ceil(t.Panic * float64(have+suspects+opens)))
	if have == 0 {
		base, have = Suspect, suspects
	}
	if have == 0 || have >= half {
		return false
	}
	t.Panicking = true

	var all []filler
	for i := range verdicts {
		vd, m := &verdicts[i], members.at(i)
		f := filler{at: i, State: vd.State, rank: t.rank[vd.circle]}
		switch {
		case vd.State == Suspect && base == Usable:
		case vd.State == Open:
			opened := m.Breaker.Opened()
			if f.opened = opened.At; opened.Why == breaker.ByRefusal || opened.Why == breaker.ByRequest {
				continue
			}
		default:
			continue
		}
		f.order = splitMix64(t.Offset ^ xxhash.Sum64String(m.In.ID) ^ splitMix64(xxhash.Sum64String(m.In.Location.Zone)))
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b filler) int {
		return cmp.Or(
			cmp.Compare(a.State, b.State), cmp.Compare(a.rank, b.rank),
			a.opened.Compare(b.opened), cmp.Compare(a.order, b.order))
	})
	all = all[:min(len(all), half-have)]
	for _, f := range all {
		verdicts[f.at].usedAs = base
		if f.State == Open {
			if t.fillIns == nil {
				t.fillIns = make(map[*Node]struct{})
			}
			t.fillIns[members.at(f.at).Node] = struct{}{}
		}
	}
	return len(all) > 0
}
