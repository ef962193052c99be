//go:build faults && !race

package main

import "testing"

func TestReachesItsFiguresWithManyNodes(t *testing.T) {
	reach(t, []figure{
		{name: "no other caller to ask", args: []string{"-file", cities, "-callers-per-node", "1", "-probes", "30"}, success: 0.965, first: 0.60, p99: 1.1, probes: 30, changes: 1},
		{name: "a fleet, cities", args: []string{"-file", cities, "-rounds", "1"}, success: 0.98, first: 0.95, p99: 1.1, probes: 10, changes: 1},
		{
			// With the ten callers of the default it is 0.90; five have half the probes.
			name: "a large service", args: []string{"-file", cities, "-rounds", "1", "-candidates", "100", "-callers-per-node", "5"},
			success: 0.86, first: 0.82, p90: 1.1, probes: 10, changes: 2,
		},
	})
}
