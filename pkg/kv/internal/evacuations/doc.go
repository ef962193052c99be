// Package evacuations keeps the orders to evacuate a region or zone: [Orders] are
// those in the buckets, and a [Follower] tells all watches of a registry of them. Of
// two orders about a place the later one holds (docs/decisions/0016).
package evacuations
