package selector

import (
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// Stats is what a selector knows and has counted since its start, for metrics.
type Stats struct {
	Services []ServiceStats // those that were asked for and whose list is known, by name
	// Latency counts probes, and what other callers published that was rejected.
	Latency latency.Counts
	// InvalidBeats counts beats that were ignored because they are malformed, or
	// came on the subject of another service.
	InvalidBeats uint64
}

// Health is whether a selector receives changes of the registry.
type Health struct {
	// Err is nil while the selector receives changes. Otherwise it is why the registry
	// cannot be read, in the words of the server if it gave a reason. When it matches
	// [nats.ErrConnectionClosed] the connection is closed for good: make a new selector
	// with another connection.
	Err error
	// Stale is set while a service is picked from its last known list. StaleSince is when
	// the registry last answered; zero: not known.
	Stale      bool
	StaleSince time.Time
	// Services is how many services were asked for and have a known list.
	Services int
}

// ServiceStats is the part of [Stats] about one service.
type ServiceStats struct {
	Service    string
	Stale      bool      // the registry is out of reach: this is the last known list
	StaleSince time.Time // when the registry was last heard, if Stale; zero: not known

	Retries        uint64 // attempts of [Selector.Do] after the first one of a call
	RefusedRetries uint64 // those that were not made because of [Retry.Budget]
	SlowAttempts   uint64 // attempts that ended with [ErrSlow], which are in Outcomes too
	Hedges         uint64 // second attempts beside the first, see [Request.Hedge]
	ForgottenCalls uint64 // that did not end for ten minutes and are no load any more: streams, or Done was forgotten

	// Rules are those of policies, and the expressions of requests, by which calls went to
	// subsets since the start.
	Rules []RuleStats
	// Mirrored counts the copies of calls that were made, see [Selector.Mirror], and
	// DroppedMirrors those that could not be: too many were on their way, no instance of the
	// mirror was usable, or the call cannot be made twice.
	Mirrored, DroppedMirrors uint64
	// RefusedCalls ended with a *[FullError], and QueuedCalls waited for a place, with either
	// end, see [Bulkhead]. Each attempt counts by itself. Waiting is how many wait now.
	RefusedCalls, QueuedCalls uint64
	Waiting                   int

	// Circles from the selector's own place, nearest first, also those without
	// instances. BestMS, DistanceSource, Load and Note are not set.
	Circles []Circle
}

// RuleStats counts the calls that one rule sent to a subset.
type RuleStats struct {
	Rule      string // override, split, where; request: the expression was that of the request
	Where     string // the subset; empty for those of requests, of which there may be many
	Calls     uint64
	Fallbacks uint64 // of them, those that another instance got, as none of the subset was usable
}

// Circle is one circle of a service: how many instances it has, what they are good
// for, and what part of the picks it takes. Each instance is counted in Instances
// and in exactly one of Usable to Outside.
//
// Its JSON is part of an [Explanation].
type Circle struct {
	Name      string `json:"circle"` // zone, region … or elsewhere
	Instances int    `json:"instances"`
	Usable    int    `json:"usable"`

	Open          int `json:"-"` // breakers
	LastResort    int `json:"-"` // with the weight 0
	Unreachable   int `json:"-"` // that do not answer probes
	Draining      int `json:"-"`
	NotReady      int `json:"-"`
	Suspect       int `json:"-"` // leases that ended, with nothing that proves the instance dead
	Evacuated     int `json:"-"` // in places that an operator evacuated
	Dead          int `json:"-"` // see [Standing]
	OtherProtocol int `json:"-"` // without an endpoint of the requested protocol
	Outside       int `json:"-"` // where calls must not go, see [Spill]

	// Share is the part of the picks that begin there, 0 to 1.
	Share float64 `json:"share"`
	// BestMS is the distance of its nearest instance, of those in the best
	// state, and DistanceSource how it is known.
	BestMS         float64 `json:"best_ms"`
	DistanceSource string  `json:"distance_source"`
	// Demoted is set while a circle that the labels put farther away is tried
	// before it, because that one is measured to be much nearer.
	Demoted bool `json:"demoted"`
	// Load is this caller's calls in flight per instance of the near set, by
	// weight.
	Load float64 `json:"load"`
	Note string  `json:"note"` // why Share is neither 0 nor 1, or what else is special

	Picks    uint64 `json:"-"` // since the start; only in Stats
	InFlight int    `json:"-"` // calls; only in Stats
	// Limit is how many calls may be in flight to its instances together, 0 if any number
	// may, and Full how many instances have as many as they may; only in Stats.
	Limit int `json:"-"`
	Full  int `json:"-"`
	// Outcomes are the calls that have ended, by [Outcome]; only in Stats. A call whose
	// instance has answered is a Success.
	Outcomes [table.NumOutcomes]uint64 `json:"-"`
	// BrokenAnswers are those of the Successes that failed after the answer had begun;
	// only in Stats.
	BrokenAnswers uint64 `json:"-"`
	// TimedCalls are successes whose duration was measured, and TimedTotal is the sum of
	// the durations; only in Stats. Of many calls one of eight is measured; with
	// strategies that need no durations, fewer.
	TimedCalls uint64        `json:"-"`
	TimedTotal time.Duration `json:"-"`
	// Durations are the TimedCalls by duration: those up to each of [DurationBounds] that are
	// in no earlier one, and the longer ones.
	Durations [len(table.Bounds) + 1]Durations `json:"-"`
}

// Durations are calls of about the same duration.
type Durations struct {
	Calls uint64
	Total time.Duration // the sum of their durations
}

// DurationBounds are the bounds of [Circle.Durations], 0.5 ms to 10 s.
func DurationBounds() []time.Duration { return slices.Clone(table.Bounds[:]) }

// circleOf counts the instances of a circle.
func circleOf(t *table.Table, index uint8) Circle {
	return Circle{
		Name: t.Name(index), Instances: t.Instances(index), Usable: t.Count(index, table.Usable),
		Open: t.Count(index, table.Open), Draining: t.Count(index, table.Draining, table.DrainingOpen), NotReady: t.Count(index, table.NotReady),
		Suspect: t.Count(index, table.Suspect), LastResort: t.Count(index, table.LastResort), Unreachable: t.Count(index, table.Unreachable), Evacuated: t.Count(index, table.Evacuated, table.EvacuatedOpen),
		Dead: t.Count(index, table.Dead, table.Gone), OtherProtocol: t.Count(index, table.OtherProtocol), Outside: t.Count(index, table.Outside),
	}
}

// stats are not known before the first snapshot.
func (svc *service) stats() (ServiceStats, bool) {
	svc.mu.Lock()
	defer svc.mu.Unlock()
	t := svc.rules.Load().homes.by[0].Load().table.Load()
	if t == nil {
		return ServiceStats{}, false
	}
	s := ServiceStats{Service: svc.name, Stale: svc.members.stale, StaleSince: svc.since, Circles: make([]Circle, len(svc.Layout().Assumed))}
	for i := range s.Circles {
		c := circleOf(t, uint8(i))
		c.Picks, c.Share, c.Demoted = svc.members.leftPicks[i], t.Share(uint8(i)), t.Demoted(uint8(i))
		s.Circles[i] = c
	}
	for i := range svc.members.list {
		m := &svc.members.list[i]
		s.Circles[m.Circle].Picks += m.Picks()
		s.Circles[m.Circle].InFlight += int(m.InFlight())
		s.Circles[m.Circle].Limit += int(m.Limit())
		if m.Full() {
			s.Circles[m.Circle].Full++
		}
	}
	for i := range s.Circles {
		s.ForgottenCalls += svc.count(&s.Circles[i], i)
	}
	s.Rules = svc.subsets.stats()
	s.Mirrored, s.DroppedMirrors = svc.mirrored.Load(), svc.mirrorsDropped.Load()
	s.RefusedCalls, s.QueuedCalls, s.Waiting = svc.places.shed.Load(), svc.places.queued.Load(), svc.places.queue.Waiting()
	s.Retries, s.RefusedRetries, s.SlowAttempts, s.Hedges = svc.retries.Load(), svc.refused.Load(), svc.Slow.Load(), svc.hedges.Load()
	return s, true
}

// count fills in how the calls of a circle ended, and returns how many were forgotten.
func (svc *service) count(c *Circle, i int) (forgotten uint64) {
	counts := svc.Layout().Counts[i*int(table.NumCounts):][:table.NumCounts]
	forgotten = counts[table.Forgotten].Load()
	others := forgotten
	for o := table.Success + 1; o < table.NumOutcomes; o++ {
		c.Outcomes[o] = counts[o].Load()
		others += c.Outcomes[o]
	}
	// What has ended and was counted as nothing else. Calls end meanwhile: the number
	// must not fall for that.
	ended := c.Picks - min(c.Picks, uint64(c.InFlight)) // copies of calls are in flight too, and no picks
	before := &svc.members.succeeded[i]
	*before = max(*before, ended-min(ended, others))
	c.Outcomes[Success], c.BrokenAnswers = *before, counts[table.Broken].Load()
	for b := range c.Durations {
		d := &c.Durations[b]
		d.Calls, d.Total = svc.Layout().Durations[i].Load(b)
		c.TimedCalls += d.Calls
		c.TimedTotal += d.Total
	}
	return forgotten
}
