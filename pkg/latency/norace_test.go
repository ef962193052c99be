//go:build !race

package latency_test

// raced says that the race detector is off: see race_test.go.
const raced = false
