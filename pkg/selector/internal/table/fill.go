package table

import (
	"cmp"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
)

// filler is an instance that could be picked beside the usable ones.
type filler struct {
	at     int // in the list
	State  State
	rank   uint8 // of its circle
	opened time.Time
	turn   uint64 // callers do not all take the same
}

// fill is for when fewer than half of the instances that want calls are usable
// (panic): then it is more likely that the judgement is wrong, or that the rest
// will not bear the load. The best of the bad are put beside the usable ones
// until half of the service can be picked, so that breakers and suspicion never
// take out more than half: suspects first, then those whose breaker is open,
// nearer circles first, and in them those that have been open for longest.
// Those that refused the connection are not there, and do not fill in. Where
// nothing is usable it is the suspects that are filled up; where there are none
// either, the order of last resorts is left as it is.
//
// It reports whether verdicts were changed. What it does grows and shrinks by
// one instance at a time, so it needs no hysteresis.
func (d *draft) fill() bool {
	t, members, verdicts := d.Table, d.members, d.verdicts
	sum := func(what State) (n int) {
		for i := range t.levels {
			n += int(t.counts[int(what)*t.levels+i])
		}
		return n
	}
	base, have := Usable, sum(Usable)
	suspects, opens := sum(Suspect), sum(Open)
	half := (have + suspects + opens + 1) / 2
	if have == 0 {
		base, have = Suspect, suspects
	}
	if have == 0 || have >= half {
		return false
	}
	t.Panics = true

	var all []filler
	for i := range verdicts {
		vd, m := &verdicts[i], &members[i]
		f := filler{at: i, State: vd.State, rank: t.rank[vd.circle]}
		switch {
		case vd.State == Suspect && base == Usable:
		case vd.State == Open:
			var refused bool
			if f.opened, refused = m.Breaker.Opened(); refused {
				continue
			}
		default:
			continue
		}
		f.turn = scramble(t.Offset ^ xxhash.Sum64String(m.In.ID))
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b filler) int {
		return cmp.Or(
			cmp.Compare(a.State, b.State), cmp.Compare(a.rank, b.rank),
			a.opened.Compare(b.opened), cmp.Compare(a.turn, b.turn))
	})
	all = all[:min(len(all), half-have)]
	for _, f := range all {
		verdicts[f.at].as = base // counted anew
		if f.State == Open {
			if t.filled == nil {
				t.filled = make(map[*Node]struct{})
			}
			t.filled[members[f.at].Node] = struct{}{}
		}
	}
	return len(all) > 0
}
