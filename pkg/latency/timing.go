package latency

import "time"

// All times of this package, the shortest first. TestTimesFitTogether holds the
// relations that the comments state.
//
// A sample lives for Fresh (30 s), three times the Interval (10 s) in which it is
// replaced. A failed path is tried again after at most maxRetryPause, with its
// jitter within Fresh. A reporter is heard of every batchInterval and taken to be
// gone after reporterTimeout, so one lost batch changes no slot.
const (
	// firstProbeSpacing is the time between the first probes of paths that are
	// new together.
	firstProbeSpacing = 2 * time.Millisecond
	// notifyPause is the least pause between two calls of one group's onChange.
	notifyPause = 100 * time.Millisecond
	// observeWindow is the time in which at most Window samples of
	// [Path.Observe] count.
	observeWindow = time.Second
	// newsDelay is the longest that a batch with news waits, and the unit of the
	// first probes' delays: others publish what they measured within it.
	newsDelay = time.Second
	// retryPause is the pause before a failed or doubtful probe is repeated. It
	// doubles with each failure, up to maxRetryPause.
	retryPause = time.Second
	// rankInterval is the time between two rounds of the loop, and the least
	// time between two rankings of a group.
	rankInterval = time.Second
	// pingInterval is the least time between two pings of one caller that a
	// Locator takes in: shorter than exchangeInterval.
	pingInterval = time.Second
	// exchangeInterval is the time between two pings of one instance during
	// warmUp; later it is exchangeIntervalLater.
	exchangeInterval = 5 * time.Second
	// batchInterval is the time between two batches of a reporter, ±20 %.
	batchInterval = 10 * time.Second
	// refitInterval is the least time between two fits of a caller's coordinate
	// after warmUp.
	refitInterval = 10 * time.Second
	// stillFor is how long an instance must not have moved before its first
	// coordinate is published: shorter than recordInterval.
	stillFor = 15 * time.Second
	// maxRetryPause is the longest pause after failures: within it and its
	// jitter (30 s) a path that works again is noticed.
	maxRetryPause = 25 * time.Second
	// reporterTimeout is how long after its last batch a reporter is taken to be
	// gone: one batch may be lost.
	reporterTimeout = 35 * time.Second
	// exchangeIntervalLater is exchangeInterval after warmUp.
	exchangeIntervalLater = time.Minute
	// recordInterval is the least time between two coordinates that a record
	// carries. The first comes earlier, when the instance has been stillFor.
	recordInterval = time.Minute
	// warmUp is how long a caller with a new coordinate exchanges and fits often.
	warmUp = 3 * time.Minute
	// exchangeRetry is the pause before an instance that did not answer is
	// pinged again.
	exchangeRetry = 5 * time.Minute
	// callerTimeout is when a Locator forgets a caller that pings no more: later
	// than several exchanges, and than exchangeRetry.
	callerTimeout = 10 * time.Minute
	// dozeAfter is how long after its last call a service is measured less: later
	// than pauses between the jobs of most programs, and than reporterTimeout.
	dozeAfter = 10 * time.Minute
	// maxPeriod is the longest period of an instance, unless the budget is too
	// small for that: see Options.longest.
	maxPeriod = time.Hour
	// sleepAfter is how long after its last call a service is not measured any more.
	sleepAfter = time.Hour
)
