package faults_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/tests/faults"
)

// view is a snapshot of instances of the service "user", each with a revision.
func view(entries ...events.Entry) events.Snapshot {
	return events.Snapshot{Service: "user", Entries: entries}
}

func entry(id string, revision uint64) events.Entry {
	return events.Entry{Instance: &events.Instance{ID: id, Service: "user"}, Revision: revision}
}

func suspect(id string) events.Entry {
	e := entry(id, 1)
	e.Suspect = true
	return e
}

func stale(s events.Snapshot) events.Snapshot {
	s.Stale, s.StaleSince = true, time.Now()
	return s
}

// TestTheRecorderFindsWhatMustNotBe tells short stories: what is wrong must be
// found, and what is not must not.
func TestTheRecorderFindsWhatMustNotBe(t *testing.T) {
	for name, x := range map[string]struct {
		tell func(*faults.Recorder, *faults.Sight)
		want string // in the violation; "": there is none
	}{
		"all is well": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 3), entry("b", 2)), 1)
			r.Acked(1)
			s.Picked("a", nil)
			s.Explained([]string{"a", "b"})
		}, ""},
		"a revision goes back": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 3)), 0)
			s.Saw(view(entry("a", 2)), 0)
		}, "the revision of a went back from 3 to 2"},
		"a revision goes back in a new life of the stream": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 3)), 0)
			r.NewLife()
			s.Saw(view(entry("a", 1)), 0)
		}, ""},
		"a revision goes back twice in one new life": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 9)), 0)
			r.NewLife()
			s.Saw(view(entry("a", 5)), 0)
			s.Saw(view(entry("a", 4)), 0)
		}, "went back from 5 to 4"},
		"a change is seen late": {func(r *faults.Recorder, s *faults.Sight) {
			r.Acked(1)
			time.Sleep(4 * time.Second)
			s.Saw(view(entry("a", 2)), 1)
		}, "change 1 was not seen 4s after"},
		"a change is never seen": {func(r *faults.Recorder, s *faults.Sight) {
			r.Acked(1)
			time.Sleep(4 * time.Second)
			r.Check()
		}, "change 1 was not seen"},
		"a change is seen before its acknowledgement": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 2)), 1)
			r.Acked(1)
			time.Sleep(time.Minute)
			r.Check()
		}, ""},
		"a living instance is not listed any more": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 1), entry("b", 1)), 0)
			s.Saw(view(entry("a", 1)), 0)
		}, "b lives and is not listed any more"},
		"a living instance is lost from a stale view": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 1), entry("b", 1)), 0)
			s.Saw(stale(view()), 0)
		}, "lives and is not listed any more"},
		"a living instance becomes suspect": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 1), entry("b", 1)), 0)
			s.Saw(view(entry("a", 1), suspect("b")), 0)
		}, ""},
		"a stale view does not say since when": {func(r *faults.Recorder, s *faults.Sight) {
			x := stale(view(entry("a", 1)))
			x.StaleSince = time.Time{}
			s.Saw(x, 0)
		}, "stale since"},
		"an instance leaves": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 1), entry("b", 1)), 0)
			s.Explained([]string{"a", "b"})
			r.Leaves("b")
			s.Saw(view(entry("a", 1)), 0)
			s.Explained([]string{"a"})
		}, ""},
		"a selector loses a living instance": {func(r *faults.Recorder, s *faults.Sight) {
			s.Explained([]string{"a", "b"})
			s.Explained([]string{"a"})
		}, "b lives and is not known to the selector"},
		"a pick fails": {func(r *faults.Recorder, s *faults.Sight) {
			s.Picked("a", nil)
			s.Picked("", errors.New("no usable instance"))
		}, "a pick failed while 1 instances live: no usable instance"},
		"a pick fails when no instance lives": {func(r *faults.Recorder, s *faults.Sight) {
			s.Picked("a", nil)
			r.Leaves("a")
			r.Dies("b", time.Second)
			s.Picked("", errors.New("no usable instance"))
		}, ""},
		"the dead are listed": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 1), entry("b", 1)), 0)
			r.Dies("b", 10*time.Second)
			time.Sleep(14 * time.Second)
			r.Check()
		}, "b is listed 14s after its death"},
		"the dead are listed until their lease ends": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 1), entry("b", 1)), 0)
			r.Dies("b", 10*time.Second)
			time.Sleep(12 * time.Second)
			r.Check()
			s.Picked("b", nil)
		}, ""},
		"the dead are suspects": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 1), suspect("b")), 0)
			r.Dies("b", 10*time.Second)
			time.Sleep(time.Minute)
			r.Check()
		}, ""},
		"the dead have time to go after the fault": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 1), entry("b", 1)), 0)
			r.Broken()
			r.Dies("b", 10*time.Second)
			time.Sleep(time.Minute)
			s.Saw(view(entry("a", 1), entry("b", 1)), 0)
			s.Picked("b", nil)
			r.Healed()
			time.Sleep(12 * time.Second)
			r.Check()
		}, ""},
		"and no more than that": {func(r *faults.Recorder, s *faults.Sight) {
			s.Saw(view(entry("a", 1), entry("b", 1)), 0)
			r.Broken()
			r.Dies("b", 10*time.Second)
			time.Sleep(time.Minute)
			r.Healed()
			time.Sleep(14 * time.Second)
			r.Check()
		}, "b is listed 1m14s after its death"},
		"the dead are picked": {func(r *faults.Recorder, s *faults.Sight) {
			s.Picked("b", nil)
			r.Dies("b", 10*time.Second)
			time.Sleep(14 * time.Second)
			s.Picked("b", nil)
		}, "b was picked 14s after its death"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := faults.NewRecorder()
				r.Lives("a")
				r.Lives("b")
				x.tell(r, r.Sight("caller"))
				got := strings.Join(r.Violations(), "\n")
				if (got == "") != (x.want == "") || !strings.Contains(got, x.want) {
					t.Errorf("found %q, want %q", got, x.want)
				}
			})
		})
	}
}

func TestTheRecorderMeasures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := faults.NewRecorder()
		quick, slow := r.Sight("quick"), r.Sight("slow")
		r.Acked(1)
		r.Begin(faults.Bounds{Blind: time.Minute})
		quick.Saw(view(), 1)
		slow.Saw(stale(view()), 0)
		time.Sleep(2 * time.Second)
		r.Acked(2)
		quick.Saw(view(), 2)
		time.Sleep(3 * time.Second)
		slow.Saw(view(), 2)
		r.Acked(3)
		quick.Picked("", nil)

		got, want := r.Figures(), faults.Figures{
			Blind: []time.Duration{0, 5 * time.Second}, Mute: 3 * time.Second, Changes: 2, Picks: 1, Stale: 5 * time.Second,
		}
		if got.String() != want.String() {
			t.Errorf("measured %s\nwant %s", got, want)
		}
		r.Begin(faults.Bounds{})
		if v := r.Violations(); len(v) != 0 {
			t.Errorf("violations of a case that has begun: %q", v)
		}
		if got := r.Figures(); got.Changes != 0 || got.Picks != 0 || got.Blind[1] != 0 {
			t.Errorf("a case begins with %s", got)
		}
	})
}
