package table

import (
	"math"
	"time"
)

// All times of this package, shortest first. How they fit together:
//
//   - An instance is called at least once in trustedFor while its peers are busy
//     (called more often than every busyGap), so its average is never older than
//     that where calls are many. Where calls are few, the average decays instead,
//     over decay, which is longer: otherwise it would be gone between two calls.
//   - A table is built every rampEvery while an instance ramps up, which takes 30 s
//     by default: its share then grows in about thirty small steps.
//   - A circle changes its place only after demoteAfter, which is longer than
//     trustedFor and than the second over which loads are averaged: a burst does not
//     move a circle.
//   - A beat counts for beatFresh: an instance sends three in that time, so two may
//     be lost.
//   - A call that failed counts as one of leastPenalty to mostPenalty, unless calls take
//     longer.
//   - An instance that rejects calls pauses for mostPause at most, unless calls take
//     longer. That is shorter than trustedFor: its pause ends before the reject is
//     forgotten.
//   - A call is late after leastLate at least, and a success is slow after slowest at
//     least, which is remembered from leastSlowest on.
const (
	// sameWithin is by how much calls that take about as long may differ besides: what a
	// processor does with the first call of an instance takes longer.
	sameWithin = 100 * time.Microsecond
	// blindSlack and nearSlack are the slack of near sets where no zone is known, and
	// where zones are, see [Table.slack].
	blindSlack = 200 * time.Microsecond
	nearSlack  = time.Millisecond
	// tick is the unit of times that are kept in few bits: about a millisecond, and
	// a power of two, because a division takes long.
	tick = 1 << 20 * time.Nanosecond
	// demoteSlack is by how much more than in proportion a circle must be too far away.
	demoteSlack = 2 * time.Millisecond
	// leastPauseOf is the usual duration that a node pauses for at least after a reject.
	leastPauseOf = 2 * time.Millisecond
	// leastLate is how long a call must have taken to be late.
	leastLate = 5 * time.Millisecond
	// leastSlowest: less than that is not remembered as the slowest.
	leastSlowest = 5 * time.Millisecond
	// leastPenalty is what a failed call counts as at least.
	leastPenalty = 10 * time.Millisecond
	// measuredGap is the longest time between two calls that follow one another closely.
	measuredGap = 10 * time.Millisecond
	// busyGap is the longest time between two calls of an instance that counts as
	// called all the time.
	busyGap = time.Second / 10
	// rampEvery is the time between tables while an instance ramps up.
	rampEvery = time.Second
	// unknownLate is how long a call must have taken to be late if no duration is known.
	unknownLate = time.Second
	// slowest is how long a success must have taken to be slow.
	slowest = time.Second
	// mostPause is how long a node pauses at most after a reject, unless calls take
	// that long.
	mostPause = time.Second
	// lookLasts is how long after a look the counts of a table are kept.
	lookLasts = 2 * time.Second
	// trustedFor is how long the last calls of an instance count while its peers are
	// busy, and how long a failed one counts in any case.
	trustedFor = 3 * time.Second
	// mostPenalty is what a failed call counts as at most, unless calls take longer.
	mostPenalty = 5 * time.Second
	// decay is the time in which an average that is not renewed falls by a factor of e.
	decay = 10 * time.Second
	// demoteAfter is how long a circle must be too far away before it is demoted, or
	// near enough before it comes back.
	demoteAfter = 10 * time.Second
	// beatFresh is how long a beat counts.
	beatFresh = 15 * time.Second

	// Period is how long calls count as load at least: those that have not ended are
	// given up at the end of the period after the one that they began in.
	Period = 10 * time.Minute

	// LongAgo is when an instance started that is as old as can be.
	LongAgo = -1 << 62 * time.Nanosecond
	// Never is when nothing is due.
	Never = math.MaxInt64 * time.Nanosecond
)

// Ticks is a time of the selector's clock as it is kept in few bits. It wraps after
// 52 days.
func Ticks(d time.Duration) uint32 { return uint32(uint64(d) / uint64(tick)) }
