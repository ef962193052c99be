//go:build race

package latency_test

// raced says that the race detector is on: a tenth of the work finds what it
// can find.
const raced = true
