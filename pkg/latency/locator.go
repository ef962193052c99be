package latency

import (
	"slices"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/coord"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

const (
	// moveThreshold is the change, as a share of the distance to the callers,
	// that is worth a new record.
	moveThreshold = 0.10
	// minCallers is how many callers must have measured an instance before its
	// coordinate means anything to others.
	minCallers = 4
)

// Locator finds the place of one instance in the coordinate space from what
// callers tell it of their distances, without a probe of its own: they ping
// it with what they measured and where they are, and it answers where it is.
// An announcement runs one. It is safe for concurrent use.
//
// One caller that lies moves it little: each has one vote, whoever does not
// fit counts less, and of many callers the last 64 count.
type Locator struct {
	start time.Time

	mu          sync.Mutex
	own         events.Coordinate
	callers     map[string]*caller
	first       time.Duration // when the first ping came
	still       events.Coordinate
	stillFrom   time.Duration // own has been about still since then
	published   events.Coordinate
	publishedAt time.Duration
	known       bool // published is a coordinate
	scratch     []coord.Neighbour
	malformed   uint64
}

type caller struct {
	coord.Neighbour
	at time.Duration
}

// NewLocator makes a locator that knows nothing yet.
func NewLocator() *Locator {
	return &Locator{start: time.Now(), own: coord.New(), callers: make(map[string]*caller)}
}

// Answer takes in a ping, see [wire.Ping], and returns what to answer: the
// coordinate. A ping that says nothing, or nothing valid, gets an empty
// answer: it measures the way and no more.
func (l *Locator) Answer(data []byte) []byte {
	if len(data) == 0 {
		return nil
	}
	p, err := wire.DecodePing(data)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.malformed++
		return nil
	}
	now := time.Since(l.start)
	c := l.callers[p.Reporter]
	switch {
	case c == nil:
		if len(l.callers) == 0 {
			l.first = now
		}
		l.makeRoomLocked(now)
		c = &caller{}
		l.callers[p.Reporter] = c
	case now-c.at < pingInterval:
		// Nobody has more to say than that.
		return l.answerLocked()
	}
	*c = caller{coord.Neighbour{At: p.Coordinate, RTT: p.RTT.Seconds()}, now}
	l.scratch = l.scratch[:0]
	for _, c := range l.callers {
		l.scratch = append(l.scratch, c.Neighbour)
	}
	coord.Fit(&l.own, l.scratch)
	return l.answerLocked()
}

func (l *Locator) answerLocked() []byte {
	data, err := wire.EncodeCoordinate(l.own)
	if err != nil {
		return nil
	}
	return data
}

// makeRoomLocked drops callers that have fallen silent, and the one that was
// silent the longest when there are too many.
func (l *Locator) makeRoomLocked(now time.Duration) {
	oldest := ""
	for name, c := range l.callers {
		if now-c.at > callerTimeout {
			delete(l.callers, name)
			continue
		}
		if oldest == "" || c.at < l.callers[oldest].at {
			oldest = name
		}
	}
	if len(l.callers) >= coord.MaxNeighbours {
		delete(l.callers, oldest)
	}
}

// Coordinate is what the record should carry now, false while nothing is
// known. It changes at most once a minute, and only when the instance is found
// to be elsewhere by a tenth of the distance to its callers, so that records
// are not written again for noise.
func (l *Locator) Coordinate() (events.Coordinate, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.start)
	switch {
	case len(l.callers) < minCallers, l.known && now-l.publishedAt < recordInterval:
	case !l.known && now-l.first < recordInterval && !l.stillLocked(now):
	case !l.known || coord.Displacement(&l.published, &l.own) > moveThreshold*l.medianDistanceLocked():
		l.published, l.publishedAt, l.known = coord.Rounded(l.own), now, true
	}
	return l.published, l.known
}

// stillLocked says whether the instance has stayed about where it is for a
// while.
func (l *Locator) stillLocked(now time.Duration) bool {
	if coord.Displacement(&l.still, &l.own) > moveThreshold*l.medianDistanceLocked() {
		l.still, l.stillFrom = l.own, now
	}
	return now-l.stillFrom >= stillFor
}

// Malformed is how many pings could not be read.
func (l *Locator) Malformed() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.malformed
}

// medianDistanceLocked is the median distance to the callers.
func (l *Locator) medianDistanceLocked() float64 {
	rtts := make([]float64, 0, len(l.callers))
	for _, c := range l.callers {
		rtts = append(rtts, c.RTT)
	}
	slices.Sort(rtts)
	return rtts[len(rtts)/2]
}
