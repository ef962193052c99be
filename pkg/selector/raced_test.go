//go:build race

package selector_test

// raced is true with the race detector: a tenth of the work finds what it can find.
const raced = true
