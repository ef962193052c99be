//go:build faults

package nats_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// converged is how soon after a cut regions must agree. It takes half a second,
// and this machine may be busy.
const converged = 4 * time.Second

// Each region goes on alone while it is cut off, for a moment or for longer than
// the servers of the others wait, and all agree soon after.
func TestRegionsGoOnAloneAndAgreeAfterACut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		how   string
		sever func(*natstest.Proxy)
		cut   time.Duration
	}{
		{"cut", (*natstest.Proxy).Cut, time.Second},
		{"cut", (*natstest.Proxy).Cut, 11 * time.Second},
		{"cut", (*natstest.Proxy).Cut, 17 * time.Second},
		{"cut", (*natstest.Proxy).Cut, 31 * time.Second},
		// What is written meanwhile is told to connections that are dead already.
		{"silent", lose, 8 * time.Second},
		{"silent", lose, 31 * time.Second},
	} {
		t.Run(tt.how+" for "+tt.cut.String(), func(t *testing.T) {
			t.Parallel()
			sites := startRegions(t, kv.Options{})
			for _, s := range sites {
				for i := range 3 {
					s.announce(t, in(s.region, fmt.Sprintf("%s-%d", s.region, i)))
				}
			}
			views := watchAll(t, sites)
			views.until(t, "all", listed(9))
			checkAlone(t, sites, views, tt.cut, func() {
				for _, s := range sites[1:] {
					tt.sever(s.link)
				}
			}, func() {
				for _, s := range sites[1:] {
					s.link.Heal()
				}
			})
		})
	}
}

func lose(p *natstest.Proxy) { p.Lose(natstest.Up | natstest.Down) }

func TestRegionsGoOnAloneWithoutTheHub(t *testing.T) {
	t.Parallel()
	sites := startRegions(t, kv.Options{})
	hub, leaves := sites[0], sites[1:]
	for _, s := range leaves {
		for i := range 3 {
			s.announce(t, in(s.region, fmt.Sprintf("%s-%d", s.region, i)))
		}
	}
	views := watchAll(t, leaves)
	views.until(t, "all", listed(6))
	checkAlone(t, leaves, views, 12*time.Second, hub.Kill, func() { hub.Start(t) })
}

// listed says that so many instances are, and the registry answers.
func listed(n int) func(events.Snapshot) bool {
	return func(s events.Snapshot) bool { return !s.Stale && len(s.Entries) == n }
}

// checkAlone cuts regions off from each other for a time, and wants each to list
// what comes and drop what dies there meanwhile, and to keep those of the others.
// Afterwards all must agree, and no living instance may have been missing.
func checkAlone(t *testing.T, sites []*site, views all, cut time.Duration, sever, mend func()) {
	t.Helper()
	before := len(views[0].get().Entries)
	survivors := idsOf(views[0].get())
	var dying []string
	if ttl := (cut / 2).Truncate(time.Second); ttl >= 3*time.Second { // seen from everywhere before it ends
		for _, s := range sites {
			x := in(s.region, "dies-"+s.region)
			x.TTL = ttl
			if _, err := s.r.Register(t.Context(), x, 0); err != nil {
				t.Fatal(err)
			}
			dying = append(dying, x.ID)
		}
		views.until(t, "those that die", listed(before+len(sites)))
	}

	sever()
	severed := time.Now()
	want := slices.Clone(survivors)
	for i, s := range sites {
		a := s.announce(t, in(s.region, "new-"+s.region))
		want = append(want, "new-"+s.region)
		views[i].until(t, "a new one of its own", views[i].lists("new-"+s.region, true))
		if p, err := pick(t, s, "new-"+s.region); err != nil || p != "new-"+s.region {
			t.Errorf("%s picks %q, %v while it is cut off", s.region, p, err)
		}
		if !a.State().Registered() {
			t.Errorf("%s: %+v", s.region, a.State())
		}
	}
	for i, s := range sites {
		views[i].until(t, "the one of its own that died gone", views[i].lists("dies-"+s.region, false))
		for _, id := range survivors {
			if !views[i].lists(id, true)(views[i].get()) {
				t.Errorf("%s has lost %s by being cut off", s.region, id)
			}
		}
	}
	time.Sleep(cut - time.Since(severed))

	mend()
	mended := time.Now()
	for i, v := range views {
		// Those that died meanwhile are gone, or suspects where they seem to expire
		// together.
		v.until(t, "all that live, seen from "+sites[i].region, func(s events.Snapshot) bool {
			s.Entries = slices.DeleteFunc(slices.Clone(s.Entries), func(e events.Entry) bool { return e.Suspect && slices.Contains(dying, e.ID) })
			return ids(want...)(s)
		})
	}
	took := time.Since(mended)
	t.Logf("cut for %v, agreed after %v", time.Since(severed).Round(time.Second)-took.Round(time.Second), took.Round(time.Millisecond))
	if took > converged {
		t.Errorf("regions agree after %v, want %v at most", took, converged)
	}
	for i, v := range views {
		if n := v.fewest(); n < before {
			t.Errorf("%s saw %d instances at a time, of %d that lived", sites[i].region, n, before)
		}
	}
}

func idsOf(s events.Snapshot) []string {
	var all []string
	for _, e := range s.Entries {
		all = append(all, e.ID)
	}
	return all
}

// pick picks from the place of an instance, and wants that one, however young it is.
func pick(t *testing.T, s *site, want string) (string, error) {
	t.Helper()
	sel, err := selector.New(t.Context(), s.nc, selector.Options{Source: s.r, Location: in(s.region, "").Location, Ramp: selector.Ramp{Up: time.Nanosecond}})
	if err != nil {
		return "", err
	}
	defer sel.Close()
	for range 100 {
		p, err := sel.Pick(t.Context(), "user")
		if err != nil {
			return "", err
		}
		p.Done(nil)
		if p.Location.Region != s.region {
			return p.ID, fmt.Errorf("%s is in %s", p.ID, p.Location.Region)
		}
		if p.ID == want {
			return p.ID, nil
		}
	}
	return "", fmt.Errorf("%s is never picked", want)
}

// A region with streams in memory comes back with sequences that begin anew. Its
// announcers announce again, and the other regions read from the beginning.
func TestARegionThatLostItsStreamsIsReadAgain(t *testing.T) {
	t.Parallel()
	sites := startRegions(t, kv.Options{Memory: true})
	for _, s := range sites {
		for i := range 3 {
			s.announce(t, in(s.region, fmt.Sprintf("%s-%d", s.region, i)))
		}
	}
	views := watchAll(t, sites)
	views.until(t, "all", listed(9))
	eu := sites[1]
	for i := range 50 { // so that sequences go back far
		x := in(eu.region, fmt.Sprintf("gone-%d", i))
		revision, err := eu.r.Register(t.Context(), x, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := eu.r.Deregister(t.Context(), &x, revision); err != nil {
			t.Fatal(err)
		}
	}
	eu.announce(t, in(eu.region, "last"))
	views.until(t, "the last of them", func(s events.Snapshot) bool { return listed(10)(s) && slices.Contains(idsOf(s), "last") })

	killed := time.Now()
	eu.Kill()
	eu.Start(t)
	eu.announce(t, in(eu.region, "later"))
	for i, v := range views {
		v.until(t, "one that came after the loss, seen from "+regions[i], func(s events.Snapshot) bool {
			return listed(11)(s) && v.lists("later", true)(s)
		})
	}
	t.Logf("a region lost its streams, all is known again after %v", time.Since(killed).Round(time.Millisecond))
	// Removals of that life arrive, too.
	x := in(eu.region, "mortal")
	x.TTL = 3 * time.Second // seen from everywhere before it ends
	testkit.Retry(t, "an instance without renewals is listed", func(ctx context.Context) error {
		_, err := eu.r.Register(ctx, x, 0)
		return err
	})
	views.until(t, "it", listed(12))
	views.until(t, "its end", listed(11))
	for i, v := range views {
		if n := v.fewest(); n < 9 {
			t.Errorf("%s saw %d instances at a time, of 9 that lived", regions[i], n)
		}
	}
}

// An order outlives the servers, and the loss of what they kept.
func TestAnEvacuationOutlivesRestarts(t *testing.T) {
	t.Parallel()
	for _, memory := range []bool{false, true} {
		t.Run(fmt.Sprintf("memory=%t", memory), func(t *testing.T) {
			t.Parallel()
			sites := startRegions(t, kv.Options{Memory: memory})
			us, eu, ap := sites[0], sites[1], sites[2]
			for _, s := range sites {
				s.announce(t, in(s.region, s.region))
			}
			views := watchAll(t, sites)
			views.until(t, "all", listed(3))
			left := func(s events.Snapshot) bool {
				return listed(3)(s) && !slices.ContainsFunc(s.Entries, func(e events.Entry) bool { return e.Evacuated != (e.ID == eu.region) })
			}
			eu.link.Cut() // it need not be reachable
			if _, err := us.r.Evacuate(t.Context(), events.Evacuation{Region: eu.region, Evacuated: true}); err != nil {
				t.Fatal(err)
			}
			for _, i := range []int{0, 2} {
				views[i].until(t, "the region evacuated", left)
			}
			eu.link.Heal()
			views[1].until(t, "the region itself has heard", left)

			time.Sleep(5 * time.Second) // callers have found it in the buckets, too

			for _, s := range []*site{us, ap} {
				s.Kill()
			}
			for _, s := range []*site{us, ap} {
				s.Start(t)
				s.Ready(t)
			}
			views.until(t, "the region evacuated still", left)
			testkit.Retry(t, "a new caller knows of the order", func(ctx context.Context) error {
				for _, s := range sites {
					left, err := s.r.Evacuations(ctx)
					if err != nil || len(left) != 1 {
						return fmt.Errorf("%s: %v, %w", s.region, left, err)
					}
				}
				return nil
			})
		})
	}
}
