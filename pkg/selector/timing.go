package selector

import (
	"math"
	"time"
)

// How a selector spends its time, shortest first. How it fits together:
//
//   - A pick reads a table. Changes of breakers and distances, which picks notice without
//     a new table, cost one each rebuildEvery at most.
//   - Calls are looked at every maintainEvery. What needs only be roughly right, that a
//     service is used and how long its calls take without load, is told every tellEvery.
//   - The first pick of a service waits up to sharingWait for what other callers of its
//     zone measured, and up to policyWait for its policy, within the firstSnapshot that it
//     waits for the list of instances.
//   - Retries wait for up to backoff at first. When all instances were tried and are
//     perhaps restarting, the next round begins after roundWait, the one after it after
//     twice that.
//   - An attempt is given up after slowAtLeast at the earliest, which is longer than each
//     wait for a round. While nothing is known of durations it is slowUnknown. Then, and
//     before a call is given up that is alone, the instance is asked every livesEvery
//     whether it lives. If it answers within livesWithin, it is slowLiving.
//   - A name without instances is remembered for unknownFor, and watched for unusedFor.
//   - The longest success falls to half in slowestHalves. Durations without load that
//     other callers told are kept longer, for unloadedLasts.
const (
	backoff = 10 * time.Millisecond // default of Retry
	// rebuildEvery is the least time between tables that are built because breakers or
	// distances changed. Picks notice both without a new table.
	rebuildEvery = 20 * time.Millisecond
	// waitEvery is how often a pick that waits looks whether there is an instance.
	waitEvery = 25 * time.Millisecond
	// maintainEvery is the time between two looks at calls; [table.Builder.Look] counts
	// on it.
	maintainEvery = 200 * time.Millisecond
	// sharingWait is how long the first table waits for what other callers measured, and for
	// the policy while the registry is out of reach.
	sharingWait = 250 * time.Millisecond
	// roundWait is the wait before the second round through the instances; before the
	// third it is twice that.
	roundWait = 400 * time.Millisecond
	// livesWithin is when an instance that is asked whether it lives must have answered, or
	// a quarter of the time that is left for the call. With slowAtLeast it is less than 2 s.
	livesWithin = 750 * time.Millisecond
	// policyWait is how long the first table waits for the policy of a registry that is in
	// reach: calls must not go where the policy forbids because a server was busy.
	policyWait = 900 * time.Millisecond
	// slowAtLeast: an instance seems to hang no sooner than that.
	slowAtLeast = time.Second
	// livesEvery is how often an instance is asked whether it lives.
	livesEvery = time.Second
	// tellEvery is how often a group of paths learns that its service is called, and how
	// long calls take without load.
	tellEvery = time.Second
	// unknownFor is how long a name is remembered as unknown: picks of it fail without a
	// question to the registry.
	unknownFor    = time.Second
	firstSnapshot = 5 * time.Second // default of Options
	// queueFor is how long a call waits for a place by default.
	queueFor = 100 * time.Millisecond
	// eagerFor is how long after a pick the tables of a subset are built with every change.
	eagerFor = 5 * time.Second
	// mirrorFor is how long a copy of a call may take, unless the call or the policy says.
	mirrorFor = 10 * time.Second
	// slowUnknown is when an instance seems to hang while no success is known.
	slowUnknown = 15 * time.Second
	rampUp      = 30 * time.Second // default of Ramp
	// slowLiving is when an instance seems to hang that answers probes, if the call has no
	// deadline.
	slowLiving = time.Minute
	// unusedFor is how long a service that never had an instance is watched after the
	// last pick.
	unusedFor = time.Minute
	// invalidEvery is the time between two log lines about invalid beats.
	invalidEvery = time.Minute
	// slowestHalves is the time in which the longest success falls to half.
	slowestHalves = 10 * time.Minute
	// unloadedLasts is how long it counts what another caller told of durations without
	// load: about as long as the rule for leaving a circle remembers it.
	unloadedLasts = 30 * time.Minute
)

// How these times are used.
const (
	mostRounds  = 2   // further rounds through all instances
	mostRefused = 8   // instances that are tried in a round though all refuse
	slowTypical = 10  // an instance seems to hang after this many times the mean duration of successes,
	slowSlowest = 1.5 // and this many times the longest success lately, unless the last call to it failed
	slowOfTime  = 0.6 // while no success is known: of the time that the call has, if that is less than slowUnknown

	// livingOfTime is the same for an instance that answers probes. What is left is time
	// for one that works.
	livingOfTime = 7.0 / 8

	// slowestFalls is the factor by which the longest success falls with each look.
	slowestFalls = 1 - math.Ln2/float64(slowestHalves/maintainEvery)

	reserve   = 10  // retries a second that are always allowed
	maxTokens = 100 // retries that can be saved
)
