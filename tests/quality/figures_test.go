//go:build !race

package main

import (
	"os"
	"path/filepath"
	"testing"
)

const (
	cities  = published + "/wondernetwork-2020-07-pings.csv.gz"
	seattle = published + "/seattle99-t001-t024.txt.gz"
)

// figure is how good picks must be at least on real round trips: a part of what
// README.md reports, with room for chance. Nothing in the code knows these files.
type figure struct {
	name    string
	args    []string
	success float64
	first   float64
	p90     float64 // stretch
	p99     float64
	probes  float64 // per caller and minute
	changes float64 // per caller and minute
}

// Those of figures_faults_test.go take most of the time.
func TestReachesItsFigures(t *testing.T) {
	reach(t, []figure{
		{name: "a fleet, regions", args: []string{"-file", regions}, success: 0.99, first: 0.95, p99: 1.1, probes: 10, changes: 1},
		{name: "no labels", args: []string{"-file", cities, "-rounds", "1", "-labels=false", "-callers-per-node", "2"}, success: 0.95, p99: 1.1, probes: 10, changes: 1},
		{
			name: "noise", args: []string{"-file", seattle, "-unit", "s", "-rounds", "1", "-callers-per-node", "2", "-slice-minutes", "0.5"},
			success: 0.60, first: 0.60, probes: 10, changes: 6,
		},
	})
}

func reach(t *testing.T, all []figure) {
	t.Helper()
	for _, x := range all {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel() // each is a bubble that keeps about one processor busy
			if _, err := os.Stat(x.args[1]); err != nil {
				t.Skipf("%s is not beside this checkout", filepath.Base(x.args[1]))
			}
			r := figures(t, x.args...)
			t.Logf("success %.3f, first pick %.3f, stretch %.3f, %.3f, probes %.1f, changes %.2f, %.1f s",
				r.Success, r.FirstSuccess, r.StretchP90, r.StretchP99, r.ProbesPerCaller, r.ChangesPerCaller, r.WallSeconds)
			if r.Success < x.success {
				t.Errorf("%.2f %% of the picks are the nearest, want %.2f", 100*r.Success, 100*x.success)
			}
			if r.FirstSuccess < x.first {
				t.Errorf("%.2f %% of the first picks are the nearest, want %.2f", 100*r.FirstSuccess, 100*x.first)
			}
			if x.p90 > 0 && r.StretchP90 > x.p90 || x.p99 > 0 && r.StretchP99 > x.p99 {
				t.Errorf("stretch %.3f at the 90th percentile and %.3f at the 99th, want %v and %v", r.StretchP90, r.StretchP99, x.p90, x.p99)
			}
			if r.ProbesPerCaller > x.probes {
				t.Errorf("%.1f probes of a caller in a minute, want %v", r.ProbesPerCaller, x.probes)
			}
			if r.ChangesPerCaller > x.changes {
				t.Errorf("%.2f changes of a caller in a minute, want %v", r.ChangesPerCaller, x.changes)
			}
		})
	}
}
