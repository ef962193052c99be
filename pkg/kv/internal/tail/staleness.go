package tail

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/view"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// staleness is whether a view is out of date, and since when.
type staleness struct {
	group *Group
	from  *Source
	view  *view.View

	stale  bool
	since  time.Time // then: when the registry was last heard
	cutOff bool      // the registry answers and takes no writes
	alive  time.Time // when the registry last said anything
	err    error     // why the view is stale
	silent bool      // nothing is logged: the caller is told
	logged bool      // it was logged that the view is stale
}

// markStale marks the view stale, and starts with the one on disk if there is none.
func (s *staleness) markStale(err error) {
	s.err = err
	if !s.silent && !s.from.Bucket.Sourced() {
		s.group.Link.Reads.Note(err)
	}
	if s.stale {
		return
	}
	s.stale, s.since = true, s.alive
	restored := s.restore()
	if !s.view.Ready() {
		return
	}
	s.view.TouchAll()
	if s.silent {
		return
	}
	s.logged = true
	log, how := s.group.Link.Log.Debug, "keeping the last view"
	if s.group.stale.Add(1) == 1 { // one of all tails logs it as a warning
		log = s.group.Link.Log.Warn
	}
	if restored {
		how = "starting with the view on disk"
	}
	log("the registry cannot be reached", "then", how, "service", cmp.Or(s.from.Service, "all"), "since", s.since, "error", err)
}

// restore makes the view what was saved, if anything was.
func (s *staleness) restore() (restored bool) {
	if s.from.Store == nil || s.view.Ready() {
		return false
	}
	for _, saved := range s.from.Store.Load(s.from.Service) {
		s.view.Restore(saved.Service, saved.Entries, time.Now())
		if s.since.IsZero() || saved.StaleSince.Before(s.since) {
			s.since = saved.StaleSince
		}
		restored = true
	}
	return restored
}

// markFresh notes that the registry has answered.
func (s *staleness) markFresh() {
	s.err = nil
	if !s.from.Bucket.Sourced() {
		s.group.Link.Reads.Over()
	}
	if !s.stale {
		return
	}
	s.stale, s.since = false, time.Time{}
	s.view.Outage(time.Now())
	if s.view.Ready() {
		s.view.TouchAll()
	}
	if !s.logged {
		return
	}
	s.logged = false
	log := s.group.Link.Log.Debug
	if s.group.stale.Add(-1) == 0 {
		log = s.group.Link.Log.Info
	}
	log("the registry is back", "service", cmp.Or(s.from.Service, "all"))
}

// checkCutOff finds out whether the registry answers but takes no writes. If it took
// writes, the leases of the listed instances would have been renewed, or would have
// ended. The instances of other regions have their leases there, so a view of them is
// not checked. It reports whether the registry takes writes again.
func (s *staleness) checkCutOff() (rejoined bool) {
	if s.from.Bucket.Sourced() {
		return false
	}
	age := s.group.leases.age()
	switch {
	case age > 0 && age > s.view.ShortestTTL():
		s.cutOff = true
		if !s.stale {
			s.markStale(fmt.Errorf("%w: no lease was renewed for %v, it is cut off", wire.ErrUnavailable, age.Round(time.Second)))
			s.since = time.Now().Add(-age)
		}
	case s.cutOff:
		s.rejoined()
		return true
	}
	return false
}

// rejoined notes that the registry takes writes again.
func (s *staleness) rejoined() {
	s.cutOff = false
	s.markFresh()
}

func (s *staleness) close() {
	if s.logged {
		s.group.stale.Add(-1)
	}
}

// leaseAge is how old the newest lease in the bucket is, as a copy of the stream
// tells it. A copy that is cut off from the leader answers as ever, and its answers
// do not change any more. Nor do records, most of the time; but an announcer renews
// a lease every few seconds. Only sequences are compared, and times of our own
// clock.
type leaseAge struct {
	mu    sync.Mutex
	asked time.Time // when it was last asked for
	seq   uint64    // of the newest lease; 0: it is not known
	since time.Time // when seq was first told
	last  time.Time // and last
}

// due reports whether to query now; a caller that gets true must do so.
func (a *leaseAge) due() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.asked) < leaseEvery*9/10 {
		return false
	}
	a.asked = time.Now()
	return true
}

// observe takes in the sequence of the newest lease, 0 if there is none.
func (a *leaseAge) observe(seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = time.Now()
	if seq != a.seq || seq == 0 {
		a.seq, a.since = seq, a.last
	}
}

// age is for how long no lease was renewed, as far as is known.
func (a *leaseAge) age() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last.Sub(a.since)
}
