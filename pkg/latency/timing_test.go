package latency

import (
	"testing"
	"time"
)

func TestTimesFitTogether(t *testing.T) {
	o := Options{}.withDefaults()
	const jittered = 6.0 / 5 // see jitter
	longest := func(d time.Duration) time.Duration { return time.Duration(jittered * float64(d)) }
	for _, r := range []struct {
		what         string
		less, orSame time.Duration
	}{
		{"a sample is replaced three times before it expires", 3 * o.Interval, o.Fresh},
		{"a path that works again is noticed before its last sample expires", longest(maxRetryPause), o.Fresh},
		{"a second try comes within an interval", longest(retryPause), o.Interval},
		{"a doubtful sample is confirmed, and published, before the next slot", longest(retryPause) + newsDelay, o.Interval / time.Duration(o.PerInterval)},
		{"one lost batch does not make a reporter absent", longest(batchInterval) * 2, reporterTimeout},
		{"reporters that left are forgotten before the bus forgets their batches", reporterTimeout, 2 * time.Minute},
		{"a vote of a reporter that is still there is fresh", reporterTimeout, longer(o.Fresh)},
		{"news goes out before the next regular batch", newsDelay, batchInterval * 4 / 5},
		{"a group is ranked before its next onChange matters", notifyPause, rankInterval},
		{"64 first probes fit into the time that others wait", 64 * firstProbeSpacing, newsDelay},
		{"a locator takes every regular ping", pingInterval, exchangeInterval},
		{"a probe ends before a sample of it would be old", o.Timeout, o.Interval},
		{"an instance settles before its record is due anyway", stillFor, recordInterval},
		{"pings of a warm-up come more often than later", exchangeInterval, exchangeIntervalLater},
		{"a caller's coordinate is fitted as often as it changes records", refitInterval, recordInterval},
		{"a warm-up ends with more than one record", 2 * recordInterval, warmUp},
		{"a locator remembers a caller between two pings", 2 * exchangeIntervalLater, callerTimeout},
		{"an instance that was away is pinged before it forgets the caller", exchangeRetry, callerTimeout},
		{"a service that is called rarely is measured in between", callerTimeout, dozeAfter},
		{"it dozes before it sleeps", dozeAfter, sleepAfter},
	} {
		if r.less > r.orSame {
			t.Errorf("%s: want %v <= %v", r.what, r.less, r.orSame)
		}
	}
}
