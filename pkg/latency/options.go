package latency

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/probe"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// farShare is the share of the budget that instances with the longest period may
// take together.
const farShare = 0.25

// Bus carries the messages between callers, and between callers and instances.
// *kv.Bus is one, on NATS. Its methods are safe for concurrent use.
type Bus interface {
	// Publish sends data to the subscribers of now and of the next two minutes.
	// It does not wait for them.
	Publish(subject string, data []byte) error
	// Subscribe calls handle with each message on a subject until stop is
	// called. The last token of the subject may be "*". Before it returns, and
	// as long as ctx lasts, it calls handle with the last message of the past
	// two minutes on each subject, and its age. Calls come one at a time.
	Subscribe(ctx context.Context, subject string, handle func(subject string, data []byte, age time.Duration)) (stop func(), err error)
	// Request sends data to the responder of a subject and waits for its answer.
	Request(ctx context.Context, subject string, data []byte) ([]byte, error)
}

// Caller is what a [Prober] must know of its process. A program fills it in, not
// the program's user. The zero value shares nothing.
type Caller struct {
	// Location of this process. Measurements are shared within a zone, and not
	// at all without one.
	Location topology.Location
	// Bus to share measurements and coordinates on. Default: none, nothing is
	// shared.
	Bus Bus
	// Reporter is the name of this process to the others: [A-Za-z0-9_-], 1 to 63
	// long. Default: random.
	Reporter string
	// Logger gets paths that fail, at level debug. Default [slog.Default].
	Logger *slog.Logger
}

func (c Caller) withDefaults() Caller {
	c.Reporter = cmp.Or(c.Reporter, strings.ToLower(rand.Text()[:16]))
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

// Options are how often and how distances are measured: what a user may set. The
// zero value is ready to use.
type Options struct {
	// Interval is the time in which the callers of a zone together measure each
	// instance that may be picked PerInterval times. The others are measured less
	// often, and those of a service that was not called for ten minutes a tenth as
	// often, after an hour not at all, see [Group.Used]. Default 10s.
	Interval time.Duration
	// PerInterval is how many measurements of an instance a zone makes in each
	// Interval, however many callers there are. Default 2.
	PerInterval int
	// Budget is how many probes this process may make in a minute for one group
	// (a service), first probes and confirmations included. If its part of the
	// work is more, all instances are measured less often. Default 30. Negative:
	// no bound.
	Budget float64
	// TotalBudget is how many probes this process may make in a minute for all
	// groups together, a twelfth of it at once. A group that needs little gets that;
	// the others share the rest equally, and measure all of their instances less
	// often. Default 1200, twenty a second: so 40 services may use their whole
	// Budget, while a gateway with thousands of services opens no more connections
	// than that, and has no more than some 1,200 of them in TIME_WAIT. Negative, or
	// by default if Budget is: no bound.
	TotalBudget float64
	// Timeout of one probe. Default 2s. For a path with a measured distance it is
	// four times that and 250ms, if that is less.
	Timeout time.Duration
	// Concurrency is how many probes may be in flight. Default 16.
	Concurrency int
	// Fresh is how long a sample counts. Default 30s, or three Intervals if that
	// is longer. For an instance that is measured rarely it is three times its
	// period.
	Fresh time.Duration
	// Window is the largest number of own samples in the median. Default 5.
	Window int
	// Dial opens the connections of probes. It must end with its context.
	// Default: a [net.Dialer], and host names are resolved before the clock
	// starts, see [probe.Connect].
	Dial probe.Dial
	// NoShare switches sharing off: this process neither publishes measurements
	// nor reads those of others.
	NoShare bool
	// NoCoordinates switches coordinates off: no distance is predicted, and no
	// instance is pinged.
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
	switch {
	case o.TotalBudget != 0:
	case o.Budget < 0:
		o.TotalBudget = -1
	default:
		o.TotalBudget = 1200
	}
	return o
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// burst is how many tokens for probes there may be, and rate how many are added in
// a second, 0 for no bound: together twice the budget in two minutes.
func (o *Options) burst() float64 { return max(o.Budget/2, 1) }
func (o *Options) rate() float64  { return max(o.Budget*3/4/60, 0) }

// stretch is the factor by which all periods grow so that the budgets suffice for
// the demand, in measurements a second, which the reporters share. Rate is the budget
// of one, in probes a second, 0 for no bound. A part of it is left for urgent probes.
func stretch(demand float64, reporters int, rate float64) float64 {
	if rate <= 0 || demand <= 0 {
		return 1
	}
	return max(1, demand/float64(reporters)/(0.95*rate))
}

// period is the time in which an instance of a weight is measured PerInterval
// times. With several reporters it is one of few values, so that they agree though
// their distances differ a little.
func (o *Options) period(weight, stretch float64, reporters int, longest time.Duration) time.Duration {
	times := max(stretch/weight, 1)
	if reporters > 1 {
		times = math.Exp2(math.Ceil(2*math.Log2(times)-0.01) / 2)
	}
	return min(time.Duration(float64(o.Interval)*times), max(longest, o.Interval))
}

// longest is the longest period of n instances: maxPeriod, or longer, so that very
// many far instances take no more than farShare of the budget.
func (o *Options) longest(n, reporters int, rate float64) time.Duration {
	if rate <= 0 {
		return maxPeriod
	}
	seconds := float64(n*o.PerInterval) / (farShare * rate * float64(reporters))
	return max(maxPeriod, time.Duration(seconds*float64(time.Second)))
}

// maxUnproven is how many probes of unproven paths may be in flight.
func (o *Options) maxUnproven() int { return (o.Concurrency + 1) / 2 }

// timeout is how long a probe of a path with that measured distance may take.
func (o *Options) timeout(measured time.Duration) time.Duration {
	if measured <= 0 {
		return o.Timeout
	}
	return min(4*measured+250*time.Millisecond, o.Timeout)
}

// retry is the pause after so many failures in a row.
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
