package kv_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestARegionIsReadAnewWhenSomethingMayBeMissing(t *testing.T) {
	known := kv.Reading{Born: 1, Made: 2, Epoch: 7, Count: 20, Seen: 120, Safe: 110}
	but := func(change func(*kv.Reading)) kv.Reading {
		r := known
		change(&r)
		return r
	}
	away := but(func(r *kv.Reading) { r.Away = true })
	well := kv.Look{Reached: true, Sourced: true, Born: 1, Made: 2, Epoch: 7, Count: 25, Seen: 125, Told: 126}
	after := kv.Reading{Born: 1, Made: 2, Epoch: 7, Count: 25, Seen: 125, Safe: 120}
	for name, tt := range map[string]struct {
		was   kv.Reading
		is    func(*kv.Look)
		want  kv.Reading
		again bool
	}{
		"all is well": {known, func(*kv.Look) {}, after, false},
		"well at last, after it was begun anew in vain": {
			but(func(r *kv.Reading) { r.Vain, r.Skip = 3, 2 }), func(*kv.Look) {}, after, false,
		},
		"begun anew a moment ago, and nothing came since": {
			kv.Reading{Born: 1, Made: 2, Epoch: 7, Seen: 110, Safe: 110},
			func(l *kv.Look) { l.Count, l.Seen = 0, 0 },
			kv.Reading{Born: 1, Made: 2, Epoch: 7, Seen: 110, Safe: 110},
			false,
		},
		"somebody claims to have seen what was never told": {
			but(func(r *kv.Reading) { r.Seen, r.Safe = 999, 999 }), func(*kv.Look) {},
			kv.Reading{Born: 1, Made: 2, Epoch: 7, Count: 25, Seen: 126, Safe: 126},
			false,
		},
		"and that it was away": {
			but(func(r *kv.Reading) { r.Away, r.Safe = true, 1<<64-1 }), func(*kv.Look) {},
			but(func(r *kv.Reading) { r.Away, r.Safe = true, 126 }), true,
		},
		"who begins knows nothing of what was before": {
			kv.Reading{},
			func(*kv.Look) {},
			kv.Reading{Born: 1, Made: 2, Epoch: 7, Count: 25, Seen: 125},
			false,
		},
		"our stream was made anew": {
			known, func(l *kv.Look) { l.Born, l.Epoch = 9, 8 },
			kv.Reading{Born: 9, Made: 2, Epoch: 8, Count: 25, Seen: 125},
			false,
		},
		"our stream was made anew while it was away": {
			away, func(l *kv.Look) { l.Born, l.Epoch = 9, 8 },
			but(func(r *kv.Reading) { r.Away, r.Born, r.Safe = true, 9, 0 }), true,
		},
		"it is out of reach": {known, func(l *kv.Look) { *l = kv.Look{} }, away, false},
		"it is back":         {away, func(*kv.Look) {}, away, true},
		"it is back, and nobody knows what was before": {kv.Reading{Away: true}, func(*kv.Look) {}, kv.Reading{Born: 1, Made: 2, Away: true}, true},
		"it is back, and was begun anew a moment ago": {
			but(func(r *kv.Reading) { r.Away, r.Vain, r.Skip = true, 2, 1 }), func(*kv.Look) {},
			but(func(r *kv.Reading) { r.Away, r.Vain, r.Skip = true, 2, 1 }), true,
		},
		"it comes and goes": {
			but(func(r *kv.Reading) { r.Away, r.Vain, r.Skip = true, 3, 3 }), func(*kv.Look) {},
			but(func(r *kv.Reading) { r.Away, r.Vain, r.Skip = true, 3, 2 }), false,
		},
		"it is silent": {known, func(l *kv.Look) { l.Silent = true }, known, true},
		"it is silent, and was begun anew just now": {
			but(func(r *kv.Reading) { r.Vain, r.Skip = 2, 1 }), func(l *kv.Look) { l.Silent = true },
			but(func(r *kv.Reading) { r.Vain = 2 }), false,
		},
		"its consumer was wound back":   {known, func(l *kv.Look) { l.Count = 3 }, known, true},
		"its consumer was made anew":    {known, func(l *kv.Look) { l.Made = 3 }, but(func(r *kv.Reading) { r.Made = 3 }), true},
		"it is not read any more":       {known, func(l *kv.Look) { l.Sourced, l.Epoch = false, 0 }, known, true},
		"somebody put back what it was": {known, func(l *kv.Look) { l.Epoch = 6 }, known, true},
		"somebody else has begun anew": {
			away, func(l *kv.Look) { l.Epoch, l.Count = 8, 4 },
			kv.Reading{Born: 1, Made: 2, Epoch: 8, Count: 4, Seen: 125},
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
	f.Add([]byte(`{"regions":{"eu":{"away":true,"safe":1000000000000000000}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := kv.Told(data)
		for _, r := range all {
			if err != nil || r.Epoch < 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			// Whatever is believed, all is read anew soon enough.
			looks := 0
			for again := false; !again; looks++ {
				r, again = kv.Next(r, kv.Look{Reached: true, Sourced: true, Silent: true, Born: r.Born, Epoch: r.Epoch, Count: r.Count, Told: 100})
			}
			if looks > 32 || r.Safe > 100 {
				t.Fatalf("after %d looks, from %d on", looks, r.Safe)
			}
			r = kv.Begun(r, 1)
			if r.Vain < 1 || r.Vain > 5 || r.Skip < 0 || r.Skip > 15 {
				t.Fatalf("%+v", r)
			}
		}
	})
}

// However many callers there are, one of them looks.
func TestOneCallerLooksForAll(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupRegion(t) // eu is out of reach
		const callers, minute = 20, time.Minute
		for range callers {
			watch(t, open(t, natstest.Connect(t, f.ns), kv.Options{Domain: "us", Regions: []string{"us", "eu"}}), "user")
		}
		looks := make(chan *nats.Msg, 10_000)
		if _, err := f.nc.ChanSubscribe("proxima.sources.us", looks); err != nil {
			t.Fatal(err)
		}
		time.Sleep(minute)
		begun, found := 0, 0
		for range len(looks) {
			regions, err := kv.Told((<-looks).Data)
			if err != nil {
				t.Fatal(err)
			}
			if len(regions) == 0 {
				begun++
				continue
			}
			found++
			if x := regions["eu"]; !x.Away {
				t.Fatalf("%+v", regions)
			}
		}
		if found < 180 || found > 400 || begun > 3*found {
			t.Errorf("in a minute %d looks, %d wanted to", found, begun)
		}
		time.Sleep(10 * minute) // it is away for long
		for range len(looks) {
			<-looks
		}
		time.Sleep(minute)
		if n := len(looks); n < 30 || n > 300 {
			t.Errorf("in a minute %d messages", n)
		}
	})
}
