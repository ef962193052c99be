package selector

import (
	"cmp"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
)

// filler is an instance that could be picked beside the usable ones.
type filler struct {
	at        int // in the list
	condition condition
	rank      uint8 // of its circle
	opened    time.Time
	turn      uint64 // callers do not all take the same
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
func (t *table) fill(members []member, verdicts []verdict) bool {
	sum := func(what condition) (n int) {
		for i := range t.levels {
			n += int(t.counts[int(what)*t.levels+i])
		}
		return n
	}
	base, have := usable, sum(usable)
	suspects, opens := sum(suspect), sum(open)
	half := (have + suspects + opens + 1) / 2
	if have == 0 {
		base, have = suspect, suspects
	}
	if have == 0 || have >= half {
		return false
	}
	t.panics = true

	var all []filler
	for i := range verdicts {
		vd, m := &verdicts[i], &members[i]
		f := filler{at: i, condition: vd.condition, rank: t.rank[vd.circle]}
		switch {
		case vd.condition == suspect && base == usable:
		case vd.condition == open:
			var refused bool
			if f.opened, refused = m.breaker.Opened(); refused {
				continue
			}
		default:
			continue
		}
		f.turn = scramble(t.offset ^ xxhash.Sum64String(m.in.ID))
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b filler) int {
		return cmp.Or(
			cmp.Compare(a.condition, b.condition), cmp.Compare(a.rank, b.rank),
			a.opened.Compare(b.opened), cmp.Compare(a.turn, b.turn))
	})
	all = all[:min(len(all), half-have)]
	for _, f := range all {
		verdicts[f.at].as = base // counted anew
		if f.condition == open {
			if t.filled == nil {
				t.filled = make(map[*node]struct{})
			}
			t.filled[members[f.at].node] = struct{}{}
		}
	}
	return len(all) > 0
}
