// Package selector picks the nearest working instance of a service. It is all that a
// calling program imports.
//
// [New] opens the registry and finds out where the caller is. The first [Selector.Pick]
// of a service starts to watch it. Behind each service is a table: its instances divided
// into circles by location (same zone, same region, elsewhere), and in each circle the
// near set, the instances about as near as the nearest. Pick takes the near set of the
// first circle that has one and lets a [Strategy] choose in it, so the nearest instance
// is not overloaded.
//
// # Leaving a circle
//
//   - Health: a circle takes all calls while 1/1.4 (71 %) of its weight can be picked;
//     below that it takes 1.4 times the part that can be picked, and the rest goes to
//     the next circle, by the same rule. Example: the own zone has ten instances of the
//     same weight. With eight of them usable all calls stay (1.4 × 0.8 > 1); with five,
//     70 % stay and 30 % go to the region. Draining instances and those without the
//     requested protocol do not count as missing capacity.
//   - Load: when the calls of this caller in flight per instance exceed [Spill.High],
//     the excess goes to the next circle; below [Spill.Low] it stays again. P2C,
//     LeastRequest and LoadAware compare one instance of each circle and leave only if
//     the farther one is better. ConsistentHash does not leave: it has a bound of its
//     own.
//   - Distance: a circle is demoted behind the next one if its nearest instance has been
//     measured at more than twice the distance of that of the next, plus 2 ms, for 10 s.
//     It comes back after 10 s below 1.5 times. A distance counts as measured if this
//     caller measured it, or others in its zone; one that is predicted or assumed demotes
//     nothing.
//
// The last two apply to the selector's own place, not to [Request.From].
//
// # When few instances are usable
//
// Breakers and suspicion take out half of a service at most. If fewer than half are
// usable (panic) others fill in: suspects first, then instances with an open breaker,
// nearer circles first, longest open first. An instance that refused the connection does
// not fill in, nor does one that is draining or evacuated. If no instance is usable,
// picks take suspects, then draining instances, then evacuated ones, then those with an
// open breaker. An instance that is not ready is never picked.
//
// A new instance begins with a tenth of its weight, compared with the oldest of its near
// set, and has all of it at the age of [Ramp.Up].
//
// # Tables
//
// A table is never changed. A new one is built when an instance comes, goes or changes,
// when a breaker opens or closes, when a distance changes, and once a second while an
// instance ramps up. One goroutine of the selector checks loads five times a second, of
// services that are called. Pick only reads the table: no lock, no allocation, no scan,
// at the same cost for ten instances as for ten thousand. What was learned about an
// instance (calls in flight, durations, its breaker, its distance) survives every change
// of the list.
//
// [Selector.Do] adds retries on other instances, with backoff and a budget.
// [Selector.Explain] returns for each instance why it is picked or not. [Static] replaces
// the registry in tests.
package selector
