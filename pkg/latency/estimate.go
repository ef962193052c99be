package latency

import (
	"slices"
	"time"
)

// Source says where a distance comes from.
type Source string

// The sources, best first: an estimate is of the first that knows one.
const (
	// SourceMeasured is the median of this process' own fresh samples.
	SourceMeasured Source = "measured"
	// SourceShared is the median of what reporters in the same zone measured
	// lately, with this process' own samples as one of them.
	SourceShared Source = "shared"
	// SourcePredicted is the distance between the coordinates of this
	// process and the instance.
	SourcePredicted Source = "predicted"
	// SourceAssumed is taken from the circle alone, see [Assumed].
	SourceAssumed Source = "assumed"
)

// Estimate is the distance of one instance: the round trip, and how it is
// known.
type Estimate struct {
	Distance time.Duration
	Source   Source
}

// Measured says that the distance was measured, by this process or by others
// in its zone.
func (e Estimate) Measured() bool { return e.Source == SourceMeasured || e.Source == SourceShared }

// An estimate in one word: the source in the low bits, above it the distance
// in nanoseconds. 0 is none.
const (
	sourceBits = 2
	sourceMask = 1<<sourceBits - 1
)

var sources = [...]Source{"", SourceMeasured, SourceShared, SourcePredicted}

func packEstimate(e Estimate) uint64 {
	for i, s := range sources {
		if s == e.Source {
			return uint64(e.Distance)<<sourceBits | uint64(i)
		}
	}
	return 0
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

// Assumed is the distance of an instance of which nothing but its circle is
// known: circle is the index (0 is the nearest), circles how many there are,
// the last of them being elsewhere. The values fit zones and regions; each
// further circle inside them (rack, host) is half as far.
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

// betweenTwo is the distance when two say different things: the less, but if one of
// them cannot be right, what was believed before or else the more. So neither
// one slow packet nor one liar makes an instance that few measure what it is
// not.
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

// median is the middle of the round trips, the lower of two, 0 of none.
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

// moved reports whether a change of the known distance may matter to the
// order of instances. 0 is not known.
func moved(from, to time.Duration) bool {
	if from == 0 || to == 0 {
		return from != to
	}
	by := (to - from).Abs()
	return by > 200*time.Microsecond && by > from/10
}

// doubtful reports whether a sample is so far from what is known that it should
// be confirmed soon.
func doubtful(rtt, known time.Duration) bool {
	return known > 0 && (rtt-known).Abs() > time.Millisecond &&
		(rtt > 2*known || rtt < known/2)
}
