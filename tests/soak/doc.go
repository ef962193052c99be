// Package soak lets random faults happen to a cluster, its instances and its
// callers, for a minute or for hours, and checks all the while what
// [github.com/proxima-discovery/proxima/tests/faults] promises, and at the end
// that nothing has grown.
//
// The test has the build tag faults:
//
//	go test -tags faults -run Soak -v ./tests/soak
//	PROXIMA_SOAK=2h PROXIMA_SOAK_SEED=7 go test -tags faults -race -timeout 3h -run Soak -v ./tests/soak
//
// The seed decides what happens and for how long; not what the machine makes of it.
package soak
