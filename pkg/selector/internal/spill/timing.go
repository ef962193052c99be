package spill

import "time"

// All times of this package, in seconds. How they fit together:
//
//   - Looks are 0.2 s apart. Rates and durations are averages over rateOver, or over the
//     last fewEvents calls if that takes longer, but never over more than staleAfter.
//   - The unloaded duration is taken from averages over baseOver and baseEvents. It must
//     fluctuate less than what is compared with it.
//   - What a circle gets done is remembered for peakOver: longer than rateOver, so that the
//     calls that leave do not look like a capacity that is gone.
//   - A trial that failed is repeated after retryFirst, then after twice that, and so on.
const (
	rateOver   = 1.5
	staleAfter = 20.0
	fewEvents  = 16.0

	baseOver   = 10.0
	baseStale  = 120.0
	baseEvents = 64.0
	baseFalls  = 2.0       // time in which it follows a lower average
	baseRises  = 0.1 / 60  // part per second by which it rises toward a higher one
	hintLasts  = 30 * 60.0 // a hint is forgotten then

	peakOver = 3.0

	trialPatience = 10.0 // after it, fewer answers are enough
	trialMost     = 30.0 // a trial without answers ends
	retryAgain    = 2.0  // the next trial is not sooner, though it has become much worse
	retryFirst    = 5.0
	retryMost     = 300.0
	retryCalm     = 60.0 // without evidence for so long, the next trial is a first one
	drainIn       = 6.0  // in which a long queue should end
	growIn        = 5.0  // without being slow for so long, the limit grows twice as fast
	goalOver      = 5.0  // over which the distress of the next circle is averaged
	shortOver     = 0.4  // over which calls in flight are averaged to see that a queue has gone
	settleFor     = 5.0  // nothing has left for so long: the circle is no longer limited

	// gapMost is the longest time between two looks. After a longer one all but the
	// unloaded durations is forgotten.
	gapMost = 3 * time.Second
)
