package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/proxima-discovery/proxima/pkg/events"
)

const regions = "testdata/aws-regions-p50-1y.csv"

// figures runs the program.
func figures(t *testing.T, args ...string) report {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(append([]string{"-json"}, args...), &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Fatalf("exit %d: %s", code, &stderr)
	}
	var r report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v in %s", err, &stdout)
	}
	return r
}

func TestTheNearestRegionIsPicked(t *testing.T) {
	r := figures(t, "-file", regions, "-callers-per-node", "2", "-rounds", "1", "-minutes", "1")
	if r.Picks != 64 || r.Success < 0.95 || r.StretchP90 > 1.01 || r.RegretMean > 0.5 {
		t.Errorf("%d picks, %v right, stretch p90 %v, regret %v ms", r.Picks, r.Success, r.StretchP90, r.RegretMean)
	}
	if r.Callers != 64 || r.Instances != 10 || r.Nodes != 32 {
		t.Errorf("%d callers, %d instances, %d nodes, want 64, 10, 32", r.Callers, r.Instances, r.Nodes)
	}
	if r.FirstPicks != 32 || r.FirstPickKind != "newcomer" {
		t.Errorf("%d first picks of a %s, want 32 of newcomers", r.FirstPicks, r.FirstPickKind)
	}
	// What callers send is what instances receive.
	sent, received := r.ProbesPerCaller*64, r.ProbesPerInstance.Mean*10
	if sent == 0 || math.Abs(sent-received) > 0.01*sent {
		t.Errorf("%v probes a minute were sent, %v received", sent, received)
	}
}

// It must be possible to do badly: a caller that can measure nothing is right by luck.
func TestACallerThatKnowsNothingIsSeldomRight(t *testing.T) {
	r := figures(t, "-file", regions, "-callers-per-node", "1", "-services", "3", "-share=false", "-coordinates=false", "-labels=false", "-rounds", "4", "-minutes", "0.5")
	if r.FirstPickKind != "unknown_service" || r.FirstPicks != 4*32*9 || r.FirstSuccess > 0.5 {
		t.Errorf("%d first picks of an %s, %v right", r.FirstPicks, r.FirstPickKind, r.FirstSuccess)
	}
	if r.Success < r.FirstSuccess {
		t.Errorf("%v right after measuring, %v before", r.Success, r.FirstSuccess)
	}
}

func TestASeriesIsJudgedByLaterSlices(t *testing.T) {
	args := []string{"-file", regions, "-file", regions, "-file", regions, "-callers-per-node", "1", "-rounds", "1", "-minutes", "0.5", "-slice-minutes", "0.2"}
	if r := figures(t, args...); len(r.PerSlice) != 2 || r.Slices != 3 || r.Picks != 2*32*3 {
		t.Errorf("%d of %d slices are judged, %d picks, want 2 of 3 and 192", len(r.PerSlice), r.Slices, r.Picks)
	}
	if r := figures(t, append(args, "-ahead", "0")...); len(r.PerSlice) != 3 {
		t.Errorf("%d slices are judged by themselves, want 3", len(r.PerSlice))
	}
}

func TestWithoutOtherCallersAndServicesThereAreNoFirstPicks(t *testing.T) {
	r := figures(t, "-file", regions, "-share=false", "-callers-per-node", "1", "-services", "1", "-rounds", "1", "-minutes", "0.2")
	if r.FirstPicks != 0 || r.FirstSuccess != 0 || r.FirstPickKind != "none" || len(r.Notes) == 0 {
		t.Errorf("%d first picks, kind %s, notes %q", r.FirstPicks, r.FirstPickKind, r.Notes)
	}
}

func TestTheTableSaysWhatTheJSONSays(t *testing.T) {
	var stdout bytes.Buffer
	if code := run([]string{"-file", regions, "-callers-per-node", "1", "-rounds", "1", "-minutes", "0.2", "-zones", "4"}, &stdout, io.Discard); code != 0 {
		t.Fatalf("exit %d", code)
	}
	for _, want := range []string{"success", "stretch p50, p90, p99", "first pick (unknown_service)", "probes/caller/min"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, &stdout)
		}
	}
}

func TestBadInputIsOneClearLine(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "no -file"},
		{[]string{"-file", "testdata/nowhere"}, "no such file"},
		{[]string{"-file", "README.md"}, "is no round trip"},
		{[]string{"-file", regions, "-unit", "m"}, "want ms or s"},
		{[]string{"-file", regions, "-candidates", "33"}, "has 32 nodes"},
		{[]string{"-file", regions, "-candidates", "0"}, "-candidates 0"},
		{[]string{"-file", regions, "-zones", "33"}, "has 32 nodes"},
		{[]string{"-file", regions, "-strategy", "best"}, `strategy "best"`},
		{[]string{"-file", regions, "-minutes", "NaN"}, "-minutes"},
		{[]string{"-file", regions, "-jitter", "-1"}, "-jitter"},
		{[]string{"-file", regions, "-file", regions, "-ahead", "2"}, "has 2 slices"},
		{[]string{"-file", regions, "-rounds", "many"}, "many"},
		{[]string{"-file", regions, "-no-such-flag"}, "no-such-flag"},
		{[]string{"-file", regions, "more"}, `"more"`},
	} {
		var stdout, stderr bytes.Buffer
		code := run(test.args, &stdout, &stderr)
		line := stderr.String()
		if code != 2 || stdout.Len() > 0 || strings.Count(line, "\n") != 1 || !strings.Contains(line, test.want) {
			t.Errorf("%q: exit %d, %q, want exit 2 and one line with %q", test.args, code, line, test.want)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run([]string{"-h"}, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Fatalf("exit %d, %s", code, &stderr)
	}
	for name := range strings.FieldsSeq("file unit candidates callers-per-node zones labels share coordinates probes minutes slice-minutes seed services rounds strategy ahead jitter json") {
		if !strings.Contains(stdout.String(), "\n  -"+name+" ") && !strings.Contains(stdout.String(), "\n  -"+name+"\n") {
			t.Errorf("-h does not name -%s", name)
		}
	}
}

func TestPicksAreJudgedByTheNearestThatCanBeReached(t *testing.T) {
	truth := newMatrix(4)
	copy(truth.mean, []float64{0.3, 10, 20, math.NaN()})
	all := []*instance{{node: 1}, {node: 2}, {node: 3}}
	var y tally
	for _, in := range all {
		y.add(truth, 0, in, all)
	}
	y.add(truth, 0, all[2], all[2:]) // nothing can be reached
	if y.picks != 3 || y.right != 1 || y.unreachable != 1 || y.regretMean() != 5 || y.percentile(90) != 2 || y.percentile(50) != 1 {
		t.Errorf("%+v", y)
	}
}

func TestARecordThatChangesIsANewSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		a, b := &events.Instance{ID: "a", Service: "s"}, &events.Instance{ID: "b", Service: "s"}
		s.put(b)
		s.put(a)
		ctx, cancel := context.WithCancel(t.Context())
		var last events.Snapshot
		snapshots := 0
		go func() {
			_ = s.Watch(ctx, "s", func(now events.Snapshot) {
				last = now
				snapshots++
			})
		}()
		synctest.Wait()
		if snapshots != 1 || len(last.Entries) != 2 || last.Entries[0].Instance != a {
			t.Fatalf("%d snapshots, the last %v", snapshots, last)
		}
		before := last
		moved := *a
		moved.Coordinate = &events.Coordinate{Height: 1}
		s.put(&moved)
		synctest.Wait()
		if snapshots != 2 || last.Entries[0].Instance != &moved || last.Entries[1].Instance != b || last.Entries[0].Revision != 2 {
			t.Errorf("%d snapshots, the last %v", snapshots, last)
		}
		if before.Entries[0].Instance != a {
			t.Error("a snapshot was changed")
		}
		cancel()
	})
}
