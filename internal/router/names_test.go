package router_test

import (
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestADottedServiceIsWrittenPlainlyAtTheDoors(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	for _, service := range []string{"payments", "payments.user", "grpc.health.v1.Health"} {
		d.instance(service, "u", zoneA, says(service))
	}
	for _, service := range []string{"payments", "payments.user", "grpc.health.v1.Health"} {
		if got := d.get("/proxy/" + service + "/a"); got.status != 200 || got.body != service {
			t.Errorf("/proxy/%s/a: %d %s", service, got.status, got.body)
		}
		if got := d.get("/a", "Host", service+".proxima:8080"); got.status != 200 || got.body != service {
			t.Errorf("host of %s: %d %s", service, got.status, got.body)
		}
		for _, path := range []string{"/v1/services/", "/v1/explain/"} {
			if got := d.get(path + service); got.status != 200 || decode[router.Instances](t, got.body).Service != service {
				t.Errorf("%s%s: %d %s", path, service, got.status, got.body)
			}
		}
		if reply, code := d.ask("proxima.route."+service, ""); code != "" || string(reply.Data) != service {
			t.Errorf("proxima.route.%s: %s %s", service, code, reply.Data)
		}
		for _, door := range []string{"resolve", "explain"} {
			if reply, code := d.ask("proxima."+door+"."+service, ""); code != "" || decode[router.Instances](t, string(reply.Data)).Service != service {
				t.Errorf("proxima.%s.%s: %s %s", door, service, code, reply.Data)
			}
		}
	}
	if _, code := d.ask("proxima.route.payments.unknown", ""); code != "404" {
		t.Errorf("a service that is not listed: %s", code)
	}
	if _, code := d.ask("proxima.route.payments._x", ""); code != "400" {
		t.Errorf("a name that no service has: %s", code)
	}
	if got := d.do("PUT", "/v1/heartbeat", `{"service":"payments.user","id":"u"}`); got.status != 200 {
		t.Errorf("a heartbeat: %d %s", got.status, got.body)
	}
	if got := d.do("DELETE", "/v1/services/payments.user/u", ""); got.status != 200 && got.status != 204 {
		t.Errorf("deregistered: %d %s", got.status, got.body)
	}
	testkit.Eventually(t, "it is not listed", func() bool { return d.get("/proxy/payments.user/").status == 503 })
}

func TestTheDescriptionOfTheAPIKnowsTheNames(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	doc := decode[struct {
		Components struct {
			Schemas map[string]struct {
				Properties struct {
					Service   struct{ Pattern string }
					Endpoints struct{ PropertyNames struct{ Pattern string } }
				}
			}
		}
	}](t, d.get("/v1/openapi.json").body)
	n := 0
	for name, schema := range doc.Components.Schemas {
		service, endpoint := schema.Properties.Service.Pattern, schema.Properties.Endpoints.PropertyNames.Pattern
		if endpoint == "" {
			continue
		}
		n++
		for text, valid := range map[string]bool{
			"user": true, "user-2": true, "payments.user": true, "grpc.health.v1.Health": true, "a.b_c.D": true, "a.b.c.d.e.f.g.h": true,
			"User": false, "us_er": false, "": false, "-a": false, "a.": false, ".a": false, "a..b": false, "a.-b": false, "a.b.c.d.e.f.g.h.i": false,
			strings.Repeat("a", 63): true, strings.Repeat("a", 64): false, "a." + strings.Repeat("b", 64): false,
		} {
			if got := regexp.MustCompile(service).MatchString(text); got != valid || (events.ValidateService(text) == nil) != valid {
				t.Errorf("%s: service %q: %t, want %t", name, text, got, valid)
			}
		}
		for text, valid := range map[string]bool{
			"http": true, "grpcs": true, "udp": true, "http.admin": true, "nats.a-1": true, "quic": false, "http.": false, "http.A": false, "http.a-": false, "http.abcdefghijklmnop": false,
		} {
			if got := regexp.MustCompile(endpoint).MatchString(text); got != valid {
				t.Errorf("%s: endpoint %q: %t, want %t", name, text, got, valid)
			}
		}
	}
	if n == 0 {
		t.Error("no instance is described")
	}
}

func TestAHostHasNoCase(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("helloworld.Greeter", "u", zoneA, says("Greeter"))
	check := func(host string, status int, want string) {
		t.Helper()
		if got := d.get("/", "Host", host); got.status != status || !strings.Contains(got.body, want) {
			t.Errorf("%s: %d %s, want %d %s", host, got.status, got.body, status, want)
		}
	}
	check("helloworld.Greeter.proxima", 200, "Greeter")
	check("helloworld.greeter.proxima", 200, "Greeter")
	check("HELLOWORLD.GREETER.PROXIMA", 200, "Greeter")
	d.instance("helloworld.greeter", "u", zoneA, says("greeter"))
	check("helloworld.Greeter.proxima", 200, "Greeter") // of that spelling
	check("helloworld.greeter.proxima", 200, "greeter")
	check("HELLOWORLD.GREETER.PROXIMA", 400, "helloworld.Greeter and helloworld.greeter")
	if got := d.get("/proxy/helloworld.GREETER/"); got.status != 503 {
		t.Errorf("a path has case: %d %s", got.status, got.body)
	}
}

func TestAHeaderChoosesAnEndpointByItsName(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{Selector: selector.Options{Location: zoneA}})
	plain, admin := httptest.NewServer(says("plain")), httptest.NewServer(echo())
	t.Cleanup(plain.Close)
	t.Cleanup(admin.Close)
	d.list(events.Instance{Service: "user", ID: "near", Location: zoneA, Endpoints: map[string]string{"http": plain.Listener.Addr().String()}})
	d.list(events.Instance{Service: "user", ID: "far", Location: zoneB, Endpoints: map[string]string{
		"http": plain.Listener.Addr().String(), "http.admin": admin.Listener.Addr().String(), "nats.jobs": "user.jobs",
	}})
	if _, err := f.nc.Subscribe("user.jobs", func(msg *nats.Msg) { _ = msg.Respond([]byte("jobs")) }); err != nil {
		t.Fatal(err)
	}
	if got := d.get("/proxy/user/"); got.body != "plain" || got.header.Get("Proxima-Instance") != "near" {
		t.Errorf("without a name: %s %s", got.header.Get("Proxima-Instance"), got.body)
	}
	got := d.get("/proxy/user/a", "Proxima-Endpoint", "admin")
	if !strings.HasPrefix(got.body, "GET /a ") || got.header.Get("Proxima-Instance") != "far" || strings.Contains(got.body, "Proxima-Endpoint") {
		t.Errorf("admin: %d %s", got.status, got.body)
	}
	for name, status := range map[string]int{"other": 503, "jobs": 503, "Admin": 400, "a.b": 400, "-": 400} {
		if got := d.get("/proxy/user/", "Proxima-Endpoint", name); got.status != status || !strings.Contains(got.err(), name) {
			t.Errorf("%s: %d %s, want %d", name, got.status, got.body, status)
		}
	}
	for name, want := range map[string]string{"jobs": "jobs", "admin": "GET / "} {
		if reply, code := d.ask("proxima.route.user", "", "Proxima-Endpoint", name, "Proxima-Method", "GET"); code != "" || !strings.HasPrefix(string(reply.Data), want) {
			t.Errorf("%s by NATS: %s %s", name, code, reply.Data)
		}
	}
	if _, code := d.ask("proxima.route.user", "", "Proxima-Endpoint", "other"); code != "503" {
		t.Errorf("other by NATS: %s", code)
	}
	var all router.Instances
	if err := decodeInto([]byte(d.get("/v1/services/user").body), &all); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all.Instances, func(i router.Instance) bool { return i.Endpoints["http.admin"] == admin.Listener.Addr().String() }) {
		t.Errorf("no list has the endpoint: %+v", all)
	}
}
