// Package latency says how far each instance is: the network's round trip, as
// one estimate with its source.
//
// A [Prober] makes a [Path] for each instance, and the path is the one place
// where that instance's distance is known. [Prober.Probe] names a group of
// paths (a service), best first; the first MaxPaths of them are probed by
// opening a TCP connection, at once and then every Interval. A path that is in
// no group is not probed and costs nothing but its memory.
//
// # The estimate
//
// A successful probe, or [Path.Observe], is a sample. The measured distance is
// the median of the last Window samples that are fresh: on real networks the
// noise is a few values far too high, which pull a mean and leave a median
// where it is. With an even number of samples it is the lower of the two in
// the middle, because queues only ever add. (At the default Interval three or
// four samples are fresh; doubted ones bring more.) When no sample is fresh any more
// the path is no longer measured, and [Path.Estimate] falls back on the next
// source. The sources, best first, are [SourceMeasured] and [SourceAssumed].
//
// Only successes are samples. A failure says nothing about distance; it is
// counted by [Path.Failures], which others may judge. Reading a distance is one
// atomic load, so that a table of thousands of instances can be made anew at
// any time; [Options.OnChange] tells when that is worth it.
//
// # The schedule
//
// One goroutine sleeps until the next path is due (a heap orders them) and
// starts the probe on a goroutine of its own, never more than Concurrency at
// once. Expiry of samples is in the same goroutine's second heap. Intervals
// vary by ±20 %, so that neither one caller's probes nor a fleet's fall into
// step.
//
//   - After a failure a path is probed again in about 1 s, then 2 s, 4 s and so
//     on, up to six Intervals but at most 25 s (30 s with jitter): a recovery
//     is noticed within that time. An Interval above 25 s stays as it is.
//   - Time-outs of a dead zone cannot keep those that live from being measured:
//     a path whose distance is known is waited for in proportion to it, and
//     only when it has failed for the whole Timeout; and paths that did not
//     answer the last time, or never yet, take at most half of the Concurrency.
//   - A sample that is over twice, or under half, the median (and over 1 ms
//     away from it) is doubted: the next probe follows in about 1 s instead of
//     an Interval. A real change is thus believed after about 2 s, while a
//     single slow packet is outvoted.
//   - A path that leaves its group and comes back is not probed any sooner for
//     it, so that churn does not turn into connections.
//
// # What the instance sees
//
// A connection that is accepted and then closed without a byte, as load
// balancers do. It is closed in the ordinary way and not reset: servers (gRPC's
// for one) know the plain end of a stream as a health check and stay quiet,
// and log a reset. The price is a socket in TIME_WAIT on this side for a minute
// per probe, six to each instance at the default Interval. Servers that speak
// TLS may log a handshake that ended early.
//
// A connection proves that the machine is there, for the kernel accepts it on
// behalf of a process that hangs. Whether an instance works is the breaker's
// question.
package latency
