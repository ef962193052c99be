package regions

import (
	"time"
)

// How the sources of a region are looked after, shortest first.
const (
	// lookAway is the time between two looks of the region while another is out of
	// reach, so that all agree within a second of its return. It grows with the
	// time that the other is away, divided by awayFactor, up to lookLong.
	lookAway   = 150 * time.Millisecond
	lookLong   = time.Second
	awayFactor = 200
	// lookTimeout is how long another region may take to answer a look.
	lookTimeout = 500 * time.Millisecond
	// sourceHeartbeat is how often the consumer of a source speaks up. The server
	// wants exactly this.
	sourceHeartbeat = time.Second
	// lookSilence: a source that was not heard for this long is silent.
	lookSilence = 5 * sourceHeartbeat / 2
	// lookEvery is the least time between two looks when all is well.
	lookEvery = 3 * time.Second
	// firstOthers is how long a watch of one service waits to hear of the other
	// regions before it tells of its own.
	firstOthers = 3 * time.Second
	// reportTimeout is how long a process that begins looks and never reports holds up
	// the others.
	reportTimeout = 5 * lookEvery
	// ensureSoon, ensureLater, ensureEvery: all that the regions read each other
	// with is made again after 0.1, 0.3, … 20 s while something is missing, and
	// looked at every five minutes else.
	ensureSoon  = 100 * time.Millisecond
	ensureLater = 20 * time.Second
	ensureEvery = 5 * time.Minute
	// clockSkew is how much the clocks of processes that look may differ.
	clockSkew = 10 * time.Minute
)
