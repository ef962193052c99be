package tail

import (
	"time"
)

// How a tail spends its time, shortest first.
const (
	// cheap is how long giving out a snapshot may take without a rest after it:
	// about that of a thousand instances. After a longer one the tail rests
	// restFactor times as long, at most maxRest.
	cheap      = 100 * time.Microsecond
	restFactor = 20
	maxRest    = 100 * time.Millisecond

	// settle is the pause before a read, so that a burst costs one.
	settle = 100 * time.Millisecond
	// pageQuick: a page that was answered within this time lets the next be larger.
	pageQuick = 500 * time.Millisecond
	// firstWait is how long a first question waits for its answer where there are
	// snapshots on disk to go on with; retryWait where there are none, and later.
	// Both double with each question in a row that had no answer, up to
	// maxDoubling times: 1.5, 3, 6, 12, 24 s.
	firstWait   = 500 * time.Millisecond
	retryWait   = 1500 * time.Millisecond
	maxDoubling = 4
	// retryNowEvery is the time between two questions that are asked because a
	// change was heard while the registry did not answer.
	retryNowEvery = time.Second
	// catchUp is how long a copy of the stream that contradicts what was heard
	// gets to hear what it missed.
	catchUp = 2 * time.Second
	// confirmEvery is the time between a change that was heard and the check that
	// the stream has it.
	confirmEvery = 3 * time.Second
	// maxRetry is the longest pause between two failed questions, or two reads.
	maxRetry = 5 * time.Second
	// leaseEvery is the time between two questions for the newest lease.
	leaseEvery = 5 * time.Second
	// checkEvery is the time between checks that the stream is not ahead.
	checkEvery = 20 * time.Second
	// leaderTimeout is how long the stream's leader is asked what to believe. After
	// that two reads that agree are enough.
	leaderTimeout = 45 * time.Second
	// snapshotEvery is the time between full reads when nothing seems wrong.
	snapshotEvery = 5 * time.Minute
)

// manyWatches of one registry are looked after as often as a single one; more of
// them less often, in proportion.
const manyWatches = 20
