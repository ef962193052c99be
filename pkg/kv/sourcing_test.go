package kv_test

import (
	"testing"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestARegionIsReadAnewWhenSomethingMayBeMissing(t *testing.T) {
	known := kv.Reading{Epoch: 7, Count: 20, Seen: 120, Safe: 110}
	vain := func(r kv.Reading, vain, skip int) kv.Reading {
		r.Vain, r.Skip = vain, skip
		return r
	}
	away := known
	away.Away = true
	well := kv.Look{Reached: true, Sourced: true, Epoch: 7, Count: 25, Seen: 125, Told: 125}
	for name, tt := range map[string]struct {
		was   kv.Reading
		is    func(*kv.Look)
		want  kv.Reading
		again bool
	}{
		"all is well": {
			known, func(*kv.Look) {},
			kv.Reading{Epoch: 7, Count: 25, Seen: 125, Safe: 120},
			false,
		},
		"well at last, after it was begun anew in vain": {
			vain(known, 3, 2), func(*kv.Look) {},
			kv.Reading{Epoch: 7, Count: 25, Seen: 125, Safe: 120},
			false,
		},
		"begun anew a moment ago, and nothing came since": {
			kv.Reading{Epoch: 7, Seen: 110, Safe: 110},
			func(l *kv.Look) { l.Count, l.Seen = 0, 0 },
			kv.Reading{Epoch: 7, Seen: 110, Safe: 110},
			false,
		},
		"somebody claims to have seen what was never told": {
			kv.Reading{Epoch: 7, Count: 20, Seen: 999, Safe: 999},
			func(*kv.Look) {},
			kv.Reading{Epoch: 7, Count: 25, Seen: 125, Safe: 125},
			false,
		},
		"who begins knows nothing of what was before": {
			kv.Reading{},
			func(*kv.Look) {},
			kv.Reading{Epoch: 7, Count: 25, Seen: 125},
			false,
		},
		"it is out of reach": {
			known, func(l *kv.Look) { *l = kv.Look{} },
			away, false,
		},
		"it is back": {
			away, func(*kv.Look) {},
			away, true,
		},
		"it is back, and nobody knows what was before": {
			kv.Reading{Away: true},
			func(*kv.Look) {},
			kv.Reading{Away: true},
			true,
		},
		"it is silent": {
			known, func(l *kv.Look) { l.Silent = true },
			known, true,
		},
		"it is silent, and was begun anew just now": {
			vain(known, 2, 1), func(l *kv.Look) { l.Silent = true },
			vain(kv.Reading{Epoch: 7, Count: 25, Seen: 120, Safe: 110}, 2, 0), false,
		},
		"its consumer was wound back": {
			known, func(l *kv.Look) { l.Count = 3 },
			known, true,
		},
		"it is not read at all": {
			known, func(l *kv.Look) { l.Sourced, l.Epoch = false, 0 },
			kv.Reading{Epoch: 7, Count: 20, Seen: 120},
			true,
		},
		"somebody else has begun anew": {
			away, func(l *kv.Look) { l.Epoch, l.Count = 8, 4 },
			kv.Reading{Epoch: 8, Count: 4, Seen: 125},
			false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := well
			tt.is(&is)
			got, again := kv.Next(tt.was, is)
			if again != tt.again || got != tt.want {
				t.Errorf("got %+v, anew %t, want %+v, %t", got, again, tt.want, tt.again)
			}
		})
	}
}

// What does not help is tried ever more rarely.
func TestARegionIsNotReadAnewAgainAndAgain(t *testing.T) {
	r := kv.Reading{Epoch: 1, Count: 10, Seen: 10, Safe: 10}
	silent := kv.Look{Reached: true, Sourced: true, Silent: true, Count: 10, Told: 10}
	tries := 0
	for i := range 200 {
		silent.Epoch = r.Epoch
		next, again := kv.Next(r, silent)
		if again {
			tries++
			next = kv.Begun(next, int64(2+i))
			silent.Count = 0
		}
		if next.Safe != 10 {
			t.Fatalf("after %d looks only what is after %d is read", i, next.Safe)
		}
		r = next
	}
	if tries < 5 || tries > 20 {
		t.Errorf("%d times in 200 looks", tries)
	}
}

func FuzzWhatIsToldOfRegions(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"regions":{"eu":{"epoch":7,"count":20,"seen":120,"safe":110,"away":true,"vain":2,"skip":1}}}`))
	f.Add([]byte(`{"regions":{"eu":{"vain":-1,"skip":99999999999}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := kv.Told(data)
		for _, r := range all {
			if err != nil {
				t.Fatalf("%+v, %v", r, err)
			}
			// Whatever is believed, all is read anew soon enough.
			looks := 0
			for again := false; !again; looks++ {
				r, again = kv.Next(r, kv.Look{Reached: true, Sourced: true, Silent: true, Epoch: r.Epoch, Count: r.Count})
			}
			if looks > 32 {
				t.Fatalf("after %d looks", looks)
			}
			r = kv.Begun(r, 1)
			if r.Vain < 1 || r.Vain > 5 || r.Skip < 0 || r.Skip > 15 {
				t.Fatalf("%+v", r)
			}
		}
	})
}
