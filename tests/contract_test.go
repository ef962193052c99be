package tests

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

var updateContract = flag.Bool("update-contract", false, "add what is seen to testdata/contract.txt")

// TestTheContractIsWhatIsSeenFromOutside runs the real commands through the life
// of some instances and compares every name that another program could depend on
// with testdata/contract.txt: flags with their variables and defaults, subjects,
// keys, headers, paths, statuses, JSON fields, metrics, streams. It knows nothing
// of the code inside. A name may be added there, with -update-contract; to rename
// or remove one breaks programs that are not in this repository.
func TestTheContractIsWhatIsSeenFromOutside(t *testing.T) {
	t.Parallel()
	commands := programs(t)
	c := newContract(t)
	announcer, router := filepath.Join(commands, "announcer"), filepath.Join(commands, "router")
	var all sync.WaitGroup
	all.Go(func() {
		c.help("announcer", announcer)
		c.help("router", router)
	})
	all.Go(func() { c.regions(announcer) })
	w := newContractWorld(t, c, announcer, router)
	w.register()
	w.announce()
	w.call()
	w.share()
	w.operate()
	w.fail()
	w.leave()
	w.streams()
	w.lose()
	all.Wait()
	c.check("testdata/contract.txt", *updateContract)
}

// register uses the registration by HTTP, and its errors.
func (w *contractWorld) register() {
	full := w.full("user", "two", nil)
	for _, body := range []string{full, full, w.record("orders", "refuses", map[string]any{"endpoints": map[string]string{"http": testkit.FreeAddress(w.t)}})} {
		w.http(w.door, "POST", "/v1/register", body)
	}
	w.http(w.door, "POST", "/v1/register", w.record("orders", "three", map[string]any{"location": map[string]string{}, "endpoints": map[string]string{"nats": "orders.calls"}}))
	w.http(w.door, "POST", "/v1/register", w.record("user", "two", map[string]any{"incarnation": "i2", "endpoints": map[string]string{"http": "127.0.0.1:9"}}))
	w.http(w.door, "POST", "/v1/register", `{`)
	w.http(w.door, "POST", "/v1/register", `{"service":"`+strings.Repeat("x", 1<<20)+`"}`)
	w.http(w.door, "POST", "/v1/register", full, "Origin", "http://elsewhere", "Sec-Fetch-Site", "cross-site")
	w.http(w.door, "PUT", "/v1/heartbeat", `{"service":"user","id":"two"}`)
	w.http(w.door, "PUT", "/v1/heartbeat", `{"service":"user","id":"unknown"}`)
	w.http(w.door, "PUT", "/v1/heartbeat", `{"service":"USER","id":"two"}`)
	w.http(w.door, "DELETE", "/v1/deregister", `{"service":"user","id":"unknown"}`)
	for _, wrong := range []string{"/v1/services", "/v1/services/user", "/v1/explain/user", "/v1/events", "/v1/register", "/v1/heartbeat", "/v1/deregister", "/healthz", "/readyz", "/metrics"} {
		w.http(w.door, "PATCH", wrong, "")
	}
	w.get("/")
	w.get("/healthz")
	w.listed("user", "two", "up")
}

// announce has the announcer list one instance with all that a flag can say of
// it, those of a file with all fields, and one that is going to die.
func (w *contractWorld) announce() {
	at := []string{"--nats-url", w.url, "--region", "r1", "--zone", "z1", "--admin", "127.0.0.1:0"}
	address := w.service.Listener.Addr().String()
	w.one = w.start(w.announcer, append(at, "run", "--service", "user", "--id", "one", "--endpoint", "http="+address, "--endpoint", "nats=user.calls",
		"--rack", "k1", "--host", "h1", "--ttl", "3s", "--check", "http://"+address+"/one/healthz", "--check-interval", "50ms", "--drain", "1s",
		"--metadata", "team=a", "--weight", "10", "--load", "http://"+address+"/load", "--beat-interval", "100ms", "--service-version", "1.2.3")...)
	w.file = filepath.Join(w.t.TempDir(), "instances.json")
	w.write(map[string]any{"team": "a"})
	w.filed = w.start(w.announcer, append(at, "file", w.file, "--poll", "100ms", "--check-interval", "50ms")...)
	w.mortal = w.start(w.announcer, append(at, "run", "--service", "mortal", "--id", "four", "--endpoint", "tcp="+address, "--ttl", "1s", "--check", "none")...)
	w.start(w.announcer, append(at, "run", "--service", "mortal", "--id", "five", "--endpoint", "tcp="+address, "--ttl", "3s", "--check", "none")...) // the last one would be a suspect
	w.listed("user", "one", "up")
	w.listed("filed", "three", "up")
	w.listed("mortal", "four", "up")
	w.listed("mortal", "five", "up")
	for _, p := range []*testkit.Process{w.one, w.filed} {
		admin := "http://" + p.Stderr.Await(w.t, `address=(\S+)`)
		for _, path := range []string{"/healthz", "/readyz", "/other"} {
			a := w.http(admin, "GET", path, "")
			w.see("announcer --admin %s %d", path, a.status)
		}
		w.metrics("announcer", admin)
	}
}

// write writes the file of the announcer, with all fields that an entry may have.
func (w *contractWorld) write(metadata map[string]any) {
	entry := w.full("filed", "three", map[string]any{
		"metadata": metadata, "check": "http://" + w.service.Listener.Addr().String() + "/three/healthz", "drain": "1s",
	})
	if err := os.WriteFile(w.file, []byte("["+entry+"]"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// call calls through the router and looks services up, by HTTP and by NATS.
func (w *contractWorld) call() {
	answers, err := w.nc.Subscribe("*.calls", func(msg *nats.Msg) {
		if err := msg.RespondMsg(&nats.Msg{Data: msg.Data, Header: nats.Header{"Its-Own": {"x"}}}); err != nil {
			w.t.Error(err)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = answers.Unsubscribe() })
	var all sync.WaitGroup // at once: some are tried for over a second
	for _, path := range []string{
		"/proxy/user/one/hello", "/proxy/unknown/", "/proxy/orders/", "/v1/services", "/v1/services/user?from=r1/z1", "/v1/services/user?limit=100", "/v1/services/user?limit=x",
		"/v1/services/user?from=a/b/c", "/v1/services/unknown", "/v1/services/UPPER", "/v1/explain/user?from=r2/z2", "/v1/explain/unknown", "/v1/explain/user?from=a/b/c", "/v1/services/user?where=zone=z1", "/v1/services/user?where=zone%3E", "/v1/explain/user?where=zone=z1", "/v1/explain/user?where=zone%3E", "/v1/events?service=UPPER",
	} {
		all.Go(func() {
			w.get(path, "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Proxima-From", "r1/z1")
		})
	}
	all.Go(func() { w.get("/one/hello", "Host", "user.proxima") })
	all.Go(func() { w.get("/one/hello", "Host", "user.proxima", "Proxima-From", "a/b/c") })
	all.Go(func() { w.http(w.door, "POST", "/proxy/user/one/hello", "body") })
	ask := func(subject, data string, header ...string) { all.Go(func() { w.ask(subject, data, header...) }) }
	ask("proxima.route.user", "body", "Proxima-Path", "/one/hello?x=1", "Proxima-Method", "PUT", "Proxima-From", "r1/z1")
	ask("proxima.route.orders", "body", "Mine", "x", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	for _, wrong := range []string{"Proxima-Path", "Proxima-Method", "Proxima-From"} {
		ask("proxima.route.user", "", wrong, "a b/c/d")
	}
	for _, door := range []string{"route", "resolve", "explain"} {
		ask("proxima."+door+".unknown", "")
		ask("proxima."+door+".UPPER", "")
	}
	ask("proxima.resolve.user", "", "Proxima-From", "r1/z1")
	ask("proxima.explain.user", "", "Proxima-From", "r1/z1")
	ask("proxima.explain.user", "", "Proxima-Where", "zone!=nowhere")
	for _, verb := range []string{"PING", "INFO", "STATS"} {
		ask("$SRV."+verb+".proxima", "")
	}
	all.Wait()
}

// share waits for what callers and instances tell each other.
func (w *contractWorld) share() {
	w.await("nats proxima.latency.<region>.<zone>.<service>.<random> json samples[].rtt_us float")
	w.await("nats proxima.latency.<region>.<zone>.<service>.<random> json coordinate.height float")
	w.await("nats proxima.beat.<service>.<region>.<zone>.<id> json cpu float")
	w.await("nats proxima.ping.<service>.<region>.<zone>.<id> json coordinate.height float")
	w.await("reply to proxima.ping.<service>.<region>.<zone>.<id> json height float")
	testkit.Eventually(w.t, "a distance is measured", func() bool {
		w.get("/v1/explain/user")
		return w.has("json distance_source = measured")
	})
}

// operate uses the commands of operators.
func (w *contractWorld) operate() {
	var all sync.WaitGroup
	for _, args := range [][]string{{"services"}, {"instances", "user"}, {"explain", "user"}, {"doctor"}} {
		all.Go(func() { w.command(args...) })
	}
	all.Wait()
	w.command("evacuate", "r1/z1")
	w.await("nats proxima.evacuate.<region>.<zone> json at string")
	w.command("evacuate")
	w.get("/v1/explain/user")
	w.get("/v1/services/user")
	w.metrics("router", w.door)
	w.command("evacuate", "r2")
	w.command("evacuate", "r2", "--undo")
	w.command("evacuate", "r1/z1", "--undo")
	file := filepath.Join(w.t.TempDir(), "policy.json")
	if err := os.WriteFile(file, []byte(`{"where":"version=2"}`), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.command("policy", "diff", "unknown", file)
	w.command("policy", "set", "unknown", file)
	w.await("nats proxima.policy.<service> json where string")
	w.command("policy", "diff", "unknown", file)
	w.command("policy", "get", "unknown")
	w.command("policy", "list")
	w.command("policy", "rm", "unknown")
	w.await("nats proxima.policy.<service> header KV-Operation = PURGE")
}

// fail has checks fail, an instance die, and its file change.
func (w *contractWorld) fail() {
	w.mortal.Kill()
	w.failing.Store("one", true)
	w.listed("user", "one", "not_ready")
	w.failing.Delete("one")
	w.listed("user", "one", "up")
	w.write(map[string]any{"team": "b"})
	w.await("http GET /v1/events json fields[] = metadata")
	w.listed("mortal", "four", "")
	w.await("http GET /v1/events event expired")
}

// leave ends everything in order.
func (w *contractWorld) leave() {
	w.one.Signal(syscall.SIGTERM)
	w.filed.Signal(syscall.SIGTERM)
	w.await("http GET /v1/events event draining")
	for _, p := range []*testkit.Process{w.one, w.filed} {
		if code := p.Exit(); code != 0 {
			w.t.Errorf("an announcer ends with exit code %d", code)
		}
	}
	w.http(w.door, "DELETE", "/v1/deregister", `{"service":"user","id":"two"}`)
	w.await("http GET /v1/events event deregistered")
	w.metrics("router", w.door)
	testkit.Eventually(w.t, "router watch prints the last change", func() bool {
		w.changes()
		return w.has("router watch --json json kind = deregistered") && w.has("router watch --json json kind = expired")
	})
	if code := w.serve.Stop(); code != 0 {
		w.t.Errorf("the router ends with exit code %d", code)
	}
	if err := w.nc.Flush(); err != nil {
		w.t.Fatal(err)
	}
	w.await("nats proxima.latency.<region>.<zone>.<service>.<random> json leaving bool")
}

// lose has a router answer when an answer does not fit, and without NATS.
func (w *contractWorld) lose() {
	w.serves()
	for i := range 20 {
		w.http(w.door, "POST", "/v1/register", w.record("many", fmt.Sprint("i", i), map[string]any{"metadata": map[string]string{"text": strings.Repeat("x", 60<<10)}}))
	}
	w.listed("many", "i19", "up")
	w.ask("proxima.resolve.many", "")
	natstest.Stop(w.ns)
	testkit.Eventually(w.t, "the list is stale", func() bool {
		w.get("/v1/services")
		w.get("/v1/explain/many")
		w.get("/v1/services/many")
		return w.has("http GET /v1/services 200 json services[].stale_seconds float") && w.has("http GET /v1/explain/<service> 200 json stale_seconds float")
	})
	w.get("/readyz")
	w.metrics("router", w.door)
}

// streams records how the commands have made the streams.
func (w *contractWorld) streams() { w.streamsOf(w.nc) }

func (c *contract) streamsOf(nc *nats.Conn, o ...jetstream.JetStreamOpt) {
	c.tb.Helper()
	js, err := jetstream.New(nc, o...)
	if err != nil {
		c.tb.Fatal(err)
	}
	streams := js.ListStreams(c.tb.Context())
	for info := range streams.Info() {
		data, err := json.Marshal(info.Config)
		if err != nil {
			c.tb.Fatal(err)
		}
		var config map[string]any
		if err := json.Unmarshal(data, &config); err != nil {
			c.tb.Fatal(err)
		}
		for path, value := range flat("", config) {
			switch {
			case strings.HasPrefix(path, "metadata._nats"), path == "first_seq": // the server's, and the time
			case strings.HasPrefix(path, "sources"): // come when the other region can be reached
				c.see("? stream %s %s", info.Config.Name, path)
			default:
				c.see("stream %s %s = %v", info.Config.Name, path, value)
			}
		}
	}
	if err := streams.Err(); err != nil {
		c.tb.Fatal(err)
	}
}

// flat is the leaves of a JSON value by their paths.
func flat(path string, v any) map[string]any {
	all := map[string]any{}
	switch v := v.(type) {
	case map[string]any:
		for key, x := range v {
			maps.Copy(all, flat(strings.TrimPrefix(path+"."+key, "."), x))
		}
	case []any:
		for i, x := range v {
			maps.Copy(all, flat(fmt.Sprintf("%s[%d]", path, i), x))
		}
	default:
		all[path] = v
	}
	return all
}

// regions records what an announcer makes where each region has a registry.
func (c *contract) regions(announcer string) {
	ns := natstest.Start(c.tb, natstest.Listen, func(o *server.Options) { o.JetStreamDomain = "r1" })
	nc := natstest.Connect(c.tb, ns)
	p := testkit.Start(c.tb, testkit.Command{Path: announcer, Args: []string{
		"run", "--nats-url", ns.ClientURL(), "--nats-domain", "r1", "--nats-regions", "r1,r2",
		"--service", "regional", "--id", "one", "--endpoint", "tcp=127.0.0.1:9", "--check", "none", "--region", "r1", "--zone", "z1",
	}})
	p.Stderr.Await(c.tb, `msg=registered`)
	c.streamsOf(nc)
}
