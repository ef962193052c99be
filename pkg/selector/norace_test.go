//go:build !race

package selector_test

// raced is false without the race detector, see raced_test.go.
const raced = false
