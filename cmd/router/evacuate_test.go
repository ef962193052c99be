package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// An operator evacuates a zone and sees what becomes of it, in the registry, at
// a router that runs, and in its metrics.
func TestEvacuatesAPlaceAndUndoesIt(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.list(t, "user", "near", "a", nil)
	r.list(t, "user", "far", "b", nil)
	r.list(t, "billing", "b1", "a", nil)
	stdout, _, _ := begin(t, "serve", "--nats-url", r.url, "--http", "127.0.0.1:0", "--region", "r1", "--zone", "a")
	w := web{t, stdout.Await(t, `^HTTP: (http://\S+)$`)}
	w.ready()
	listed := func() router.Instances {
		var list router.Instances
		if status, body := w.do("GET", "/v1/services/user?from=r1/a", ""); status != 200 || json.Unmarshal([]byte(body), &list) != nil || len(list.Instances) != 2 {
			t.Fatalf("%d %s", status, body)
		}
		return list
	}
	if first := listed().Instances[0]; first.ID != "near" || first.Evacuated {
		t.Fatalf("before: %s is first", first.ID)
	}

	got := run(t, nil, "evacuate", "r1/a", "--nats-url", r.url)
	if want := "r1/a is evacuated: its 2 instances are picked only when no other instance can be\n"; got.code != 0 || got.stdout != want || got.stderr != "" {
		t.Errorf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
	took := testkit.Eventually(t, "the router lists the evacuated instance last", func() bool {
		list := listed()
		last := list.Instances[1]
		return last.ID == "near" && last.Evacuated && !list.Instances[0].Evacuated
	})
	t.Logf("the router's answer changed after %v", took)
	var e selector.Explanation
	got = run(t, nil, "explain", "user", "--json", "--nats-url", r.url)
	if err := json.Unmarshal([]byte(got.stdout), &e); err != nil || !e.Instances[1].Evacuated || !strings.Contains(e.Instances[1].Reason, "its place is evacuated") {
		t.Errorf("%v\n%s", err, got.stdout)
	}
	got = run(t, nil, "instances", "user", "--nats-url", r.url)
	if out := squeeze(got.stdout); !strings.Contains(out, "near up, evacuated r1/a") || !strings.Contains(out, "far up r1/b") {
		t.Errorf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
	got = run(t, nil, "instances", "user", "--json", "--nats-url", r.url)
	var listing struct {
		Instances []struct {
			ID        string
			Evacuated bool
		}
	}
	if err := json.Unmarshal([]byte(got.stdout), &listing); err != nil || len(listing.Instances) != 2 || !listing.Instances[0].Evacuated || listing.Instances[1].Evacuated {
		t.Errorf("%v\n%s", err, got.stdout)
	}
	if status, body := w.do("GET", "/metrics", ""); status != 200 || !strings.Contains(body, `proxima_evacuated_instances{circle="zone",service="user"} 1`) {
		t.Errorf("metrics do not tell:\n%s", body)
	}

	got = run(t, nil, "evacuate", "--nats-url", r.url)
	if lines := strings.Split(squeeze(got.stdout), "\n"); got.code != 0 || len(lines) != 2 || lines[0] != "PLACE SINCE INSTANCES" || !strings.HasPrefix(lines[1], "r1/a 2") || !strings.HasSuffix(lines[1], " 2") {
		t.Errorf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
	var list struct{ Evacuated []evacuation }
	got = run(t, nil, "evacuate", "--json", "--nats-url", r.url)
	if err := json.Unmarshal([]byte(got.stdout), &list); err != nil || len(list.Evacuated) != 1 || list.Evacuated[0].Zone != "a" || list.Evacuated[0].Since.IsZero() {
		t.Errorf("%v\n%s", err, got.stdout)
	}

	var undone evacuation
	got = run(t, nil, "evacuate", "--undo", "r1/a", "--json", "--nats-url", r.url)
	if err := json.Unmarshal([]byte(got.stdout), &undone); err != nil || got.code != 0 || undone.Evacuated || undone.Region != "r1" || undone.Instances != 2 {
		t.Errorf("%v\n%s", err, got.stdout)
	}
	got = run(t, nil, "evacuate", "--nats-url", r.url)
	if got.code != 0 || squeeze(got.stdout) != "PLACE SINCE INSTANCES" {
		t.Errorf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
	testkit.Eventually(t, "the router lists the instance first again", func() bool {
		first := listed().Instances[0]
		return first.ID == "near" && !first.Evacuated
	})
}

// An order for a place without instances is kept. The answer asks whether the name
// is right.
func TestEvacuatingAnEmptyPlaceAsksForItsName(t *testing.T) {
	r := newRegistry(t)
	got := run(t, nil, "evacuate", "r-one", "--nats-url", r.url)
	if got.code != 0 || !strings.Contains(got.stdout, "r-one is evacuated: no instance is there now, check the name of the place\n") {
		t.Errorf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
	in, _ := r.list(t, "user", "u1", "a", func(in *events.Instance) { in.Location.Region = "r-one" })
	snapshots, err := r.Snapshot(t.Context(), "user")
	if err != nil || len(snapshots) != 1 || !snapshots[0].Entries[0].Evacuated {
		t.Errorf("%s came later: %+v, %v", in.ID, snapshots, err)
	}
}

func TestUndoingAnEvacuationNamesThePlacesThatStillAre(t *testing.T) {
	r := newRegistry(t)
	r.list(t, "user", "u1", "a", nil)
	for _, tt := range []struct{ args, want string }{
		{"r1/a", "r1/a is evacuated: its instance is picked only when no other instance can be\n"},
		{"r1", "r1 is evacuated: its instance is picked only when no other instance can be\n"},
		{"r1/b --undo", "r1/b is no longer evacuated, but r1 still is\n"},
		{"r1 --undo", "r1 is no longer evacuated, but r1/a still is\n"},
		{"r1/a --undo", "r1/a is no longer evacuated: its instance is picked like all others\n"},
	} {
		args := append([]string{"evacuate", "--nats-url", r.url}, strings.Fields(tt.args)...)
		if got := run(t, nil, args...); got.code != 0 || got.stdout != tt.want {
			t.Errorf("%s: %d\n%s%s", tt.args, got.code, got.stdout, got.stderr)
		}
	}
}

func TestEvacuateReportsWhatIsWrong(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"nothing to undo":           {[]string{"--undo", "--nats-url", r.url}, 2, "--undo: want a region"},
		"a place that is none":      {[]string{"a b", "--nats-url", r.url}, 2, "a b: want region or region/zone"},
		"a place in a zone":         {[]string{"a/b/c", "--nats-url", r.url}, 2, "a/b/c: want region or region/zone"},
		"an unknown place":          {[]string{"_", "--nats-url", r.url}, 2, "known"},
		"no NATS":                   {[]string{"r1", "--nats-url", "nats://127.0.0.1:1", "--connect-timeout", "100ms"}, 1, "cannot reach NATS"},
		"no bucket":                 {[]string{"r1", "--nats-url", r.url, "--bucket", "none"}, 1, `no server has bucket "none"`},
		"regions without a domain":  {[]string{"r1", "--nats-url", r.url, "--nats-regions", "r1,r2"}, 2, "--nats-regions needs --nats-domain"},
		"a region that is no name":  {[]string{"r1", "--nats-url", r.url, "--nats-domain", "r1", "--nats-regions", "r1,r 2"}, 2, "--nats-regions"},
		"regions that are not here": {[]string{"--nats-url", r.url, "--nats-domain", "r1", "--nats-regions", "r1,r2"}, 1, "registry"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := run(t, nil, append([]string{"evacuate"}, tt.args...)...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.says) || !strings.HasPrefix(got.stderr, "router: ") || !oneLine(got.stderr) {
				t.Errorf("exit code %d, stderr:\n%s", got.code, got.stderr)
			}
		})
	}
}
