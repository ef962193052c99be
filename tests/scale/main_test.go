package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(roleEnv); name != "" {
		os.Exit(play(name)) // the program starts itself again
	}
	testkit.AtOnce(4)
	os.Exit(m.Run())
}

// figures runs the program and returns what it found, by section and name.
func figures(t *testing.T, args ...string) (report, map[string]figure) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), append([]string{"-json"}, args...), &stdout, &stderr); code != 0 {
		t.Fatalf("exit %d: %s%s", code, &stderr, &stdout)
	}
	var r report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v in %s", err, &stdout)
	}
	all := map[string]figure{}
	for _, f := range r.Figures {
		all[f.Section+" "+strings.TrimSpace(f.Name)] = f
	}
	return r, all
}

// want fails unless a figure is between two values.
func want(t *testing.T, all map[string]figure, name string, low, high float64) {
	t.Helper()
	if f, ok := all[name]; !ok || f.Value < low || f.Value > high {
		t.Errorf("%s: %v (%v), want %v to %v", name, f.Value, ok, low, high)
	}
}

func TestAFleetIsListedAndRead(t *testing.T) {
	t.Parallel()
	_, all := figures(t, "-sections", "fleet,service", "-instances", "500", "-services", "20", "-large", "300")
	want(t, all, "fleet registrations", 50, 1e6)
	want(t, all, "fleet a caller that watches everything knows it after", 0.1, 30_000)
	want(t, all, "fleet memory of the server (RSS)", 10, 1000)
	want(t, all, "service a pick and its end", 1, 1e6)
	want(t, all, "service allocations of it", 0, 0)
	want(t, all, "service from a change to the caller's table, p50", 0.001, 5000)
}

func TestLeasesAreRenewed(t *testing.T) {
	t.Parallel()
	_, all := figures(t, "-sections", "heartbeats", "-leases", "500", "-watchers", "5", "-steady", "1s")
	want(t, all, "heartbeats CPU of the server for each heartbeat, 5 watching connections", 1, 1e5)
}

func TestTablesAreTheBucketAfterChurn(t *testing.T) {
	t.Parallel()
	r, all := figures(t, "-sections", "churn", "-large", "200", "-changes", "200", "-churn-time", "1500ms", "-block", "500ms")
	want(t, all, "churn changes", 20, 250)
	want(t, all, "churn a slow caller is let go and knows the newest after", 0, 60_000)
	compared := 0
	for _, f := range r.Figures {
		if strings.HasSuffix(f.Name, "compared that are not as in the bucket") {
			if _, err := fmt.Sscanf(strings.TrimSpace(f.Name), "entries of %d", &compared); err != nil || f.Value != 0 || !f.Promise {
				t.Errorf("%+v, %v", f, err)
			}
		}
	}
	// Four views of everything, four selectors of the large service, of which
	// some have left, and some of the small ones.
	if least := 4*(2000+100) + 4*100; compared < least {
		t.Errorf("%d entries were compared, want at least %d", compared, least)
	}
}

func TestCallersStartAtOnce(t *testing.T) {
	t.Parallel()
	_, all := figures(t, "-sections", "start", "-callers", "10", "-instances", "100", "-services", "10")
	want(t, all, "start 10 callers start at once and all pick after", 0.1, 60_000)
	want(t, all, "start snapshots read", 10, 20)
}

// A promise that is broken must be seen.
func TestABrokenPromiseFails(t *testing.T) {
	var r report
	r.add("s", "slow", 5, "ms", atMost(3))
	r.add("s", "fast", 5, "/s", atLeast(3))
	if r.broken() != 0 {
		t.Error("being slow breaks no promise")
	}
	r.add("s", "lost", 1, "", none)
	if r.broken() != 1 {
		t.Error("what was lost breaks a promise")
	}
	var b bytes.Buffer
	if err := r.table(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"slow", "fast", "lost"} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("%q is not in the table", line)
		}
	}
	if strings.Count(b.String(), "missed") != 1 || strings.Count(b.String(), "BROKEN") != 1 {
		t.Errorf("the table does not tell what was missed and broken:\n%s", &b)
	}
}

// differences is the judge: it has to find what is wrong.
func TestWhatDiffersFromTheBucketIsFound(t *testing.T) {
	all := fleetOf(3, 1, forever)
	bucket := map[string]listed{}
	known := map[string]events.Snapshot{}
	s := events.Snapshot{Service: all[0].Service}
	for i := range all {
		in := &all[i].Instance
		in.Status = events.Up
		bucket[in.Key().Inst()] = listed{revision: uint64(i + 1), ID: in.ID, Version: in.Version, Status: in.Status}
		s.Entries = append(s.Entries, events.Entry{Instance: in, Revision: uint64(i + 1)})
	}
	known[s.Service] = s
	if wrong := differences(known, bucket, s.Service); len(wrong) != 0 {
		t.Fatalf("%q", wrong)
	}
	key := all[1].Key().Inst()
	for what, spoil := range map[string]func(){
		"an old revision":     func() { l := bucket[key]; l.revision = 9; bucket[key] = l },
		"another version":     func() { l := bucket[key]; l.Version = "2"; bucket[key] = l },
		"one too many":        func() { delete(bucket, key) },
		"one that is missing": func() { bucket["inst."+s.Service+".r.z.new"] = listed{revision: 7} },
		"a suspect":           func() { s.Entries[1].Suspect = true },
	} {
		before, entry := maps.Clone(bucket), s.Entries[1]
		spoil()
		if wrong := differences(known, bucket, s.Service); len(wrong) != 1 {
			t.Errorf("%s: %q", what, wrong)
		}
		bucket, s.Entries[1] = before, entry
	}
}

func TestBadFlagsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-instances", "0"},
		{"-services", "7", "-instances", "5"},
		{"-sections", "fleet,nothing"},
		{"-watchers", "1,x"},
		{"-outage", "1h0"},
		{"-steady", "1ms"},
		{"more"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, &stdout, &stderr); code != 2 || stdout.Len() != 0 || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: exit %d, %q, %q", args, code, &stdout, &stderr)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, &stdout, &stderr); code != 0 || !strings.Contains(stdout.String(), "-sections") || stderr.Len() != 0 {
		t.Errorf("-h: exit %d, %q", code, &stderr)
	}
}

func TestQuickShrinksWhatIsNotGiven(t *testing.T) {
	c, _, err := parseFlags([]string{"-quick", "-callers", "7"})
	if err != nil || c.Callers != 7 || c.Instances != 10_000 {
		t.Errorf("%+v, %v", c, err)
	}
}
