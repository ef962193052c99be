// Package spill decides which share of a caller's calls leaves a circle for the next one.
//
// A call leaves only when it gains. There must be evidence that the near circle is
// overloaded: its calls take much longer than they do without load, or it asks for fewer
// calls, or it reports a queue. And a call must be expected to end sooner in the next
// circle, by a margin and a price. A few calls go there first, to see whether that is
// true. Then only the excess leaves: the near circle keeps as many calls as it gets done.
// See docs/decisions/0026-calls-leave-a-circle-only-when-they-gain.md.
//
// A [Rule] has no connection, goroutine, lock or clock. It is not safe for concurrent use.
package spill
