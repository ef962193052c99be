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
//   - A call leaves the nearest circle that has usable instances only when it gains:
//     there must be evidence that the circle is overloaded (calls take more than twice
//     their unloaded time, or are rejected, or, with [LoadAware], load reports tell of a
//     queue), and a call must be expected to end sooner in the next circle, by a margin
//     and [Spill.Price]. Only the excess leaves. Many calls in flight are no evidence,
//     nor are instances that failed: while the others have room, calls stay. An
//     [Explanation] shows evidence, gain and share.
//   - A circle that has come back ramps up as its oldest instance does.
//   - A circle is demoted behind the next one if its nearest instance has been
//     measured at more than twice the distance of that of the next, plus 2 ms, for 10 s.
//     It comes back after 10 s below 1.5 times. A distance counts as measured if this
//     caller measured it, or others in its zone; one that is predicted or assumed demotes
//     nothing. This applies to the selector's own place, not to [Request.From].
//   - Calls never leave [Spill.Within]. [Spill.Regions] is the order of other regions.
//
// # What the end of a call teaches
//
// Each end of a call is one of six outcomes, see [Outcome]. A call that fails quickly holds
// its slot for as long as calls usually take, so that no instance attracts calls by
// failing. Attempts at an instance that seems to hang are given up, see [Pick.AfterSlow].
//
// # When few instances are usable
//
// Breakers and suspicion take out half of a service at most. If fewer than half are
// usable (panic) others fill in: suspects first, then instances with an open breaker,
// nearer circles first, longest open first. An instance does not fill in if it refused
// the connection, if it asked for no calls for some time, or if it is draining or
// evacuated.
//
// If no instance is usable, picks take the first of these that there is:
//
//   - suspects;
//   - instances of weight 0;
//   - draining instances;
//   - evacuated instances;
//   - instances that do not answer probes, and have not answered a call lately;
//   - instances with an open breaker, first those that are neither draining nor
//     evacuated;
//   - dead instances, unless the registry is in reach and all of the service are dead.
//
// An instance that is not ready is never picked.
//
// An instance that has become usable begins with a tenth of its weight, compared with the
// oldest of its near set, and has all of it after [Ramp.Up]. It becomes usable when it is
// listed, is ready, is no longer evacuated, or its breaker closes.
//
// # Tables
//
// A table is never changed. A new one is built when an instance comes, goes or changes,
// when a breaker opens or closes, when a distance changes, and once a second while an
// instance ramps up. Five times a second one goroutine of the selector evaluates the
// calls of the services that are called. Pick only reads the table: no lock, no
// allocation, no scan, at the same cost for ten instances as for ten thousand. What was
// learned about an instance (calls in flight, durations, its breaker, its distance)
// survives every change of the list.
//
// [Selector.Do] adds retries on other instances, with backoff and a budget.
// [Selector.Explain] returns for each instance why it is picked or not. [Static] replaces
// the registry in tests.
package selector
