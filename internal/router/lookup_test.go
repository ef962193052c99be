package router_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// three lists user instances in three places, the farthest first.
func three(d *door) {
	for id, at := range map[string]topology.Location{"u-far": far, "u-b": zoneB, "u-a": zoneA} {
		d.list(events.Instance{Service: "user", ID: id, Location: at, Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	}
}

func TestListsServicesByName(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	if got := d.get("/v1/services"); got.status != 200 || strings.TrimSpace(got.body) != `{"services":[]}` {
		t.Errorf("an empty registry: %d %s", got.status, got.body)
	}
	three(d)
	d.list(events.Instance{Service: "billing", ID: "b", Status: events.Draining, Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	got := d.get("/v1/services")
	want := `{"services":[{"name":"billing","instances":1,"up":0,"stale":false},{"name":"user","instances":3,"up":3,"stale":false}]}`
	if got.status != 200 || strings.TrimSpace(got.body) != want || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func TestListsInstancesNearestFirst(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	three(d)
	for _, tt := range []struct {
		query, want string
	}{
		{"", "u-a zone u-b region u-far elsewhere"},
		{"?from=r2/c", "u-far zone u-a elsewhere u-b elsewhere"},
		{"?from=r1/b", "u-b zone u-a region u-far elsewhere"},
		{"?from=r1", "u-a region u-b region u-far elsewhere"},
		{"?from=r2/c&limit=1", "u-far zone"},
		{"?limit=99", "u-a zone u-b region u-far elsewhere"},
	} {
		got := d.get("/v1/services/user" + tt.query)
		list := decode[router.Instances](t, got.body)
		var order []string
		for _, in := range list.Instances {
			order = append(order, in.ID, in.Circle)
		}
		if s := strings.Join(order, " "); got.status != 200 || s != tt.want || list.Service != "user" || list.Stale {
			t.Errorf("%s: got %d %s, want %s", tt.query, got.status, s, tt.want)
		}
	}
}

func TestListsInstancesWithAllFieldsOfTheContract(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.list(events.Instance{
		Service: "user", ID: "u1", Incarnation: "i1", Location: topology.Location{Region: "r1", Zone: "a", Rack: "k", Host: "h"},
		Endpoints: map[string]string{"http": "10.0.0.5:8080", "grpc": "10.0.0.5:9090"}, Version: "1.4.2", Metadata: map[string]string{"team": "a"},
	})
	var got struct {
		Service   string
		Stale     bool
		Instances []map[string]any
	}
	if err := json.Unmarshal([]byte(d.get("/v1/services/user").body), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Instances) != 1 {
		t.Fatalf("got %v", got)
	}
	in := got.Instances[0]
	delete(in, "started")
	want := map[string]any{
		"id": "u1", "service": "user", "incarnation": "i1", "status": "up", "version": "1.4.2", "weight": 100.0, "ttl": "1h0m0s",
		"endpoints": map[string]any{"http": "10.0.0.5:8080", "grpc": "10.0.0.5:9090"},
		"location":  map[string]any{"region": "r1", "zone": "a", "rack": "k", "host": "h"},
		"metadata":  map[string]any{"team": "a"},
		"circle":    "zone", "distance_ms": 0.5, "distance_source": "assumed", "breaker": "closed", "suspect": false, "evacuated": false,
	}
	if diff := cmp.Diff(want, in); diff != "" {
		t.Error(diff)
	}
}

// Programs that read by position, and people, rely on the order of the fields.
func TestFieldsStandInTheOrderOfTheContract(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	const in = `"id":"u1","service":"user","incarnation":"i1","endpoints":{"http":"127.0.0.1:9"},"location":{"region":"r1","zone":"a"},` +
		`"status":"up","version":"1.4.2","weight":100,"metadata":{"team":"\u003ca\u003e"},` +
		`"coordinate":{"vec":[0,0,0,0,0,0,0,0],"error":1.5,"adjustment":0,"height":0.00001},"started":"2026-11-28T10:00:00Z","ttl":"1h0m0s"`
	for _, tt := range []struct{ method, path, body, want string }{
		{"POST", "/v1/register", "{" + in + "}", "{" + in + `,"heartbeat_every":"20m0s"}`},
		{"GET", "/v1/services", "", `{"services":[{"name":"user","instances":1,"up":1,"stale":false}]}`},
		{"GET", "/v1/services/user", "", `{"service":"user","stale":false,"instances":[{` + in +
			`,"circle":"zone","distance_ms":0.5,"distance_source":"assumed","breaker":"closed","suspect":false,"evacuated":false}]}`},
		{"PUT", "/v1/heartbeat", `{"id":"u1","service":"user"}`, `{"service":"user","id":"u1","heartbeat_every":"20m0s"}`},
		{"DELETE", "/v1/deregister", `{"id":"u1","service":"user","incarnation":"i1"}`, `{"service":"user","id":"u1","incarnation":"i1"}`},
	} {
		if got := strings.TrimSpace(d.do(tt.method, tt.path, tt.body).body); got != tt.want {
			t.Errorf("%s %s: got %s\nwant %s", tt.method, tt.path, got, tt.want)
		}
	}
}

func TestExplainsEveryCandidate(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	three(d)
	got := d.get("/v1/explain/user?from=r1/b")
	e := decode[selector.Explanation](t, got.body)
	if got.status != 200 || e.From != "r1/b" || len(e.Instances) != 3 || e.Instances[0].ID != "u-b" || !e.Instances[0].Near || e.Instances[2].Reason == "" {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func TestAnswersErrorsAsJSON(t *testing.T) {
	t.Parallel()
	d := newFleet(t).router(router.Options{})
	three(d)
	big := `{"id":"u","service":"user","metadata":{"a":"` + strings.Repeat("x", 70<<10) + `"}}`
	for _, tt := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/v1/services/nobody", "", 404, `unknown service "nobody"`},
		{"GET", "/v1/explain/nobody", "", 404, `unknown service "nobody"`},
		{"GET", "/v1/services/No_Body", "", 400, `service "No_Body": want a DNS label`},
		{"GET", "/v1/services/user?from=a/b/c/d/e", "", 400, `from "a/b/c/d/e": want region/zone`},
		{"GET", "/v1/explain/user?from=a%20b", "", 400, `from "a b": want region/zone`},
		{"GET", "/v1/services/user?limit=0", "", 400, `limit "0": want a whole number from 1`},
		{"GET", "/v1/services/user?limit=-1", "", 400, `limit "-1"`},
		{"GET", "/v1/services/user?limit=1e3", "", 400, `limit "1e3"`},
		{"GET", "/v1/services/user?limit=99999999999999999999", "", 400, `limit`},
		{"GET", "/v1/events?service=a.b", "", 400, `service "a.b"`},
		{"GET", "/v1/services?limit=1", "", 400, `query "limit": there are no parameters here`},
		{"GET", "/v1/services/user?form=r1/a", "", 400, `query "form": want from, where, limit`},
		{"GET", "/v1/services/user?limit=1&limit=2", "", 400, `query "limit": want it once`},
		{"GET", "/v1/services/user?limit=1;from=r1/a", "", 400, `query "limit=1;from=r1/a": want name=value, joined by &`},
		{"GET", "/v1/explain/user?from=%zz", "", 400, `query "from=%zz"`},
		{"GET", "/v1/events?servce=user", "", 400, `query "servce": want service`},
		{"PUT", "/v1/heartbeat?service=user&id=a&id=b", "", 400, `query "id": want it once`},
		{"DELETE", "/v1/services/user/a?id=b", "", 400, `query "id": want incarnation`},
		{"POST", "/v1/register", `{"id":"a","service":"user","endpoints":{"http":"h:1"},"id":"b"}`, 400, `body "id": field "id" is there twice`},
		{"PUT", "/v1/heartbeat", `{"id":"a","service":"user","id":"b"}`, 400, `field "id" is there twice`},
		{"POST", "/v1/services", "", 405, "not allowed"},
		{"GET", "/v1/register", "", 405, "not allowed"},
		{"POST", "/v1/heartbeat", "{}", 405, "not allowed"},
		{"GET", "/v1/nothing", "", 404, "nothing at this path"},
		{"GET", "/", "", 404, "nothing at this path"},
		{"POST", "/v1/register", big, 413, "too large"},
		{"POST", "/v1/register", "not json", 400, `body "not json": want an instance as JSON`},
		{"POST", "/v1/register", `{"id":"a b","service":"user","endpoints":{"http":"h:1"}}`, 400, `id "a b": want 1 to 63`},
		{"POST", "/v1/register", `{"id":"a","service":"User","endpoints":{"http":"h:1"}}`, 400, `service "User"`},
		{"POST", "/v1/register", `{"id":"a","service":"user"}`, 400, `endpoints`},
		{"POST", "/v1/register", `{"id":"a","service":"user","endpoints":{"http":"h:1"},"ttl":"soon"}`, 400, `ttl "soon"`},
		{"POST", "/v1/register", `{"id":"a","service":"user","endpoints":{"http":"h:1"},"ttl":"1500ms"}`, 400, `ttl "1.5s"`},
		{"PUT", "/v1/heartbeat", `{"id":"nope","service":"user"}`, 404, `"nope" of user`},
		{"PUT", "/v1/heartbeat", `{"id":"","service":"user"}`, 400, `id ""`},
		{"PUT", "/v1/heartbeat", `[]`, 400, `body "[]": want JSON`},
		{"DELETE", "/v1/deregister", `{"id":"nope","service":"user"}`, 404, `"nope" of user`},
		{"GET", "/proxy/nobody/x", "", 503, `service "nobody" is not listed`},
		{"GET", "/proxy/No_Body/x", "", 400, `service "No_Body"`},
	} {
		got := d.do(tt.method, tt.path, tt.body)
		if got.status != tt.status || !strings.Contains(got.err(), tt.says) {
			t.Errorf("%s %s: got %d %s, want %d %s", tt.method, tt.path, got.status, got.body, tt.status, tt.says)
		}
		if tt.status == 405 && got.header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow header", tt.method, tt.path)
		}
	}
}

func TestOtherSitesPagesMayNotRegister(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	body := `{"id":"a","service":"user","endpoints":{"http":"127.0.0.1:9"}}`
	got := d.do("POST", "/v1/register", body, "Origin", "http://evil.example", "Content-Type", "text/plain")
	if got.status != 403 || got.err() == "" {
		t.Errorf("a request of another site: %d %s", got.status, got.body)
	}
	if got := d.do("POST", "/v1/register", body); got.status != 201 {
		t.Errorf("without a browser: %d %s", got.status, got.body)
	}
}

func TestHEADIsGETWithoutABody(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	if got := d.do(http.MethodHead, "/v1/services", ""); got.status != 200 || got.body != "" {
		t.Errorf("got %d %q", got.status, got.body)
	}
}
