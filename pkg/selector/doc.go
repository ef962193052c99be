// Package selector picks the nearest working instance of a service. It is all
// that a calling service imports.
//
// [New] opens the registry and finds out where the caller is. The first
// [Selector.Pick] of a service starts to watch it. Behind each service is a table: its
// instances cut into circles by location (same zone, same region, elsewhere),
// and in each circle the near set, the instances about as near as the nearest.
// Pick takes the near set of the first circle that has one and lets a
// [Strategy] choose in it, so nearest never means one overloaded instance.
//
// # Leaving a circle
//
//   - Health: a circle takes all that comes to it while 1/1.4 (71 %) of its
//     weight can be picked, then in proportion; the rest goes on to the next
//     circle, by the same rule. What leaves, or has not the protocol, is not
//     missed.
//   - Load: when this caller's calls in flight per instance are above
//     [Options.LoadHigh] the next circle is added for what is in excess, below
//     [Options.LoadLow] it is left alone again. P2C, LeastRequest and LoadAware
//     compare the best of both ends and go only where it is worth it.
//     ConsistentHash does not, it has a bound of its own.
//   - Distance: a circle whose nearest instance has been measured to be over
//     twice as far as that of the next, and 2 ms, for 10 s is put behind it, and
//     comes back when it has been under 1.5 times for as long. Measured is by this
//     caller or by others in its zone: a distance that is only predicted or
//     assumed moves nothing.
//
// The last two are for the selector's own place, not for [Request.From].
//
// # Who is picked though something is wrong
//
// Breakers and suspicion take out half of a service at most. Below that (panic)
// the best of the bad fill in beside the usable ones: suspects, then those whose
// breaker has been open for longest, nearer circles first; not those that
// refused the connection. Where nothing is usable there is an order of last
// resorts: suspects, those that drain, those in a place that an operator has
// evacuated, those with an open breaker. What is evacuated fills in for nobody, and
// its circle is judged without it. A new instance
// begins with a tenth of its weight and has all of it at the age of
// [Options.RampUp], next to the oldest of its near set.
//
// # Tables
//
// A table is never changed: it is built anew when an instance comes, goes or
// changes, when a breaker opens or closes, or when a distance has moved; and once
// a second while an instance ramps up. One goroutine per selector looks at loads
// and at what is due, five times a second, of services that are called. Pick
// only reads it: no lock, no allocation, no scan, the same cost for ten
// instances as for ten thousand. What was learned about an instance (calls in
// flight, durations, its breaker and distance) survives every change of the list.
//
// [Selector.Do] adds retries on other instances, with backoff and a budget.
// [Selector.Explain] says of every instance why it is picked or not.
package selector
