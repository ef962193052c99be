package latency

import "time"

// Source says where a distance comes from.
type Source string

// The sources, best first: an estimate is of the first that knows one.
const (
	// SourceMeasured is the median of this process' own fresh samples.
	SourceMeasured Source = "measured"
	// SourceAssumed is taken from the circle alone, see [Assumed].
	SourceAssumed Source = "assumed"
)

// Estimate is the distance of one instance: the round trip, and how it is
// known.
type Estimate struct {
	Distance time.Duration
	Source   Source
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
