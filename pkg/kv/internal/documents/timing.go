package documents

import (
	"time"
)

// How a follower spends its time, shortest first.
const (
	// lookDelay is the least pause between a document that is heard and the look at
	// the buckets, so that a burst costs one. Callers wait up to five times as
	// long, so that not all look at once.
	lookDelay = 100 * time.Millisecond
	// unconfirmed is how long a document holds that was heard and is not found in the
	// bucket: a copy of it may be behind.
	unconfirmed = 2 * time.Second
	// retryEvery is the pause after a look that failed. It doubles, up to lookEvery.
	retryEvery = 5 * time.Second
	// lookEvery is the time between looks when nothing is heard.
	lookEvery = 20 * time.Second
	// logAgain is the time between two log lines about one document that cannot be read.
	logAgain = time.Minute
	// deniedFor is how long a user that may not write what was lost does not try again.
	deniedFor = 10 * time.Minute
)

// liveBuffer is how many documents wait to be heard; more are found by the next look.
const liveBuffer = 256
