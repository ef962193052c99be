package regions

import "testing"

func TestARegionIsReadAnewWhenSomethingMayBeMissing(t *testing.T) {
	known := reading{Born: 1, Made: 2, Epoch: 7, Count: 20, Seen: 120, Safe: 110}
	but := func(change func(*reading)) reading {
		r := known
		change(&r)
		return r
	}
	away := but(func(r *reading) { r.Away = true })
	well := look{reached: true, sourced: true, born: 1, made: 2, epoch: 7, count: 25, seen: 125, told: 126}
	after := reading{Born: 1, Made: 2, Epoch: 7, Count: 25, Seen: 125, Safe: 120}
	for name, tt := range map[string]struct {
		was   reading
		is    func(*look)
		want  reading
		again bool
	}{
		"all is well": {known, func(*look) {}, after, false},
		"well at last, after it was begun anew in vain": {
			but(func(r *reading) { r.Vain, r.Skip = 3, 2 }), func(*look) {}, after, false,
		},
		"begun anew a moment ago, and nothing came since": {
			reading{Born: 1, Made: 2, Epoch: 7, Seen: 110, Safe: 110},
			func(l *look) { l.count, l.seen = 0, 0 },
			reading{Born: 1, Made: 2, Epoch: 7, Seen: 110, Safe: 110},
			false,
		},
		"another process claims to have seen what was never sent": {
			but(func(r *reading) { r.Seen, r.Safe = 999, 999 }), func(*look) {},
			reading{Born: 1, Made: 2, Epoch: 7, Count: 25, Seen: 126, Safe: 126},
			false,
		},
		"and that it was away": {
			but(func(r *reading) { r.Away, r.Safe = true, 1<<64-1 }), func(*look) {},
			but(func(r *reading) { r.Away, r.Safe = true, 126 }), true,
		},
		"at the beginning it is not known what was before": {
			reading{},
			func(*look) {},
			reading{Born: 1, Made: 2, Epoch: 7, Count: 25, Seen: 125},
			false,
		},
		"our stream was made anew": {
			known, func(l *look) { l.born, l.epoch = 9, 8 },
			reading{Born: 9, Made: 2, Epoch: 8, Count: 25, Seen: 125},
			false,
		},
		"our stream was made anew while it was away": {
			away, func(l *look) { l.born, l.epoch = 9, 8 },
			but(func(r *reading) { r.Away, r.Born, r.Safe = true, 9, 0 }), true,
		},
		"it is out of reach": {known, func(l *look) { *l = look{} }, away, false},
		"it is back":         {away, func(*look) {}, away, true},
		"it is back, and it is not known what was before": {reading{Away: true}, func(*look) {}, reading{Born: 1, Made: 2, Away: true}, true},
		"it is back, and was begun anew a moment ago": {
			but(func(r *reading) { r.Away, r.Vain, r.Skip = true, 2, 1 }), func(*look) {},
			but(func(r *reading) { r.Away, r.Vain, r.Skip = true, 2, 1 }), true,
		},
		"it comes and goes": {
			but(func(r *reading) { r.Away, r.Vain, r.Skip = true, 3, 3 }), func(*look) {},
			but(func(r *reading) { r.Away, r.Vain, r.Skip = true, 3, 2 }), false,
		},
		"it is silent": {known, func(l *look) { l.silent = true }, known, true},
		"it is silent, and was begun anew just now": {
			but(func(r *reading) { r.Vain, r.Skip = 2, 1 }), func(l *look) { l.silent = true },
			but(func(r *reading) { r.Vain = 2 }), false,
		},
		"its consumer was wound back":          {known, func(l *look) { l.count = 3 }, known, true},
		"its consumer was made anew":           {known, func(l *look) { l.made = 3 }, but(func(r *reading) { r.Made = 3 }), true},
		"it is not read any more":              {known, func(l *look) { l.sourced, l.epoch = false, 0 }, known, true},
		"another process put back what it was": {known, func(l *look) { l.epoch = 6 }, known, true},
		"another process has begun anew": {
			away, func(l *look) { l.epoch, l.count = 8, 4 },
			reading{Born: 1, Made: 2, Epoch: 8, Count: 4, Seen: 125},
			false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := well
			tt.is(&is)
			got, again := tt.was.next(is)
			if again != tt.again || got != tt.want {
				t.Errorf("got %+v, anew %t, want %+v, %t", got, again, tt.want, tt.again)
			}
		})
	}
}

// What does not help is tried ever more rarely.
func TestARegionIsNotReadAnewAgainAndAgain(t *testing.T) {
	r := reading{Epoch: 1, Count: 10, Seen: 10, Safe: 10}
	silent := look{reached: true, sourced: true, silent: true, count: 10, told: 10}
	tries := 0
	for i := range 200 {
		silent.epoch = r.Epoch
		next, again := r.next(silent)
		if again {
			tries++
			next = next.begun(int64(2 + i))
			silent.count = 0
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
	f.Add([]byte(`{"regions":{"eu":{"away":true,"safe":1000000000000000000}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := decodeLooked(data)
		for _, r := range l.Regions {
			if err != nil || r.Epoch < 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			// Whatever is believed, all is read anew soon enough.
			looks := 0
			for again := false; !again; looks++ {
				r, again = r.next(look{reached: true, sourced: true, silent: true, born: r.Born, epoch: r.Epoch, count: r.Count, told: 100})
			}
			if looks > 32 || r.Safe > 100 {
				t.Fatalf("after %d looks, from %d on", looks, r.Safe)
			}
			r = r.begun(1)
			if r.Vain < 1 || r.Vain > 5 || r.Skip < 0 || r.Skip > 15 {
				t.Fatalf("%+v", r)
			}
		}
	})
}
