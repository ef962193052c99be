package kv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// phases remembers what OnState was told.
type phases struct {
	mu  sync.Mutex
	all []string
}

func (p *phases) add(s kv.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	word := string(s.Phase)
	if s.Phase == kv.Registered {
		word += " " + string(s.Status)
	}
	if s.Err != nil {
		word += " with an error"
	}
	p.all = append(p.all, word)
}

func (p *phases) get() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.all...)
}

// health is a check that a test decides.
type health struct{ ill, calls atomic.Int32 }

func (h *health) check(context.Context) error {
	h.calls.Add(1)
	if h.ill.Load() != 0 {
		return errors.New("ill")
	}
	return nil
}

func status(want events.Status) func(events.Snapshot) bool {
	return func(s events.Snapshot) bool { return len(s.Entries) == 1 && s.Entries[0].Status == want }
}

func TestAnnouncedOnlyAfterItsFirstPassedCheck(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var h health
		h.ill.Store(1)
		var told phases
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Check: h.check, OnState: told.add})
		v := watch(t, f.r, "user")
		time.Sleep(time.Minute)
		s := a.State()
		if s.Phase != kv.Checking || s.Err == nil || !strings.Contains(s.Err.Error(), "ill") || len(v.get("user").Entries) != 0 {
			t.Errorf("while ill: %+v, %s", s, show(v.get("user")))
		}
		if n := h.calls.Load(); n < 250 || n > 350 {
			t.Errorf("%d checks in a minute, want five a second", n)
		}
		h.ill.Store(0)
		v.until("listed", 300*time.Millisecond, status(events.Up))
		before := h.calls.Load()
		time.Sleep(time.Minute)
		if n := h.calls.Load() - before; n < 27 || n > 34 {
			t.Errorf("%d checks in a minute, want one each 2s", n)
		}
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := []string{"checking with an error", "registering", "registered up", "left"}
		if diff := cmp.Diff(want, told.get()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestHowManyChecksMakeItReadyOrNotCanBeSet(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var h health
		h.ill.Store(1)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Check: h.check, CheckInterval: time.Second, CheckRise: 3, CheckFall: 4, StartPeriod: time.Minute})
		v := watch(t, f.r, "user")
		time.Sleep(59 * time.Second)
		if s := a.State(); s.Phase != kv.Checking || s.Err != nil {
			t.Errorf("within the start period: %+v", s)
		}
		time.Sleep(2 * time.Second)
		if s := a.State(); s.Phase != kv.Checking || s.Err == nil {
			t.Errorf("after the start period: %+v", s)
		}
		passes := func(n int32) { // and fails again
			t.Helper()
			h.ill.Store(0)
			before := h.calls.Load()
			testkit.Within(t, 10*time.Second, "passes", func() bool { return h.calls.Load() >= before+n })
			h.ill.Store(1)
		}
		passes(2)
		time.Sleep(10 * time.Second)
		if n := len(v.get("user").Entries); n != 0 {
			t.Errorf("listed after two passes")
		}
		h.ill.Store(0)
		v.until("listed", 5*time.Second, status(events.Up))
		h.ill.Store(1)
		time.Sleep(2500 * time.Millisecond)
		h.ill.Store(0)
		time.Sleep(10 * time.Second)
		if !status(events.Up)(v.get("user")) {
			t.Errorf("after two or three failures: %s", show(v.get("user")))
		}
		h.ill.Store(1)
		v.until("not ready", 6*time.Second, status(events.NotReady))
		passes(2)
		time.Sleep(10 * time.Second)
		if !status(events.NotReady)(v.get("user")) {
			t.Errorf("after two passes: %s", show(v.get("user")))
		}
		h.ill.Store(0)
		v.until("ready again", 6*time.Second, status(events.Up))
	})
}

func TestFailingCheckMakesItNotReadyUntilItPasses(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var h health
		var told phases
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Check: h.check, OnState: told.add})
		v := watch(t, f.r, "user")
		v.until("up", time.Second, status(events.Up))
		n := h.calls.Load()
		h.ill.Store(1)
		testkit.Within(t, 3*time.Second, "a failed check", func() bool { return h.calls.Load() == n+1 })
		time.Sleep(time.Second)
		if !status(events.Up)(v.get("user")) {
			t.Errorf("one failed check: %s", show(v.get("user")))
		}
		v.until("not ready", 3*time.Second, status(events.NotReady))
		testkit.Within(t, time.Second, "told", func() bool { return a.State().Registered() && a.State().Status == events.NotReady })
		time.Sleep(time.Minute)
		if !status(events.NotReady)(v.get("user")) {
			t.Errorf("a minute later: %s", show(v.get("user")))
		}
		h.ill.Store(0)
		v.until("up again", 3*time.Second, status(events.Up))
		v.close()
		testkit.Within(t, time.Second, "told", func() bool { return a.State().Status == events.Up })
		registeredTwice := 0
		for _, w := range told.get() {
			if w == "registered not_ready" {
				registeredTwice++
			}
		}
		if registeredTwice != 1 {
			t.Errorf("told %v", told.get())
		}
	})
}

func TestHangingCheckStopsNoHeartbeat(t *testing.T) {
	for _, heeds := range []bool{true, false} {
		t.Run(fmt.Sprintf("heeds its context=%v", heeds), func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				var hang atomic.Bool
				release := make(chan struct{})
				a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Check: func(ctx context.Context) error {
					if !hang.Load() {
						return nil
					}
					if !heeds {
						<-release
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				}})
				v := watch(t, f.r, "user")
				v.until("up", time.Second, status(events.Up))
				hang.Store(true)
				v.until("not ready", 12*time.Second, status(events.NotReady))
				time.Sleep(time.Minute)
				if s := a.State(); s.Err != nil || !status(events.NotReady)(v.get("user")) {
					t.Errorf("a minute later: %+v, %s", s, show(v.get("user")))
				}
				if heeds {
					hang.Store(false)
					v.until("up", 6*time.Second, status(events.Up))
					hang.Store(true)
					time.Sleep(3 * time.Second)
				}
				began := time.Now()
				if err := a.Leave(t.Context()); err != nil {
					t.Errorf("leave: %v", err)
				}
				within(t, time.Since(began), 0, 1100*time.Millisecond)
				v.until("gone", time.Second, count(0))
				close(release)
				synctest.Wait()
			})
		})
	}
}

func TestUpdateIsAnnouncedAtOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		in := instance("a")
		in.Metadata = map[string]string{"color": "red"}
		in.Coordinate = &events.Coordinate{Error: 1}
		a := f.announce(f.r, in, kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, status(events.Up))
		before := a.Instance()
		if err := a.Update(func(in *events.Instance) {
			in.Metadata["color"] = "blue"
			in.Endpoints[events.GRPC] = "10.0.0.5:9090"
			in.Coordinate.Error = 0.5
			in.Weight = 7
			in.Status = events.NotReady
		}); err != nil {
			t.Fatal(err)
		}
		v.until("updated", 100*time.Millisecond, func(s events.Snapshot) bool {
			e := s.Entries[0]
			return e.Weight == 7 && e.Metadata["color"] == "blue" && len(e.Endpoints) == 2 && e.Coordinate.Error == 0.5 && e.Status == events.NotReady
		})
		if before.Metadata["color"] != "red" || len(before.Endpoints) != 1 || before.Coordinate.Error != 1 {
			t.Errorf("the update wrote to what was announced before: %+v", before)
		}
		for name, change := range map[string]func(*events.Instance){
			"service":     func(in *events.Instance) { in.Service = "other" },
			"zone":        func(in *events.Instance) { in.Location.Zone = "b" },
			"id":          func(in *events.Instance) { in.ID = "b" },
			"incarnation": func(in *events.Instance) { in.Incarnation = "b" },
			"ttl":         func(in *events.Instance) { in.TTL = time.Hour + time.Second },
			"weight":      func(in *events.Instance) { in.Weight = -2 },
			"endpoints":   func(in *events.Instance) { clear(in.Endpoints) },
			"shorten":     func(in *events.Instance) { in.Metadata["x"] = strings.Repeat("x", events.MaxSize) },
		} {
			if err := a.Update(change); err == nil || !strings.Contains(err.Error(), name[:2]) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := a.Update(func(in *events.Instance) { in.Weight = 0 }); err != nil || a.Instance().Weight != events.LastResort {
			t.Errorf("a weight of 0: %v, %+v", err, a.Instance())
		}
		if err := a.Update(func(in *events.Instance) { in.Weight = 7 }); err != nil {
			t.Error(err)
		}
		if got := a.Instance(); got.Weight != 7 || len(got.Endpoints) != 2 {
			t.Errorf("%+v", got)
		}
	})
}

// The lease is as long as the ttl says from the update on: the instance stays listed
// through it, and expires in the new time.
func TestUpdateChangesTheLease(t *testing.T) {
	for _, tt := range []struct{ before, after time.Duration }{{15 * time.Second, 3 * time.Second}, {3 * time.Second, 15 * time.Second}} {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			in := instance("a")
			in.TTL = tt.before
			nc := natstest.Connect(t, f.ns, silent)
			a := f.announce(open(t, nc, kv.Options{}), in, kv.AnnounceOptions{})
			v := watch(t, open(t, f.nc, kv.Options{NoSuspects: true}), "user")
			v.until("listed", time.Second, status(events.Up))
			if err := a.Update(func(in *events.Instance) { in.TTL = tt.after }); err != nil {
				t.Fatal(err)
			}
			v.until("updated", time.Second, func(s events.Snapshot) bool { return len(s.Entries) == 1 && s.Entries[0].TTL == tt.after })
			if got := a.Instance(); got.Incarnation == "" || got.TTL != tt.after {
				t.Errorf("announced is %+v", got)
			}
			time.Sleep(2 * max(tt.before, tt.after))
			if s, err := f.r.Snapshot(t.Context(), "user"); err != nil || len(s) != 1 || len(s[0].Entries) != 1 {
				t.Errorf("listed is %v, %v, want the instance", s, err)
			}
			nc.Close()
			began := time.Now()
			v.until("expired", time.Minute, func(s events.Snapshot) bool { return len(s.Entries) == 0 })
			if took := time.Since(began); took < tt.after*2/3-time.Second || took > tt.after+2*time.Second {
				t.Errorf("ttl %v, before %v: expired after %v", tt.after, tt.before, took)
			}
		})
	}
}

func TestUpdatesOfManyAreAllTaken(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, count(1))
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 10 {
					if err := a.Update(func(in *events.Instance) { in.Weight++ }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		v.until("all", 2*time.Second, func(s events.Snapshot) bool { return s.Entries[0].Weight == events.DefaultWeight+200 })
	})
}

func TestUpdateBeforeItIsListed(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var h health
		h.ill.Store(1)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Check: h.check})
		if err := a.Update(func(in *events.Instance) { in.Weight = 7 }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if s := a.State(); s.Phase != kv.Checking {
			t.Errorf("%+v", s)
		}
		h.ill.Store(0)
		v := watch(t, f.r, "user")
		v.until("listed", 3*time.Second, func(s events.Snapshot) bool { return len(s.Entries) == 1 && s.Entries[0].Weight == 7 })
	})
}

func TestInvalidInstancesAreRefused(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		for field, change := range map[string]func(*events.Instance){
			"id":              func(in *events.Instance) { in.ID = "" },
			"service":         func(in *events.Instance) { in.Service = "User" },
			"location.region": func(in *events.Instance) { in.Location.Region = "a.b" },
			"endpoints":       func(in *events.Instance) { in.Endpoints = nil },
			"endpoints.http":  func(in *events.Instance) { in.Endpoints = map[string]string{events.HTTP: "nowhere"} },
			"weight":          func(in *events.Instance) { in.Weight = -2 },
			"status":          func(in *events.Instance) { in.Status = "well" },
			"ttl":             func(in *events.Instance) { in.TTL = time.Millisecond },
		} {
			in := instance("a")
			change(&in)
			a, err := f.r.Announce(in, kv.AnnounceOptions{})
			var want *events.FieldError
			if a != nil || !errors.As(err, &want) || want.Field != field {
				t.Errorf("%s: %v", field, err)
			}
		}
		for _, ttl := range []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond, 2 * time.Hour, -time.Second} {
			in := instance("a")
			in.TTL = ttl
			if _, err := f.r.Announce(in, kv.AnnounceOptions{}); err == nil {
				t.Errorf("a ttl of %v is taken", ttl)
			}
		}
		in := instance("a")
		in.TTL = 0
		a := f.announce(f.r, in, kv.AnnounceOptions{})
		got := a.Instance()
		if got.TTL != events.DefaultTTL || got.Incarnation == "" || got.Started.IsZero() || got.Status != events.Up {
			t.Errorf("defaults: %+v", got)
		}
	})
}

func TestCallerMayChangeItsMapsAfterwards(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		in := instance("a")
		a := f.announce(f.r, in, kv.AnnounceOptions{})
		in.Endpoints[events.HTTP] = "6.6.6.6:6"
		if got := a.Instance().Endpoints[events.HTTP]; got != "10.0.0.5:8080" {
			t.Errorf("announced is %s", got)
		}
	})
}

func TestHooksMayAskForTheState(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var self atomic.Pointer[kv.Announcement]
		updated := make(chan error, 100)
		var told phases
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Drain: time.Second, OnState: func(s kv.State) {
			told.add(s)
			a := self.Load()
			if a == nil {
				return
			}
			if got := a.State(); got.Phase != s.Phase {
				t.Errorf("told %+v, is %+v", s, got)
			}
			if s.Phase == kv.Registered && a.Instance().Weight != 7 {
				updated <- a.Update(func(in *events.Instance) { in.Weight = 7 })
			}
		}})
		self.Store(a)
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, count(1))
		if err := a.Update(func(in *events.Instance) { in.Weight = 2 }); err != nil {
			t.Fatal(err)
		}
		v.until("updated from the hook", time.Second, func(s events.Snapshot) bool { return s.Entries[0].Weight == 7 })
		if err := <-updated; err != nil {
			t.Error(err)
		}
	})
}

func TestShortTTLsHold(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		in := instance("a")
		in.TTL = time.Second
		a := f.announce(f.r, in, kv.AnnounceOptions{})
		registered(t, a, time.Second)
		v := guard(t, f.r, 1)
		time.Sleep(2 * time.Minute)
		if s := v.get("user"); !of(0, 1)(s) || a.State().Err != nil {
			t.Errorf("%s, %+v", show(s), a.State())
		}
	})
}
