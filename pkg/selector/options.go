package selector

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Options configure [New]. The zero value is ready to use.
type Options struct {
	// Location of the caller, with the names that instances announce: see
	// [topology.Location.Validate]. Default: PROXIMA_REGION, PROXIMA_ZONE and the other
	// variables of [topology.Environment].
	Location topology.Location
	// Labels of the caller, for levels that are metadata keys.
	Labels map[string]string
	// Levels that make the circles, nearest first. Default: zone, region. An empty,
	// non-nil value makes one circle of the whole service. A metadata key may stand
	// anywhere: Levels{topology.Zone, "carrier", topology.Region} prefers the own
	// zone, then instances of the own carrier, then the own region.
	Levels topology.Levels
	// Sockets is the directory below which unix sockets of instances may be called, such
	// as /run/proxima: of those whose location has the same host as Location. Default: none,
	// as an address in a record must not lead a caller to any socket of its host.
	Sockets string
	// Strategy chooses among the instances of a near set. Default [P2C].
	Strategy Strategy
	// Near bounds which instances of a circle count as equally near.
	Near Near
	// Spill is when calls leave a circle for a farther one.
	Spill Spill
	// Ramp is how new instances get their share of the calls.
	Ramp Ramp
	// FirstSnapshot is how long a pick waits for the first snapshot of a
	// service, if its context does not end before. Default 5s.
	FirstSnapshot time.Duration
	// Retry bounds how often [Selector.Do] tries.
	Retry Retry
	// Breaker decides when an instance is taken out. Breaker.OnChange is called after
	// the selector's own hook.
	Breaker breaker.Settings
	// Bulkhead bounds the calls in flight. Default: they are not bounded.
	Bulkhead Bulkhead
	// Probe is how distances to instances are measured.
	Probe Probe
	// Latency is how often distances are measured.
	Latency latency.Options
	// Registry is what [New] opens when Source is nil. Its Logger is
	// Logger by default. Registry.Bucket also begins the subjects of beats and
	// pings, whatever the Source.
	Registry kv.Options
	// Source lists the instances. Default: the registry that New opens.
	Source Source
	// OnPick is called with every pick, on the goroutine of the caller: keep it
	// short. It gets a copy: Done and DoneAfter of it do nothing.
	OnPick func(Pick)
	// Logger. Default [slog.Default].
	Logger *slog.Logger
}

// Near bounds the near set of a circle: the instances no farther than the nearest
// one plus Slack, or than Factor times its distance, whichever is more.
type Near struct {
	// Slack is by default 1ms, and 0.2ms where no zone is known, of the caller or of any
	// instance: what zones differ by must not count as equally near then.
	Slack  time.Duration
	Factor float64 // default 1.25
}

// Spill is when calls leave the nearest circle that has usable instances. A call leaves
// only when it gains: the circle is overloaded, and a call is expected to end sooner in
// the next circle, by a tenth, by a millisecond, and by Price. A circle is overloaded
// when its calls take more than twice their unloaded time, when it rejects calls, or,
// with [LoadAware], when its instances report a queue. Only the excess leaves.
type Spill struct {
	// Off keeps calls in a circle however loaded it is, while it has usable instances.
	Off bool
	// Price is how much sooner a call must end for each circle that it goes farther, for
	// example what traffic between zones costs. Default 0.
	Price time.Duration
	// Within is a level that calls never leave, for example [topology.Region]: instances
	// outside of it are not picked, even if there are no others. Default: none.
	Within topology.Level
	// Regions are the regions that are tried after those of Levels, in this order,
	// before all others. Default: by distance.
	Regions []string
}

// Ramp is how an instance that has become usable gets its share: a tenth of its
// weight at first, all of it after Up. Nearest and ConsistentHash ignore it.
type Ramp struct {
	// Up is how long it takes until an instance has all of its weight. Default 30s.
	// Negative: at once.
	Up time.Duration
	// Now is the clock by which instances state when they started. Default: that
	// of the *kv.Registry that lists them; with any other Source, of this process.
	Now func() time.Time
}

// Retry bounds the retries of [Selector.Do], and says what the ends of calls mean.
type Retry struct {
	// Classify says what the error of a call, which is not nil, tells about the
	// instance: a failure, or that it works. It is called on the goroutine of the
	// caller. Default [Classify]; call that for errors that are not known to you.
	Classify func(error) Outcome

	// Attempts is the number of instances that are tried. Default 4.
	Attempts int
	// Backoff is the longest wait before the first retry, doubled for each further
	// one up to 64 times that. The wait is random below it, so that callers do not
	// retry together. Default 10ms.
	Backoff time.Duration
	// Budget is the share of the calls to a service that may be retries. It has no
	// window: each call saves so much of a retry, up to 100 retries, and each retry
	// takes one. Ten retries a second are always allowed. Default 0.2. Negative: no
	// retries.
	Budget float64
}

// Probe is how instances are measured.
type Probe struct {
	// Kind is for instances that do not choose by [ProbeKey]. Default
	// [ProbeConnect], and [ProbeNATS] for instances that have no other endpoint.
	Kind ProbeKind
	// TLS is for encrypted endpoints, and makes probes of gRPC endpoints encrypted.
	// Default: the system's certificates for HTTPS, no encryption for gRPC.
	TLS *tls.Config
	// Bus on which the callers of a zone share what they measure. Default: that of
	// the *kv.Registry that lists the instances; with any other Source, none.
	Bus latency.Bus
}

func (o Options) withDefaults() (Options, error) {
	if o.Levels == nil {
		o.Levels = topology.DefaultLevels()
	}
	if o.Strategy == "" {
		o.Strategy = P2C
	}
	setDefault(&o.Probe.Kind, ProbeConnect)
	setDefault(&o.Near.Factor, 1.25)
	setDefault(&o.Ramp.Up, rampUp)
	setDefault(&o.FirstSnapshot, firstSnapshot)
	if o.Retry.Classify == nil {
		o.Retry.Classify = Classify
	}
	setDefault(&o.Retry.Attempts, 4)
	setDefault(&o.Retry.Backoff, backoff)
	setDefault(&o.Retry.Budget, 0.2)
	setDefault(&o.Registry.Bucket, kv.DefaultBucket)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Registry.Logger == nil {
		o.Registry.Logger = o.Logger
	}
	o.Location.Normalize()
	return o, o.validate()
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (o *Options) validate() error {
	if _, err := ParseStrategy(string(o.Strategy)); err != nil {
		return err
	}
	names := make([]string, len(o.Levels))
	for i, l := range o.Levels {
		names[i] = string(l)
	}
	if _, err := topology.ParseLevels(names...); err != nil {
		return fmt.Errorf("selector: %w", err)
	}
	switch {
	case !o.Probe.Kind.valid():
		return fmt.Errorf("selector: probe %q, want connect, http, http2, grpc, nats or none", o.Probe.Kind)
	case len(o.Levels) > maxLevels:
		return fmt.Errorf("selector: %d levels, want at most %d", len(o.Levels), maxLevels)
	case o.Near.Slack < 0:
		return fmt.Errorf("selector: near slack %v, want at least 0s", o.Near.Slack)
	case o.Near.Factor < 1 || math.IsNaN(o.Near.Factor):
		return fmt.Errorf("selector: near factor %v, want at least 1", o.Near.Factor)
	case o.Spill.Price < 0:
		return fmt.Errorf("selector: spill price %v, want at least 0s", o.Spill.Price)
	case o.Spill.Within != "" && !slices.Contains(o.Levels, o.Spill.Within):
		return fmt.Errorf("selector: calls stay within %q, want one of the levels %q", o.Spill.Within, o.Levels)
	case len(o.Levels)+len(o.Spill.Regions) > maxLevels:
		return fmt.Errorf("selector: %d levels and %d regions in order, want at most %d together", len(o.Levels), len(o.Spill.Regions), maxLevels)
	case o.FirstSnapshot < 0:
		return fmt.Errorf("selector: wait for the first snapshot %v, want at least 0s", o.FirstSnapshot)
	case o.Retry.Attempts < 0:
		return fmt.Errorf("selector: %d attempts, want at least 1", o.Retry.Attempts)
	case o.Retry.Backoff < 0 || o.Retry.Backoff > time.Hour:
		return fmt.Errorf("selector: backoff %v, want 0s to 1h", o.Retry.Backoff)
	case math.IsNaN(o.Retry.Budget):
		return errors.New("selector: the retry budget is not a number")
	}
	if err := o.Bulkhead.validate(); err != nil {
		return err
	}
	// An instance cannot be at a place with another name, so nothing would be near.
	if err := o.Location.Validate(); err != nil {
		return fmt.Errorf("selector: Options.Location: %w", err)
	}
	if s := o.Sockets; s != "" && (s[0] != '/' || s == "/" || path.Clean(s) != s) {
		return fmt.Errorf("selector: Sockets: %q, want an absolute path of a directory, such as /run/proxima", s)
	}
	for _, region := range o.Spill.Regions {
		if err := (topology.Location{Region: region}).Validate(); err != nil || region == "" {
			return fmt.Errorf("selector: Spill.Regions: region %q: %s", region, topology.NameRule)
		}
	}
	return nil
}

// maxLevels leaves room for the circles in a byte.
const maxLevels = 32

// Request is what one pick asks for.
type Request struct {
	// Service to call.
	Service string
	// Protocol that the instance must have an endpoint of ([events.HTTP] …), or an
	// endpoint with a name, such as http.admin. Default: any; call then looks which
	// endpoints the instance has. A selector tells 23 named endpoints of a service apart.
	Protocol string
	// From is the place that is to be near, with names as in [Options.Location].
	// Default: the selector's own.
	From *topology.Location
	// Where says which instances the call is for, as an expression such as
	// "version>=1.4,team in (a,b),!canary": see [subset]. Picks and retries stay among
	// those. If none of them is usable the pick fails, unless the policy of the service has
	// the fallback "any". Of a service 64 expressions have tables at a time. Default: what
	// the policy says, else all instances; so does not " ", which is for all.
	Where string
	// Strategy chooses among the instances of the near set. Default: that of the service.
	Strategy Strategy
	// Header returns what the request that is made says under the name of a header, empty if
	// nothing, such as the method Get of [net/http.Header]. The policy of the service may
	// read keys there (a cookie is in the header Cookie), and what its overrides want.
	// Default: the call has none.
	Header func(name string) string
	// Timeout is how long a call of DoFor may take with all its attempts. Default: what the
	// policy says, else all of the time of the context. Negative: no limit but that.
	Timeout time.Duration
	// AttemptTimeout is how long one attempt may take, if another instance may get the call
	// and that long is left for it, see [Pick.AfterSlow]. Default: what the policy says,
	// else until the instance seems to hang. Negative: all of the time of the call.
	AttemptTimeout time.Duration
	// Key is what [ConsistentHash] hashes. Calls without a key are spread by weight. Other
	// strategies ignore it.
	Key string
	// DefaultKey is the Key of a request in which the policy of the service finds none.
	DefaultKey string
	// Avoid lists instances that are not picked. Each is an ID, which excludes the
	// instances of that ID in all zones; or zone/ID, or the text of an
	// [events.Key], which exclude one: IDs are unique in a zone only. If all others
	// are excluded too, the pick fails.
	Avoid []string
	// Wait makes a pick wait until there is an instance that can be picked, or the
	// context ends; then the error is that of a pick that does not wait, with the
	// context's. It does not wait longer than [Options.FirstSnapshot] for the first list
	// of the service. Default: such a pick fails at once.
	Wait bool
	// Hedge makes DoFor call a second instance too when the first one has not answered in
	// the time in which 95 % of the successes of the service end. Until a success is known
	// no call is hedged; after the first it is twice what that took. The first attempt that
	// succeeds counts, and DoFor waits for the other one, which [Pick.Try] or [OnHedged]
	// tell to end. So the function may run in two goroutines at a time. The retry budget
	// bounds it. Ignored with NonIdempotent.
	Hedge bool
	// MayHedge says that the function may run in two goroutines at a time, so that a policy
	// can have calls hedged.
	MayHedge bool
	// NonIdempotent makes Do retry only when nothing was sent.
	NonIdempotent bool

	// tried were picked before for the same call. From the third attempt on
	// the nearest circle is not the first to be searched.
	tried []*table.Node

	to      *target // where the call goes, if decided is set; nil: to all instances
	decided bool

	full  bool // what the last pick could have taken is full
	hurry bool // it must not wait for a place
}

// checkFrom returns an error for a place where no instance can be.
func (r *Request) checkFrom() error {
	if r.From == nil || r.From.Validate() == nil {
		return nil
	}
	from := *r.From
	from.Normalize()
	if err := from.Validate(); err != nil {
		return fmt.Errorf("selector: Request.From: %w", err)
	}
	r.From = &from
	return nil
}

// Strategy chooses among the instances of a near set.
type Strategy string

// The strategies.
const (
	// P2C draws two at random, by weight, and takes the one with less load: calls in
	// flight times their average duration, divided by weight. (Mitzenmacher, The Power
	// of Two Choices in Randomized Load Balancing, 2001.)
	P2C Strategy = "p2c"
	// Nearest takes the one at the least distance, whatever its weight.
	Nearest Strategy = "nearest"
	// RoundRobin takes one after the other, whatever their weights.
	RoundRobin Strategy = "round_robin"
	// WeightedRoundRobin takes one after the other, each in exact proportion to its
	// weight and evenly spread in time.
	WeightedRoundRobin Strategy = "weighted_round_robin"
	// Random draws one by weight.
	Random Strategy = "random"
	// LeastRequest draws two at random, by weight, and takes the one with fewer calls in
	// flight, divided by weight.
	LeastRequest Strategy = "least_request"
	// ConsistentHash takes the same instance for the same [Request.Key], as long as the
	// usable instances of the circle stay the same and that instance has at most 1.25
	// times its share of this caller's calls in flight. Keys are divided among the whole
	// circle, in proportion to weights, so all callers of a zone agree, whatever each of
	// them measures: no circle is demoted. The cost is distance: calls go to the farther instances of the circle
	// as often as to the nearest. [Near.Slack] bounds that where it is set, and then
	// callers differ about keys when an instance is at that bound. Callers in different
	// zones have different circles: for one instance per key everywhere, use an empty
	// Options.Levels. Spill.Regions makes a circle of each region outside the own one.
	ConsistentHash Strategy = "consistent_hash"
	// LoadAware draws two at random and takes the one with the higher score, which has
	// more to spare: 0.4 (1-cpu) + 0.4 (1-memory) + 0.2 / (1+queue), 1 for an idle
	// instance. It comes from the load reports (beats) that instances send on
	// <bucket>.beat.<service>.>. If the scores are about equal, or one is older than
	// 15 s, P2C decides. Beats come on the connection given to [New]; without one
	// LoadAware is P2C.
	LoadAware Strategy = "load_aware"
)

// Strategies returns all strategies.
func Strategies() []Strategy {
	all := make([]Strategy, 0, len(table.KindNames))
	for _, name := range table.KindNames {
		all = append(all, Strategy(name))
	}
	return all
}

// ParseStrategy checks a name given by a user.
func ParseStrategy(name string) (Strategy, error) {
	if s := Strategy(name); slices.Contains(Strategies(), s) {
		return s, nil
	}
	var names []string
	for _, s := range Strategies() {
		names = append(names, string(s))
	}
	return "", fmt.Errorf("selector: strategy %q, want one of %s", name, strings.Join(names, ", "))
}

// Source lists the instances of services. *kv.Registry is one, [Static] makes
// another.
type Source interface {
	// Watch calls apply with a complete snapshot of a service at first and after
	// every change, one call at a time, until ctx ends.
	Watch(ctx context.Context, service string, apply func(events.Snapshot)) error
}

// Static is a Source that lists these instances and never changes, for tests
// without NATS. An instance needs a Service and an ID; its Status is up and its
// Weight the default if they are not set. Of two with one key the last one counts.
func Static(instances ...events.Instance) Source {
	s := static{}
	for _, in := range instances {
		in.Status = cmp.Or(in.Status, events.Up)
		in.Weight = cmp.Or(in.Weight, events.DefaultWeight)
		s[in.Service] = append(s[in.Service], events.Entry{Instance: &in})
	}
	for service, entries := range s {
		slices.SortStableFunc(entries, func(a, b events.Entry) int { return a.Compare(b.Instance) })
		last := entries[:0]
		for i, e := range entries {
			if i+1 == len(entries) || e.Key() != entries[i+1].Key() {
				last = append(last, e)
			}
		}
		s[service] = last
	}
	return s
}

type static map[string][]events.Entry

func (s static) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	apply(events.Snapshot{Service: service, Entries: s[service]})
	<-ctx.Done()
	return nil
}
