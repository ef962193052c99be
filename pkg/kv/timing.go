package kv

import (
	"time"
)

// How an announcement spends its time, shortest first. The lease of the default ttl
// of 15 s is renewed every 5 s; if that fails it is tried again every retryEvery, so
// at the default a lease outlasts 8 s and more without an answer: a change of the
// stream's leader takes 4 to 9 s. What a caller does in that time is in internal/tail (asks
// again after 1.5, 3, 6 s; checks every 20 s; 45 s until a view that cannot be
// verified is believed or called stale) and internal/view (what is a suspect).
const (
	// firstChecks is the time between checks until one passes, unless it is shorter
	// anyway.
	firstChecks = 200 * time.Millisecond
	// propagate is how long it takes until every caller has heard of a change.
	propagate = 250 * time.Millisecond
	// retryEvery is the pause after an exchange with the registry that failed, or a
	// sixth of the ttl if that is less; retrySlow, when they have failed for longer
	// than retryLong.
	retryEvery = 500 * time.Millisecond
	// maxRejoin is the longest wait of an announcer that is connected again.
	maxRejoin = time.Second
	// awaitChecks is how long Leave waits for a check or a Load that does not end.
	awaitChecks   = time.Second
	checkTimeout  = 2 * time.Second // default of AnnounceOptions
	checkInterval = 2 * time.Second // default of AnnounceOptions
	opTimeout     = 2 * time.Second // default of Options
	// clusterForms is how long a cluster that has just started may take until all of
	// its servers know each other. It must end well before what ensure allows itself.
	clusterForms = 2 * time.Second
	trialTTL     = 5 * time.Second // of what is written to see whether writes succeed
	retrySlow    = 5 * time.Second
	beatInterval = 5 * time.Second // default of AnnounceOptions
	retryLong    = 30 * time.Second
	// recountEvery is the time between two looks at the copies of the bucket.
	recountEvery = time.Minute
	// samplesAge is how long the last message of a reporter is kept for callers that
	// come later.
	samplesAge = 2 * time.Minute
	// minRecord is the least time that the server keeps a record that is not written
	// again, see recordTTL.
	minRecord = 10 * time.Minute
)
