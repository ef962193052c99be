//go:build !race

package latency_test

// raced is false without the race detector, see race_test.go.
const raced = false
