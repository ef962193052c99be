//go:build race

package main

// oneIn: the race detector makes the cases ten times slower, and there is one goroutine.
const oneIn = 8
