// Package latency estimates how far each instance is, as a network round trip and
// its source.
//
// A [Prober] makes a [Path] for each instance, and the path holds all that is
// known of its distance. A [Group] is the paths of a service: [Group.Set] lists
// them with their circles, and the prober ranks them and measures each as often as
// its rank deserves. [Group.Share] exchanges measurements with the other callers
// of the service in the same zone. A path in no group is not probed, and costs
// nothing but its memory.
//
// # The estimate
//
// [Path.Estimate] is the distance from the best source that has one:
//
//   - [SourceMeasured]: three or more fresh samples of this process, or fewer when
//     no other reporter has one. A sample is a successful probe, or comes from
//     [Path.Observe].
//   - [SourceShared]: the median of what up to five other reporters of the zone
//     measured last, and of this process' samples as one more. Each has one vote,
//     so that one false report changes nothing when there are others.
//   - [SourcePredicted]: the distance between the coordinates of this process and
//     the instance.
//   - [SourceAssumed]: the distance of the circle, see [Assumed].
//
// Several round trips become one by their median: on real networks noise is a few
// values that are far too high, which move a mean and not a median. Of the two in
// the middle it is the lower, because queues only add. A failure is no sample;
// [Path.Failures] counts failures for the user to judge. To read an estimate is
// one atomic load, so a table of thousands of instances may be rebuilt at any
// time; the onChange of [Prober.Group] reports when that is worth it.
//
// # Which caller measures what, and when
//
// The reporters of a zone measure for all of its callers. Together they measure
// each instance that may be picked PerInterval times in each Interval. They measure
// others less often: 1/(2·rank) as often in their circle, and outer circles a
// quarter or an eighth as often. Time is cut into slots, and a slot belongs to one
// reporter by rendezvous hashing. So nothing has to be agreed, and the probes that
// an instance gets do not depend on the number of callers. A caller that is alone
// has all slots. At most 32 callers of a service in a zone report, the others
// listen. Without a Bus, or without a zone, a caller is alone. A zone is here the pair of
// region and zone: callers that know their region and callers that do not, do not share.
//
// Budget bounds what one process does for one group, and TotalBudget what it does
// for all. If its part of the work is more, it measures all instances less often.
// A group whose service is not called is measured less, and then not at all, see
// [Group.Used]. Beside the slots there are urgent
// probes:
//
//   - A new instance that no reporter of the zone has measured is probed at once;
//     where there are other reporters, after a random delay of up to a second, so
//     that few of many callers that start together probe.
//   - An instance that becomes a suspect is probed at once.
//   - After a failure a path is probed again in about 1 s, then 2 s, 4 s and so
//     on, up to six Intervals but at most 25 s (30 s with jitter), or an Interval
//     if that is longer: within that time a recovery is noticed. After the third
//     failure, if no other reporter reaches the instance either, the zone's slots
//     are enough: each 25 s PerInterval probes of all reporters together. When one
//     of them reaches it, the others try within an Interval.
//   - A sample or vote that is over twice or under half of the known distance, and
//     over 1 ms away from it, is doubtful if the instance may be picked. The next
//     probe follows within about 1 s; after a vote two other reporters probe. So a
//     real change is believed within seconds, while a single slow packet, or one
//     false report, is outvoted.
//
// Time-outs of a dead zone do not delay the others: a probe of a path with a known
// distance waits in proportion to it, and paths that did not answer the last probe
// take at most half of Concurrency.
//
// # Coordinates
//
// A caller that has measured an instance pings it over the Bus with the round trip
// and its own coordinate, and gets the instance's. A [Locator] answers for the
// instance: it fits the instance's coordinate to the pings of all callers, and the
// instance's record carries it for callers that have not measured the instance.
// Both sides fit to the last measurement of each neighbour, in the space of
// Vivaldi but not with its springs; see internal/coord.
//
// # What is measured
//
// Package probe measures a round trip. How long calls take is not distance: the
// selector balances by that. What they take without load is told to the other callers of
// the zone in the same batches, see [Group.TellUnloaded].
package latency
