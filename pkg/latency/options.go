package latency

import (
	"context"
	"crypto/rand"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/probe"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// farShare is how much of the budget those may take that are measured as rarely
// as can be.
const farShare = 0.25

// Bus carries what callers and instances tell each other. *kv.Bus is one, on
// NATS. Its methods are safe for concurrent use.
type Bus interface {
	// Publish sends data to whoever listens now or asks within two minutes,
	// and does not wait for anybody.
	Publish(subject string, data []byte) error
	// Subscribe calls handle with what is published on a subject (in which
	// the last token may be "*") until stop is called: first, before it
	// returns and as far as ctx allows, with the last message of the past two
	// minutes on each, and how old that is. Calls come one at a time.
	Subscribe(ctx context.Context, subject string, handle func(subject string, data []byte, age time.Duration)) (stop func(), err error)
	// Request sends data to the one who answers on the subject, and waits.
	Request(ctx context.Context, subject string, data []byte) ([]byte, error)
}

// Caller is the process that measures: where it is, and how it reaches others.
// The zero value shares nothing.
type Caller struct {
	// Location of this process. Measurements are shared within a zone: without
	// one they are kept.
	Location topology.Location
	// Bus to share measurements on, and coordinates. Default: none, nothing
	// is shared.
	Bus Bus
	// Reporter names this process to others: [A-Za-z0-9_-], 1 to 63 long.
	// Default: random.
	Reporter string
	// Logger receives paths that fail, at level debug. Default [slog.Default].
	Logger *slog.Logger
}

func (c Caller) withDefaults() Caller {
	if c.Reporter == "" {
		c.Reporter = strings.ToLower(rand.Text()[:16])
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Options say how often, and in which way, distances are measured. The zero
// value is ready to use.
type Options struct {
	// Interval is the time in which each instance that may be picked is
	// measured PerInterval times by the zone together; others less often.
	// Default 10s.
	Interval time.Duration
	// PerInterval is how many measurements of an instance a zone makes in each
	// Interval, however many callers there are. Default 2.
	PerInterval int
	// Budget is how many probes this process may make in a minute for one
	// group (a service), first probes and confirmations included. If that is
	// less than its part of the work, everything is measured less often.
	// Default 30, negative: no bound.
	Budget float64
	// Timeout of one probe. Default 2s. A path whose distance is known gets
	// less: four times that and 250ms.
	Timeout time.Duration
	// Concurrency is how many probes may be in flight. Default 16.
	Concurrency int
	// Fresh is how long a sample counts. Default 30s, or three Intervals if
	// that is longer. For an instance that is measured rarely it is three
	// times the time in which that happens.
	Fresh time.Duration
	// Window is the largest number of own samples in the median. Default 5.
	Window int
	// Dial opens the connection that is timed. It must end with its context.
	// Default: a [net.Dialer]; a host name is then resolved before the clock
	// starts, so that the name server's distance is not taken for the
	// instance's.
	Dial probe.Dial
	// NoShare neither sends others what was measured nor listens to them.
	NoShare bool
	// NoCoordinates neither predicts distances nor helps others to.
	NoCoordinates bool
}

func (o Options) withDefaults() Options {
	orDefault(&o.Interval, 10*time.Second)
	orDefault(&o.PerInterval, 2)
	orDefault(&o.Timeout, 2*time.Second)
	orDefault(&o.Concurrency, 16)
	orDefault(&o.Fresh, max(30*time.Second, 3*o.Interval))
	orDefault(&o.Window, 5)
	if o.Budget == 0 {
		o.Budget = 30
	}
	return o
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// burst is how many probes may be made at once, and rate how many flow in per
// second, 0 for no bound: together twice the budget in two minutes.
func (o *Options) burst() float64 { return max(o.Budget/2, 1) }
func (o *Options) rate() float64  { return max(o.Budget*3/4/60, 0) }

// stretch is by how much everything must be measured less often for the
// budgets to suffice: the demand, in measurements a second, is shared. A part
// of a budget is left for first probes and confirmations.
func (o *Options) stretch(demand float64, reporters int) float64 {
	if o.Budget < 0 || demand <= 0 {
		return 1
	}
	return max(1, demand/float64(reporters)/(0.95*o.rate()))
}

// period is the time in which an instance of that weight is measured PerInterval
// times. Among several reporters it is in steps, so that those who see an
// instance a little differently still agree.
func (o *Options) period(weight, stretch float64, reporters int, longest time.Duration) time.Duration {
	times := max(stretch/weight, 1)
	if reporters > 1 {
		times = math.Exp2(math.Ceil(2*math.Log2(times)-0.01) / 2)
	}
	return min(time.Duration(float64(o.Interval)*times), max(longest, o.Interval))
}

// longest is the longest period of n instances: an hour, or as much as keeps the
// work for the far ones, of whom there may be very many, a small part of it.
func (o *Options) longest(n, reporters int) time.Duration {
	if o.rate() <= 0 {
		return maxPeriod
	}
	seconds := float64(n*o.PerInterval) / (farShare * o.rate() * float64(reporters))
	return max(maxPeriod, time.Duration(seconds*float64(time.Second)))
}

// maxUnproven is how many probes in flight may be of paths that did not answer
// the last time.
func (o *Options) maxUnproven() int { return (o.Concurrency + 1) / 2 }

// timeout is how long a probe may take.
func (o *Options) timeout(measured time.Duration) time.Duration {
	if measured <= 0 {
		return o.Timeout
	}
	return min(4*measured+250*time.Millisecond, o.Timeout)
}

// retry is the pause after that many failures in a row.
func (o *Options) retry(failures int) time.Duration {
	longest := max(o.Interval, min(6*o.Interval, maxRetryPause))
	d := min(retryPause, o.Interval)
	for range failures - 1 {
		if d >= longest {
			break
		}
		d *= 2
	}
	return min(d, longest)
}
