package latency

import (
	"slices"
	"time"
)

// Source is where a distance comes from.
type Source string

// The sources, best first. An estimate is from the first that has a distance.
const (
	// SourceMeasured is the median of this process' own fresh samples.
	SourceMeasured Source = "measured"
	// SourceShared is the median of what other reporters in the zone measured
	// last, with the median of this process' own samples as one more.
	SourceShared Source = "shared"
	// SourcePredicted is the distance between the coordinates of this
	// process and the instance.
	SourcePredicted Source = "predicted"
	// SourceAssumed is the distance of the circle, see [Assumed].
	SourceAssumed Source = "assumed"
)

// Estimate is the distance of one instance as a round trip, and its source.
type Estimate struct {
	Distance time.Duration
	Source   Source
}

// Measured reports whether the distance was measured, by this process or by
// another one in its zone.
func (e Estimate) Measured() bool { return e.Source == SourceMeasured || e.Source == SourceShared }

// An estimate in one word: the source in the low bits, above it the distance
// in nanoseconds. 0 is none.
const (
	sourceBits = 2
	sourceMask = 1<<sourceBits - 1
)

var sources = [...]Source{"", SourceMeasured, SourceShared, SourcePredicted}

func packEstimate(e Estimate) uint64 {
	return uint64(e.Distance)<<sourceBits | uint64(slices.Index(sources[:], e.Source))
}

func unpackEstimate(v uint64) (Estimate, bool) {
	return Estimate{time.Duration(v >> sourceBits), sources[v&sourceMask]}, v != 0
}

// The distances to assume, from public clouds: the median between regions is
// 150 ms, zones of a region are 0.6 to 2.7 ms apart, and opening a connection
// inside a zone takes a few tenths of a millisecond.
const (
	assumedElsewhere = 150 * time.Millisecond
	assumedRegion    = 2 * time.Millisecond
	assumedZone      = 500 * time.Microsecond
)

// Assumed is the distance to assume for an instance from its circle alone. Circle
// is the index, 0 for the nearest, of so many circles; the last one is elsewhere.
// The values fit zones and regions. Each further circle inside (rack, host) is
// half as far.
func Assumed(circle, circles int) time.Duration {
	switch outward := circles - 1 - max(circle, 0); {
	case outward <= 0:
		return assumedElsewhere
	case outward == 1:
		return assumedRegion
	default:
		return assumedZone >> min(outward-2, 9)
	}
}

// betweenTwo is the distance when there are two measurements: the lesser. If they
// contradict each other, it is the one nearer to the known distance, or else the
// greater. So neither one slow packet nor one false report changes much for an
// instance that few reporters measure.
func betweenTwo(a, b time.Duration, known Estimate) time.Duration {
	less, more := min(a, b), max(a, b)
	switch {
	case !doubtful(more, less):
		return less
	case known.Measured() && known.Distance-less < more-known.Distance:
		return less
	default:
		return more
	}
}

// median is the middle one of the round trips, the lower of two, 0 of none.
func median(samples []sample) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	rtts := make([]time.Duration, 0, 16) // on the stack, for any usual Window
	for _, s := range samples {
		rtts = append(rtts, s.rtt)
	}
	slices.Sort(rtts)
	return rtts[(len(rtts)-1)/2]
}

// moved reports whether a change of a distance may change the order of instances.
// 0 is unknown.
func moved(from, to time.Duration) bool {
	if from == 0 || to == 0 {
		return from != to
	}
	by := (to - from).Abs()
	return by > 200*time.Microsecond && by > from/10
}

// doubtful reports whether a sample differs so much from the known distance that
// it should be confirmed soon.
func doubtful(rtt, known time.Duration) bool {
	return known > 0 && (rtt-known).Abs() > time.Millisecond &&
		(rtt > 2*known || rtt < known/2)
}
