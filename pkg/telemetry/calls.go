package telemetry

import (
	"context"
	"math"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// callInstruments show how the calls of selectors ended.
type callInstruments struct {
	picks, calls, broken, timed                   metric.Int64ObservableCounter
	seconds                                       metric.Float64ObservableCounter
	retries, refusedRetries, slow, hedges, forgot metric.Int64ObservableCounter
	ruled, fellBack, mirrored, droppedMirrors     metric.Int64ObservableCounter
	durations                                     durations
}

func newCallInstruments(b *builder) callInstruments {
	return callInstruments{
		picks:   b.observedCounter("proxima_picks", "Instances picked for a call."),
		calls:   b.observedCounter("proxima_calls", "Calls to instances that have ended, each attempt by itself."),
		broken:  b.observedCounter("proxima_broken_answers", "Successful calls whose answer broke off after it had begun."),
		timed:   b.observedCounter("proxima_timed_calls", "Successful calls whose duration was measured."),
		seconds: b.floatCounter("proxima_timed_call_seconds", "Sum of the durations of the successful calls that were measured."),

		retries:        b.observedCounter("proxima_retries", "Attempts after the first one of a call."),
		refusedRetries: b.observedCounter("proxima_refused_retries", "Retries that the retry budget did not allow."),
		slow:           b.observedCounter("proxima_slow_attempts", "Attempts that were given up because the instance seemed to hang."),
		hedges:         b.observedCounter("proxima_hedges", "Second attempts beside a first one that took long."),
		ruled:          b.observedCounter("proxima_rule_calls", "Calls that a rule of a policy, or an expression of the request, sent to a subset."),
		fellBack:       b.observedCounter("proxima_rule_fallbacks", "Of those, calls that another instance got, as none of the subset was usable."),
		mirrored:       b.observedCounter("proxima_mirrored_calls", "Copies of calls that a policy had sent to a subset."),
		droppedMirrors: b.observedCounter("proxima_dropped_mirrors", "Copies that could not be sent."),
		durations:      durations{histogram: b.seconds("proxima_call_duration", "Durations of the successful calls that were measured."), recorded: make(map[series]buckets)},
		forgot:         b.observedCounter("proxima_forgotten_calls", "Calls that had not ended after ten minutes and are no load any more."),
	}
}

func (i *callInstruments) all() []metric.Observable {
	return []metric.Observable{i.picks, i.calls, i.broken, i.timed, i.seconds, i.retries, i.refusedRetries, i.slow, i.hedges, i.forgot, i.ruled, i.fellBack, i.mirrored, i.droppedMirrors}
}

// calls are what selectors have counted since their start.
type calls struct {
	circles  map[series]selector.Circle       // only what is counted
	services map[string]selector.ServiceStats // likewise
	rules    map[rule]selector.RuleStats      // likewise
}

// rule is one of a policy of a service, or that of requests.
type rule struct{ service, rule, where string }

func newCalls() calls {
	return calls{make(map[series]selector.Circle), make(map[string]selector.ServiceStats), make(map[rule]selector.RuleStats)}
}

// add adds what a selector has counted of a service.
func (c *calls) add(svc *selector.ServiceStats) {
	all := c.services[svc.Service]
	all.Retries += svc.Retries
	all.RefusedRetries += svc.RefusedRetries
	all.SlowAttempts += svc.SlowAttempts
	all.Hedges += svc.Hedges
	all.ForgottenCalls += svc.ForgottenCalls
	all.Mirrored += svc.Mirrored
	all.DroppedMirrors += svc.DroppedMirrors
	c.services[svc.Service] = all
	for _, r := range svc.Rules {
		at := rule{svc.Service, r.Rule, r.Where}
		sum := c.rules[at]
		sum.Calls += r.Calls
		sum.Fallbacks += r.Fallbacks
		c.rules[at] = sum
	}
	for i := range svc.Circles {
		one := &svc.Circles[i]
		at := series{svc.Service, one.Name}
		sum := c.circles[at]
		sum.Picks += one.Picks
		for o, n := range one.Outcomes {
			sum.Outcomes[o] += n
		}
		sum.BrokenAnswers += one.BrokenAnswers
		sum.TimedCalls += one.TimedCalls
		sum.TimedTotal += one.TimedTotal
		for b, d := range one.Durations {
			sum.Durations[b].Calls += d.Calls
			sum.Durations[b].Total += d.Total
		}
		c.circles[at] = sum
	}
}

func (c *calls) observe(o metric.Observer, i *callInstruments) {
	for at, sum := range c.circles {
		of := at.attributes()
		o.ObserveInt64(i.picks, int64(sum.Picks), of)
		for outcome, n := range sum.Outcomes {
			o.ObserveInt64(i.calls, int64(n), metric.WithAttributes(
				attribute.String("service", at.service), attribute.String("circle", at.circle), attribute.String("outcome", selector.Outcome(outcome).String())))
		}
		o.ObserveInt64(i.broken, int64(sum.BrokenAnswers), of)
		o.ObserveInt64(i.timed, int64(sum.TimedCalls), of)
		o.ObserveFloat64(i.seconds, sum.TimedTotal.Seconds(), of)
	}
	for service, sum := range c.services {
		of := metric.WithAttributes(attribute.String("service", service))
		o.ObserveInt64(i.retries, int64(sum.Retries), of)
		o.ObserveInt64(i.refusedRetries, int64(sum.RefusedRetries), of)
		o.ObserveInt64(i.slow, int64(sum.SlowAttempts), of)
		o.ObserveInt64(i.hedges, int64(sum.Hedges), of)
		o.ObserveInt64(i.forgot, int64(sum.ForgottenCalls), of)
		o.ObserveInt64(i.mirrored, int64(sum.Mirrored), of)
		o.ObserveInt64(i.droppedMirrors, int64(sum.DroppedMirrors), of)
	}
	for at, sum := range c.rules {
		of := metric.WithAttributes(attribute.String("service", at.service), attribute.String("rule", at.rule), attribute.String("where", at.where))
		o.ObserveInt64(i.ruled, int64(sum.Calls), of)
		o.ObserveInt64(i.fellBack, int64(sum.Fallbacks), of)
	}
}

// buckets are durations by length, as a selector counts them.
type buckets = [len(selector.Circle{}.Durations)]selector.Durations

// durations turn the counts of selectors into a histogram. OpenTelemetry has no histogram
// that is read when metrics are collected, so what is new is recorded then: calls pay
// nothing for it.
type durations struct {
	histogram metric.Float64Histogram
	mu        sync.Mutex // one collection at a time
	recorded  map[series]buckets
}

// mostRecorded bounds the time that a collection takes, to some milliseconds for a circle.
// Of more calls a part is recorded, of each bucket the same one.
const mostRecorded = 20_000

func (d *durations) record(all map[series]selector.Circle) {
	ctx := context.Background()
	if !d.histogram.Enabled(ctx) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for at, sum := range all {
		before, news := d.recorded[at], uint64(0)
		for b, now := range sum.Durations {
			news += grown(now.Calls, before[b].Calls)
		}
		if news == 0 {
			continue
		}
		of := metric.WithAttributeSet(attribute.NewSet(attribute.String("service", at.service), attribute.String("circle", at.circle)))
		for b, now := range sum.Durations {
			calls := grown(now.Calls, before[b].Calls)
			if calls == 0 {
				continue
			}
			mean := within(b, (now.Total-before[b].Total).Seconds()/float64(calls))
			for range max(1, calls*min(news, mostRecorded)/news) {
				d.histogram.Record(ctx, mean, of)
			}
			before[b] = now
		}
		d.recorded[at] = before
	}
}

// within is the mean of a bucket: the selector may have counted a call, and not yet added its
// duration.
func within(bucket int, mean float64) float64 {
	bounds := selector.DurationBounds()
	if bucket > 0 {
		mean = max(mean, math.Nextafter(bounds[bucket-1].Seconds(), math.Inf(1)))
	}
	if bucket < len(bounds) {
		mean = min(mean, bounds[bucket].Seconds())
	}
	return mean
}

// grown is by how much a counter has grown, 0 if another collection has seen more.
func grown(now, before uint64) uint64 { return max(now, before) - before }
