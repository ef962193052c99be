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
// A table is never changed: it is built anew when an instance comes, goes or
// changes, when a breaker opens or closes, or when a distance has moved. Pick
// only reads it: no lock, no allocation, no scan, the same cost for ten
// instances as for ten thousand. What was learned about an instance (calls in
// flight, durations, its breaker and distance) survives every change of the list.
//
// [Selector.Do] adds retries on other instances, with backoff and a budget.
// [Selector.Explain] says of every instance why it is picked or not.
package selector
