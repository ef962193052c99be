package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// squeeze makes one space of many, so that columns can be compared.
func squeeze(s string) string {
	return regexp.MustCompile(` +`).ReplaceAllString(strings.TrimSpace(s), " ")
}

func TestListsServices(t *testing.T) {
	r := newRegistry(t)
	if got := run(t, nil, "services", "--nats-url", r.url); got.code != 0 || squeeze(got.stdout) != "SERVICE INSTANCES UP" {
		t.Errorf("an empty registry: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	r.list(t, "user", "u1", "a", nil)
	r.list(t, "user", "u2", "b", func(in *events.Instance) { in.Status = events.Draining })
	r.list(t, "billing", "b1", "a", nil)
	got := run(t, map[string]string{"PROXIMA_NATS_URL": r.url}, "services")
	if want := "SERVICE INSTANCES UP\nbilling 1 1\nuser 2 1"; got.code != 0 || squeeze(got.stdout) != want || got.stderr != "" {
		t.Errorf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
	var list router.Services
	got = run(t, nil, "services", "--json", "--nats-url", r.url)
	if err := json.Unmarshal([]byte(got.stdout), &list); err != nil || len(list.Services) != 2 || list.Services[1] != (router.Service{Name: "user", Instances: 2, Up: 1}) {
		t.Errorf("%v\n%s", err, got.stdout)
	}
}

func TestListsInstances(t *testing.T) {
	r := newRegistry(t)
	r.list(t, "user", "u1", "a", func(in *events.Instance) {
		in.Version, in.Started = "1.4.2", time.Now().Add(-3*time.Hour-5*time.Minute)
		in.Endpoints = map[string]string{"http": "10.0.0.5:8080", "grpc": "10.0.0.5:9090"}
		in.Metadata = map[string]string{"team": "a", "slot": "7"}
	})
	r.list(t, "user", "u2", "b", func(in *events.Instance) { in.Location.Region, in.Location.Zone, in.Started = "", "", time.Time{} })
	r.list(t, "user", "u3", "c", func(in *events.Instance) { in.Started = time.Now().Add(-100 * time.Hour) })
	got := run(t, nil, "instances", "user", "--nats-url", r.url)
	want := "INSTANCE STATUS LOCATION ENDPOINTS VERSION WEIGHT AGE TTL METADATA\n" +
		"u2 up unknown nats=user.u2 - 100 - 1h0m0s -\n" +
		"u1 up r1/a grpc=10.0.0.5:9090,http=10.0.0.5:8080 1.4.2 100 3h5m 1h0m0s slot=7,team=a\n" +
		"u3 up r1/c nats=user.u3 - 100 4d 1h0m0s -"
	if got.code != 0 || squeeze(got.stdout) != want {
		t.Errorf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
	var list struct {
		Service   string
		Instances []events.Instance
	}
	got = run(t, nil, "instances", "user", "--json", "--nats-url", r.url)
	if err := json.Unmarshal([]byte(got.stdout), &list); err != nil || list.Service != "user" || len(list.Instances) != 3 || list.Instances[1].Version != "1.4.2" {
		t.Errorf("%v\n%s", err, got.stdout)
	}
}

func TestExplainsFromHereWhenNoRouterAnswers(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := newRegistry(t)
	r.list(t, "user", "far", "b", func(in *events.Instance) { in.Location.Region = "r2" })
	r.list(t, "user", "near", "a", func(in *events.Instance) { in.Endpoints = map[string]string{"http": l.Addr().String()} })
	got := run(t, map[string]string{"PROXIMA_REGION": "r1", "PROXIMA_ZONE": "a"}, "explain", "user", "--nats-url", r.url)
	if got.code != 0 || !strings.Contains(got.stderr, "no router answers") {
		t.Fatalf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
	lines := strings.Split(squeeze(got.stdout), "\n")
	if len(lines) != 9 || lines[0] != "user from r1/a by p2c" || lines[2] != "CIRCLE INSTANCES USABLE SHARE BEST SOURCE LOAD NOTE" ||
		!regexp.MustCompile(`^zone 1 1 100 % \S+ ms measured 0 -$`).MatchString(lines[3]) || !regexp.MustCompile(`^elsewhere 1 1 0 % \S+ ms `).MatchString(lines[4]) ||
		lines[6] != "INSTANCE CIRCLE DISTANCE SOURCE STATUS BREAKER IN FLIGHT WHY" ||
		!regexp.MustCompile(`^near zone \S+ ms measured up closed 0 picked by p2c`).MatchString(lines[7]) || !strings.HasPrefix(lines[8], "far elsewhere ") {
		t.Errorf("got\n%s", got.stdout)
	}
	var e selector.Explanation
	got = run(t, nil, "explain", "user", "--from", "r2/b", "--json", "--nats-url", r.url)
	if err := json.Unmarshal([]byte(got.stdout), &e); err != nil || e.From != "r2/b" || e.Instances[0].ID != "far" {
		t.Errorf("%v\n%s", err, got.stdout)
	}
}

func TestExplainHintsAtFromWhenTheLocationIsUnknown(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.list(t, "user", "u1", "a", func(in *events.Instance) { in.Endpoints = map[string]string{"http": testkit.FreeAddress(t)} })
	const hint = "--from REGION/ZONE"
	if got := run(t, nil, "explain", "user", "--nats-url", r.url); got.code != 0 || !strings.Contains(got.stderr, "the location of this machine is unknown") || !strings.Contains(got.stderr, hint) {
		t.Errorf("measured here: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	rt, err := router.New(t.Context(), natstest.Connect(t, r.ns), r, router.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	if err := rt.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := run(t, nil, "explain", "user", "--nats-url", r.url); got.code != 0 || !strings.Contains(got.stderr, "the location of the router is unknown") {
		t.Errorf("by a router: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got := run(t, nil, "explain", "user", "--from", "r1/a", "--nats-url", r.url); got.code != 0 || strings.Contains(got.stderr, hint) {
		t.Errorf("with --from: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}

func TestExplainMeasuresMoreThanACallerMay(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := newRegistry(t)
	const n = 40
	for i := range n {
		r.list(t, "user", fmt.Sprintf("u%02d", i), "a", func(in *events.Instance) { in.Endpoints = map[string]string{"http": l.Addr().String()} })
	}
	got := run(t, map[string]string{"PROXIMA_REGION": "r1", "PROXIMA_ZONE": "a"}, "explain", "user", "--nats-url", r.url)
	if measured := len(regexp.MustCompile(`(?m)^u\d\d .* measured `).FindAllString(got.stdout, -1)); measured < n/2 { // it does not wait for long
		t.Errorf("%d of %d are measured\n%s%s", measured, n, got.stdout, got.stderr)
	}
}

func TestExplainsWhatARouterSees(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.list(t, "user", "u1", "a", nil)
	r.list(t, "user", "u2", "b", nil)
	rt, err := router.New(t.Context(), natstest.Connect(t, r.ns), r, router.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	if err := rt.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := run(t, nil, "explain", "user", "--from", "r1/b", "--nats-url", r.url)
	if lines := strings.Split(squeeze(got.stdout), "\n"); got.code != 0 || got.stderr != "" || len(lines) != 9 || lines[3] != "zone 1 1 100 % 0.5 ms assumed 0 -" || !strings.HasPrefix(lines[7], "u2 zone 0.5 ms assumed up closed 0 picked") {
		t.Errorf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
	for _, tt := range []struct{ from, says string }{
		{"r1", ""},
		{"_/b", ""},
		{"r1/zz", "router: no instance of user is in r1/zz, check the name if there should be one: its instances are in r1/a, r1/b\n"},
		{"r3/a/rack", "router: no instance of user is in r3/a, check the name if there should be one: its instances are in r1/a, r1/b\n"},
		{"r3", "router: no instance of user is in r3, check the name if there should be one: its instances are in r1/a, r1/b\n"},
	} {
		got := run(t, nil, "explain", "user", "--from", tt.from, "--json", "--nats-url", r.url)
		if got.code != 0 || got.stderr != tt.says || !strings.Contains(got.stdout, `"u2"`) {
			t.Errorf("from %s: %d\n%s%s", tt.from, got.code, got.stdout, got.stderr)
		}
	}
	if got := run(t, nil, "explain", "nobody", "--nats-url", r.url); got.code != 1 || got.stderr != "router: no instance of service \"nobody\" is listed\n" {
		t.Errorf("%d %s", got.code, got.stderr)
	}
}

func TestExplainPrintsPanicStalenessAndNotesOfCircles(t *testing.T) {
	var out strings.Builder
	err := printExplanation(&out, selector.Explanation{
		Service: "user", From: "r1/a", Strategy: "p2c", Panic: true, Stale: true,
		Circles: []selector.Circle{
			{Name: "region", Instances: 3, Usable: 1, Share: 0.9876, BestMS: 2.04, DistanceSource: "shared", Load: 1.25, Note: "panic: 1 that are not usable fill in"},
			{Name: "zone", Instances: 2, Usable: 2, Share: 0.0124, BestMS: 40, DistanceSource: "measured", Demoted: true, Note: "demoted: 40 ms away, while region is at 2.04 ms"},
			{Name: "elsewhere", Instances: 1},
		},
	})
	want := "user from r1/a by p2c, stale: the registry cannot be reached, in panic: fewer than half are usable\n\n" +
		"CIRCLE INSTANCES USABLE SHARE BEST SOURCE LOAD NOTE\n" +
		"region 3 1 98.8 % 2.04 ms shared 1.25 panic: 1 that are not usable fill in\n" +
		"zone 2 2 1.24 % 40 ms measured 0 demoted: 40 ms away, while region is at 2.04 ms\n" +
		"elsewhere 1 0 0 % - - 0 -\n\n" +
		"INSTANCE CIRCLE DISTANCE SOURCE STATUS BREAKER IN FLIGHT WHY"
	if got := squeeze(out.String()); err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestWatchPrintsEveryChange(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.list(t, "user", "u1", "a", nil)
	stdout, stderr, end := begin(t, "watch", "--nats-url", r.url)
	jsonOut, _, endJSON := begin(t, "watch", "user", "--json", "--nats-url", r.url)
	line := func(pattern string) { t.Helper(); stdout.Await(t, `^\d\d:\d\d:\d\d\.\d{3}  `+pattern+`$`) }
	line(`listed +user +u1 +r1/a  nats=user.u1`)
	jsonOut.Await(t, `"kind":"listed"`)

	in, revision := r.list(t, "other", "o1", "b", func(in *events.Instance) { in.Status = events.NotReady })
	line(`registered +other +o1 +r1/b  nats=other.o1  not_ready`)
	in.Status, in.Version, in.Weight, in.Metadata = events.Up, "2", 50, map[string]string{"k": "v"}
	in.Endpoints = map[string]string{"nats": "other.new"}
	in.Location.Rack = "k"
	revision, err := r.Register(t.Context(), in, revision)
	if err != nil {
		t.Fatal(err)
	}
	line(`updated +other +o1 +endpoints=nats=other.new, location=r1/b/k, status=up, version=2, weight=50, metadata`)
	in.Status, in.TTL = events.Draining, 30*time.Minute
	if revision, err = r.Register(t.Context(), in, revision); err != nil {
		t.Fatal(err)
	}
	line(`draining +other +o1 +r1/b/k`)
	if err := r.Deregister(t.Context(), &in, revision); err != nil {
		t.Fatal(err)
	}
	line(`deregistered +other +o1 +r1/b/k`)
	r.list(t, "user", "u2", "a", func(in *events.Instance) { in.TTL = time.Second })
	line(`expired +user +u2 +r1/a`)
	jsonOut.Await(t, `"kind":"expired"`)

	if code := end(); code != 0 {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	if code := endJSON(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	var kinds []string
	for in := bufio.NewScanner(strings.NewReader(jsonOut.String())); in.Scan(); {
		var c directory.Change
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			t.Fatalf("not JSON: %s", in.Text())
		}
		kinds = append(kinds, string(c.Kind)+" "+c.Instance.ID)
	}
	if got := strings.Join(kinds, ","); got != "listed u1,registered u2,expired u2" {
		t.Errorf("got %s", got)
	}
}

func TestWatchShowsWhetherAnInstanceIsEvacuated(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.list(t, "user", "u1", "a", nil)
	stdout, _, _ := begin(t, "watch", "--nats-url", r.url)
	stdout.Await(t, `listed +user +u1`)
	for _, evacuated := range []bool{true, false} {
		if _, err := r.Evacuate(t.Context(), events.Evacuation{Region: "r1", Zone: "a", Evacuated: evacuated}); err != nil {
			t.Fatal(err)
		}
		stdout.Await(t, fmt.Sprintf(`updated +user +u1 +evacuated=%v$`, evacuated))
	}
}

func TestWatchReportsThatNATSAndTheRegistryAreBack(t *testing.T) {
	t.Parallel()
	address := testkit.FreeAddress(t)
	first := natstest.Start(t, natstest.ListenAt(address))
	registryOn(t, first).list(t, "user", "u1", "a", nil)
	stdout, stderr, _ := begin(t, "watch", "--nats-url", "nats://"+address)
	stdout.Await(t, `listed +user +u1`)
	natstest.Stop(first)
	stderr.Await(t, `msg="lost the connection to NATS"`)
	second := natstest.Start(t, natstest.ListenAt(address))
	stderr.Await(t, `msg="connected to NATS again" url=nats://`+address)
	registryOn(t, second) // makes the bucket, which was in memory
	stderr.Await(t, `msg="the registry is back"`)
}

func TestReportsInOneLineWhyItCannotAnswer(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	nowhere := []string{"--nats-url", "nats://127.0.0.1:1", "--connect-timeout", "100ms"}
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a service that is none":   {[]string{"instances", "nobody", "--nats-url", r.url}, 1, `no instance of service "nobody" is listed`},
		"unknown to us":            {[]string{"explain", "nobody", "--nats-url", r.url}, 1, `no instance of service "nobody" is listed`},
		"a bad name":               {[]string{"instances", "No_Body"}, 2, `service "No_Body": want`},
		"a bad name to explain":    {[]string{"explain", "a.b"}, 2, `service "a.b": want`},
		"a bad name to watch":      {[]string{"watch", "a.b"}, 2, `service "a.b": want`},
		"a place that is none":     {[]string{"explain", "user", "--from", "a b"}, 2, "--from a b: want region/zone"},
		"no service":               {[]string{"instances"}, 2, "expected"},
		"no NATS for services":     {append([]string{"services"}, nowhere...), 1, "cannot reach NATS"},
		"no NATS for instances":    {append([]string{"instances", "user"}, nowhere...), 1, "cannot reach NATS"},
		"no NATS for explain":      {append([]string{"explain", "user"}, nowhere...), 1, "cannot reach NATS"},
		"no NATS for watch":        {append([]string{"watch"}, nowhere...), 1, "cannot reach NATS"},
		"a bucket that is no name": {[]string{"services", "--bucket", "a b", "--nats-url", r.url}, 2, "--bucket"},
		"a bucket that is not":     {[]string{"services", "--bucket", "none", "--nats-url", r.url}, 1, `no server has bucket "none"`},
		"nothing to watch":         {[]string{"watch", "--bucket", "none", "--nats-url", r.url}, 1, `no server has bucket "none"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			got := run(t, nil, tt.args...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.says) || !strings.HasPrefix(got.stderr, "router: ") || !oneLine(got.stderr) {
				t.Errorf("exit code %d, stderr:\n%s", got.code, got.stderr)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}
