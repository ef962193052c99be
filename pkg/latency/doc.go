// Package latency says how far each instance is: the network's round trip, as
// one estimate with its source.
//
// A [Prober] makes a [Path] for each instance, and the path is the one place
// where that instance's distance is known. A [Group] is the paths of a service:
// [Group.Set] lists them with their circles, and the prober ranks them and
// measures each as often as its rank deserves. [Group.Share] joins the group to
// what the other callers of the service in the same zone measure. A path that is
// in no group is not probed and costs nothing but its memory.
//
// # The estimate
//
// [Path.Estimate] is the distance by the best source that knows one:
//
//   - [SourceMeasured]: at least three own samples that are fresh, or fewer when
//     nobody else has one. A sample is a successful probe, or [Path.Observe].
//   - [SourceShared]: what up to five other reporters of the zone measured last,
//     with our own samples as one more. Each has one vote, so that one who lies
//     moves nothing when there are others.
//   - [SourcePredicted]: the distance of two coordinates, ours and the instance's.
//   - [SourceAssumed]: the circle's, see [Assumed].
//
// Several round trips are made one by their median: on real networks the noise
// is a few values far too high, which pull a mean and leave a median where it
// is. Of two in the middle it is the lower, because queues only ever add.
// Failures are no samples; they are counted by [Path.Failures], which others
// may judge.
// Reading an estimate is one atomic load, so that a table of thousands of
// instances can be made anew at any time; the group's onChange reports when that is
// worth it.
//
// # Who measures what, and when
//
// The reporters of a zone measure for all of its callers. Each instance that
// may be picked is measured PerInterval times in each Interval by all of them
// together, others less often, as 1/(2·rank) in their circle, and circles
// behind the first a quarter or an eighth as often. Time is cut into slots; a
// slot belongs to one reporter by rendezvous hashing, so nothing has to be
// agreed, and what an instance receives does not depend on how many callers
// there are. One caller alone has all slots. At most 32 callers of a service
// in a zone report; the others listen. Without a Bus, or without a zone, a
// caller is alone.
//
// The Budget bounds what one process does for one group; when its part of the
// work is more, everything is measured less often. Beside the slots there are
// urgent probes:
//
//   - An instance that is new, and that nobody in the zone has measured, is
//     probed at once; with others about, after a random delay of up to a second,
//     so that of many that start together few probe (see suppressionDelay).
//   - One that becomes suspect is probed at once.
//   - After a failure a path is probed again in about 1 s, then 2 s, 4 s and so
//     on, up to six Intervals but at most 25 s (30 s with jitter): a recovery
//     is noticed within that time. An Interval above 25 s stays as it is.
//     One that none in the zone can reach is, after the third time, tried in
//     the zone's slots, each 25 s PerInterval times by all together; when one of them
//     reaches it, the others try again within an Interval.
//   - A sample, or a vote, that is over twice or under half of what is known (and
//     over 1 ms away from it) is doubted, if the instance may be picked: the
//     next probe follows within about 1 s, and after a vote two others look too.
//     A real change is thus believed within seconds, while a single slow packet,
//     or a reporter that lies, is outvoted.
//
// Time-outs of a dead zone cannot keep those that live from being measured: a
// path whose distance is known is waited for in proportion to it, and paths
// that did not answer the last time, or never yet, take at most half of the
// Concurrency.
//
// # Coordinates
//
// A caller that has measured an instance pings it over the Bus with the round
// trip and its own coordinate, and learns the instance's. A [Locator] answers
// for the instance and finds its place from what all callers tell it, without a
// probe of its own; it is in the instance's record for those who never measured
// it. Both sides fit their coordinate to the last of each neighbour, see fit:
// Vivaldi's space, not its springs.
//
// # What is measured
//
// Package probe says how. How long calls take is not distance: the selector
// balances by that.
package latency
