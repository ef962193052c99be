package selector

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Options configure [New]. The zero value is ready to use.
type Options struct {
	// Location of the caller. Default: what the environment says, see
	// [topology.Environment].
	Location topology.Location
	// Labels of the caller, for levels that are metadata keys.
	Labels map[string]string
	// Levels that make the circles, nearest first. Default zone, region.
	Levels topology.Levels
	// Strategy chooses inside the near set. Default [P2C].
	//
	// [LoadAware] hears the beats of instances on the connection given to
	// [New], on <Bucket>.beat.<service>.>; without one it is P2C.
	Strategy Strategy
	// NearSlack and NearFactor bound the near set: as far as the nearest of
	// the circle plus NearSlack, or NearFactor times as far, whichever is
	// more. Default 1ms and 1.25.
	NearSlack  time.Duration
	NearFactor float64
	// LoadHigh and LoadLow bound the load of a circle: this caller's calls in
	// flight per instance of its near set (by weight: one of twice the default
	// weight is two), on average over a second. Above LoadHigh the next circle
	// is added, below LoadLow it is left alone again. Default 2 and 0.4 of
	// LoadHigh. Negative LoadHigh: load never leaves a circle.
	LoadHigh float64
	LoadLow  float64
	// RampUp is the age at which an instance gets all that its weight says: it
	// begins with a tenth and grows evenly. Nearest and ConsistentHash do not
	// look at it. Default 30s. Negative: at once.
	RampUp time.Duration
	// FirstSnapshot is how long a pick waits for the first snapshot of a
	// service, if its context does not end before. Default 5s.
	FirstSnapshot time.Duration
	// Attempts is the number of instances that Do tries. Default 4.
	Attempts int
	// Backoff is the longest wait before the first retry, doubled for each
	// further one up to 64 times that; the wait is random below it, so that
	// callers do not retry together. Default 10ms.
	Backoff time.Duration
	// Budget is the share of calls to a service that may be retries; ten
	// retries a second are always allowed. Default 0.2. Negative: no retries.
	Budget float64
	// Breaker says when an instance is taken out. OnChange is called as well
	// as the selector's own hook.
	Breaker breaker.Settings
	// Probe is how instances are measured that do not say it themselves, see
	// [ProbeKey]. Default [ProbeConnect], and [ProbeNATS] for instances that
	// have no other endpoint.
	Probe ProbeKind
	// ProbeTLS is for probes of encrypted endpoints, and makes those of gRPC
	// endpoints encrypted. Default: none for gRPC, the system's certificates
	// for HTTPS.
	ProbeTLS *tls.Config
	// Latency says how distances are measured. Location is the selector's, and
	// Bus by default the registry's: what is measured is shared with the zone. OnChange is called as well as
	// the selector's own hook, with the name of the service.
	Latency latency.Options
	// Source of instances. Default: the registry's bucket in NATS.
	Source Source
	// Domain and Regions are those of the registry, where regions have one each,
	// see [kv.Options]. They, SnapshotDir and NoSuspects are for the default
	// Source. Default: there is one registry.
	Domain  string
	Regions []string
	// SnapshotDir is where the registry's last snapshots are kept, so that this
	// caller can start while NATS is away, see [kv.Options]. Default: nowhere.
	SnapshotDir string
	// NoSuspects removes instances whose leases end at once, also when many do
	// together, see [kv.Options].
	NoSuspects bool
	// Bucket of the registry, and the first token of the subjects of beats.
	// Default "proxima".
	Bucket string
	// OnPick is called with every pick, on the caller's goroutine: keep it
	// short. The pick is a copy that only tells: to end it does nothing.
	// Default none.
	OnPick func(Pick)
	// Logger. Default [slog.Default].
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Levels == nil {
		o.Levels = topology.DefaultLevels()
	}
	if o.Strategy == "" {
		o.Strategy = P2C
	}
	setDefault(&o.Probe, ProbeConnect)
	setDefault(&o.NearSlack, time.Millisecond)
	setDefault(&o.NearFactor, 1.25)
	setDefault(&o.LoadHigh, 2)
	setDefault(&o.LoadLow, max(0, table.LowOfHigh*o.LoadHigh))
	setDefault(&o.RampUp, 30*time.Second)
	setDefault(&o.FirstSnapshot, 5*time.Second)
	setDefault(&o.Attempts, 4)
	setDefault(&o.Backoff, 10*time.Millisecond)
	setDefault(&o.Budget, 0.2)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Latency.Logger == nil {
		o.Latency.Logger = o.Logger
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
	case !o.Probe.valid():
		return fmt.Errorf("selector: probe %q, want connect, http, http2, grpc, nats or none", o.Probe)
	case len(o.Levels) > maxLevels:
		return fmt.Errorf("selector: %d levels, want at most %d", len(o.Levels), maxLevels)
	case o.NearSlack < 0:
		return fmt.Errorf("selector: near slack %v, want at least 0s", o.NearSlack)
	case o.NearFactor < 1 || math.IsNaN(o.NearFactor):
		return fmt.Errorf("selector: near factor %v, want at least 1", o.NearFactor)
	case math.IsNaN(o.LoadHigh):
		return errors.New("selector: the high mark of load is not a number")
	case math.IsNaN(o.LoadLow), o.LoadLow < 0, o.LoadHigh > 0 && o.LoadLow >= o.LoadHigh:
		return fmt.Errorf("selector: low mark of load %v, want at least 0 and less than the high mark, %v", o.LoadLow, o.LoadHigh)
	case o.FirstSnapshot < 0:
		return fmt.Errorf("selector: wait for the first snapshot %v, want at least 0s", o.FirstSnapshot)
	case o.Attempts < 0:
		return fmt.Errorf("selector: %d attempts, want at least 1", o.Attempts)
	case o.Backoff < 0 || o.Backoff > time.Hour:
		return fmt.Errorf("selector: backoff %v, want 0s to 1h", o.Backoff)
	case math.IsNaN(o.Budget):
		return errors.New("selector: the retry budget is not a number")
	}
	return nil
}

// maxLevels leaves room for the circles in a byte.
const maxLevels = 32

// Request is what one pick asks for.
type Request struct {
	// Service to call.
	Service string
	// Protocol that the instance must have an endpoint of ([events.HTTP] …).
	// Default: any.
	Protocol string
	// From is the place that is to be near, when it is not the selector's own.
	From *topology.Location
	// Key is what [ConsistentHash] hashes. Other strategies ignore it.
	Key string
	// Avoid lists ids of instances that are not wanted. If there is no other,
	// none is picked.
	Avoid []string
	// NonIdempotent makes Do retry only when nothing was sent.
	NonIdempotent bool

	// tried were picked before for the same call. From the third attempt on
	// the nearest circle is not the first to be asked.
	tried []*table.Node
}
