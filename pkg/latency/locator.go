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
	// record carries a coordinate.
	minCallers = 4
)

// Locator finds the network coordinate of one instance without a probe of its own.
// Callers ping the instance with the round trip that they measured and with their
// own coordinates, and the locator answers with the instance's. An announcement
// runs one. It is safe for concurrent use.
//
// One false ping moves the coordinate little: each caller counts once, a caller
// that does not fit counts less, and of many callers the last 64 count.
type Locator struct {
	start time.Time

	mu          sync.Mutex
	own         events.Coordinate
	callers     []caller
	neighbours  []coord.Neighbour // what each of the callers said last
	index       map[string]int    // of the callers, by name
	first       time.Duration     // when the first ping came
	still       events.Coordinate
	stillFrom   time.Duration // since then own has not moved by moveThreshold
	published   events.Coordinate
	publishedAt time.Duration
	known       bool // published is a coordinate
}

type caller struct {
	name string
	at   time.Duration // of its last ping that was taken in
}

// NewLocator makes a locator without a coordinate.
func NewLocator() *Locator {
	return &Locator{start: time.Now(), own: coord.New(), index: make(map[string]int)}
}

// Answer reads a ping and returns the answer to it: the instance's coordinate. An
// empty or invalid ping gets an empty answer: the caller only measures the round
// trip.
func (l *Locator) Answer(data []byte) []byte {
	if len(data) == 0 {
		return nil
	}
	p, err := wire.DecodePing(data)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return nil
	}
	now := time.Since(l.start)
	i, known := l.index[p.Reporter]
	switch {
	case !known:
		if len(l.callers) == 0 {
			l.first = now
		}
		l.makeRoomLocked(now)
		i = len(l.callers)
		l.index[p.Reporter] = i
		l.callers, l.neighbours = append(l.callers, caller{name: p.Reporter}), append(l.neighbours, coord.Neighbour{})
	case now-l.callers[i].at < pingInterval:
		return l.answerLocked()
	}
	l.callers[i].at = now
	l.neighbours[i] = coord.Neighbour{At: p.Coordinate, RTT: p.RTT.Seconds()}
	coord.Fit(&l.own, l.neighbours)
	return l.answerLocked()
}

func (l *Locator) answerLocked() []byte {
	data, _ := wire.EncodeCoordinate(l.own) // it is valid: Fit sees to that
	return data
}

// makeRoomLocked drops callers that no longer ping, and the one of the oldest ping
// when there are too many.
func (l *Locator) makeRoomLocked(now time.Duration) {
	oldest := 0
	for i, c := range slices.Backward(l.callers) { // one that is dropped is replaced by one that was looked at
		if now-c.at > callerTimeout {
			l.dropLocked(i)
		}
	}
	for i := range l.callers {
		if l.callers[i].at < l.callers[oldest].at {
			oldest = i
		}
	}
	if len(l.callers) >= coord.MaxNeighbours {
		l.dropLocked(oldest)
	}
}

// dropLocked puts the last caller in the place of one.
func (l *Locator) dropLocked(i int) {
	last := len(l.callers) - 1
	delete(l.index, l.callers[i].name)
	if i < last {
		l.callers[i], l.neighbours[i] = l.callers[last], l.neighbours[last]
		l.index[l.callers[i].name] = i
	}
	l.callers[last] = caller{}
	l.callers, l.neighbours = l.callers[:last], l.neighbours[:last]
}

// Coordinate is what the record should carry now, false while that is unknown. It
// changes at most once a minute, and only by at least a tenth of the distance to
// the callers, so that noise does not rewrite records.
func (l *Locator) Coordinate() (events.Coordinate, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.start)
	switch {
	case len(l.callers) < minCallers, l.known && now-l.publishedAt < recordInterval:
	case !l.known && now-l.first < recordInterval && !l.stillLocked(now):
	case !l.known || coord.Displacement(&l.published, &l.own) > moveThreshold*coord.MedianRTT(l.neighbours):
		l.published, l.publishedAt, l.known = coord.Rounded(l.own), now, true
	}
	return l.published, l.known
}

// stillLocked reports whether own has not moved for stillFor.
func (l *Locator) stillLocked(now time.Duration) bool {
	if coord.Displacement(&l.still, &l.own) > moveThreshold*coord.MedianRTT(l.neighbours) {
		l.still, l.stillFrom = l.own, now
	}
	return now-l.stillFrom >= stillFor
}
