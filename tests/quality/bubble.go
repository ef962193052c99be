package main

import (
	"context"
	"testing"
	"testing/synctest"
)

// bubble runs f on virtual time and returns its error. Time passes when all
// goroutines wait, so minutes take as long as the work that is done in them.
func bubble(f func(context.Context) error) (err error) {
	// A bubble wants a test; this one has no parent that would print anything.
	synctest.Test(new(testing.T), func(t *testing.T) { err = f(t.Context()) })
	return err
}
