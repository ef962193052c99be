package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

// contractWorld is a NATS server whose messages are all recorded, and a router.
type contractWorld struct {
	*contract
	t                  *testing.T
	ns                 *server.Server
	announcer, router  string // the programs
	url, door          string // of NATS and of the router's HTTP
	nc                 *nats.Conn
	serve, watch       *testkit.Process
	one, filed, mortal *testkit.Process // announcers
	file               string           // of the second
	service            *httptest.Server // of the instances
	failing            sync.Map         // ids whose check fails
}

func newContractWorld(t *testing.T, c *contract, announcer, router string) *contractWorld {
	t.Helper()
	ns := natstest.Start(t, natstest.Listen)
	w := &contractWorld{contract: c, t: t, ns: ns, announcer: announcer, router: router, url: ns.ClientURL(), nc: natstest.Connect(t, ns)}
	w.service = httptest.NewServer(http.HandlerFunc(w.instance))
	t.Cleanup(w.service.Close)
	w.serves()
	// A subscriber of all subjects is a responder on each of them, and the stream of
	// samples is made when there is none: the recorder comes second.
	w.http(w.door, "POST", "/v1/register", w.full("user", "two", nil))
	w.listed("user", "two", "up")
	testkit.Retry(t, "the stream of samples is made", func(ctx context.Context) error {
		js, err := jetstream.New(w.nc)
		if err == nil {
			_, err = js.Stream(ctx, "PROXIMA_LATENCY")
		}
		return err
	})
	sub, err := natstest.Connect(t, ns).Subscribe(">", c.message)
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}

	w.watch = w.start(router, "watch", "--json", "--nats-url", w.url)
	w.watch.Stdout.Await(t, `"kind":"listed"`)
	ctx, cancel := context.WithCancel(context.Background())
	events, err := http.NewRequestWithContext(ctx, http.MethodGet, w.door+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := http.DefaultTransport.RoundTrip(events)
	if err != nil {
		t.Fatal(err)
	}
	c.see("http GET /v1/events %d header Content-Type: %s", stream.StatusCode, stream.Header.Get("Content-Type"))
	var reading sync.WaitGroup
	reading.Go(func() { w.events(stream.Body) })
	t.Cleanup(func() {
		cancel()
		stream.Body.Close()
		reading.Wait()
	})
	return w
}

// serves starts the router.
func (w *contractWorld) serves() {
	w.t.Helper()
	w.serve = w.start(w.router, "serve", "--nats-url", w.url, "--http", "127.0.0.1:0", "--region", "r1", "--zone", "z1", "--strategy", "load_aware")
	w.door = w.serve.Stdout.Await(w.t, `^HTTP: (http://\S+)$`)
	testkit.Eventually(w.t, "the router is ready", func() bool { return w.get("/readyz").status == http.StatusOK })
}

func (w *contractWorld) start(program string, args ...string) *testkit.Process {
	w.t.Helper()
	return testkit.Start(w.t, testkit.Command{Path: program, Args: args})
}

func (w *contractWorld) get(path string, header ...string) answer {
	w.t.Helper()
	return w.http(w.door, "GET", path, "", header...)
}

// ask sends a request by NATS; the reply is recorded with all other messages.
func (w *contractWorld) ask(subject, data string, header ...string) *nats.Msg {
	w.t.Helper()
	msg := nats.NewMsg(subject)
	msg.Data = []byte(data)
	for i := 0; i < len(header); i += 2 {
		msg.Header.Set(header[i], header[i+1])
	}
	reply, err := w.nc.RequestMsg(msg, 10*time.Second)
	if err != nil {
		w.t.Fatalf("%s: %v", subject, err)
	}
	return reply
}

// command runs a command that prints JSON, and records that.
func (w *contractWorld) command(args ...string) []byte {
	w.t.Helper()
	p := w.start(w.router, append(args, "--json", "--nats-url", w.url)...)
	if code := p.Exit(); code != 0 {
		w.t.Errorf("%q: exit code %d", args, code)
	}
	out, name := []byte(p.Stdout.String()), args[0]
	if name == "policy" {
		name += " " + args[1]
	}
	w.json("router "+name+" --json", out)
	return out
}

// events records server-sent events until the stream ends.
func (w *contractWorld) events(stream io.Reader) {
	for s := bufio.NewScanner(stream); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), ": ")
		switch name {
		case "":
		case "event":
			w.see("http GET /v1/events event %s", value)
		default:
			w.see("http GET /v1/events line %s", name)
			w.json("http GET /v1/events", []byte(value))
		}
	}
}

// changes records what router watch has printed until now.
func (w *contractWorld) changes() {
	for line := range strings.Lines(w.watch.Stdout.String()) {
		w.json("router watch --json", []byte(line))
	}
}

// instance is the program of all instances. Paths begin with the id.
func (w *contractWorld) instance(rw http.ResponseWriter, req *http.Request) {
	id, path, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	if id == "load" {
		fmt.Fprint(rw, `{"cpu":0.25,"mem":0.5,"in_flight":3,"queue":1,"incarnation":"its-own"}`)
		return
	}
	if path == "healthz" {
		w.see("an announcer's check sends User-Agent %s", req.UserAgent())
		if _, fails := w.failing.Load(id); fails {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	for name := range req.Header {
		w.see("an instance gets by HTTP: header %s", name)
	}
	_, _ = io.Copy(rw, req.Body)
}

// record is an instance as JSON, as it is registered by HTTP or listed in a file.
func (w *contractWorld) record(service, id string, more map[string]any) string {
	in := map[string]any{
		"service": service, "id": id, "location": map[string]string{"region": "r1", "zone": "z1", "rack": "k1", "host": "h1"},
		"endpoints": map[string]string{"http": w.service.Listener.Addr().String()}, "ttl": "5m",
	}
	maps.Copy(in, more)
	data, err := json.Marshal(in)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// full is a record with all fields.
func (w *contractWorld) full(service, id string, more map[string]any) string {
	all := map[string]any{
		"incarnation": "i1", "version": "1.2.3", "weight": 50, "metadata": map[string]string{"team": "a"}, "started": "2026-01-02T03:04:05Z", "status": "up",
		"coordinate": map[string]any{"vec": []float64{1, 2, 3, 4, 5, 6, 7, 8}, "error": 0.5, "adjustment": 0.001, "height": 0.002},
	}
	maps.Copy(all, more)
	return w.record(service, id, all)
}

// listed waits until the router lists an instance with a status, "" for none.
func (w *contractWorld) listed(service, id, status string) {
	w.t.Helper()
	testkit.Eventually(w.t, fmt.Sprintf("%s of %s is listed with status %q", id, service, status), func() bool {
		var list struct {
			Instances []struct{ ID, Status string }
		}
		if a := w.get("/v1/services/" + service); a.status == http.StatusOK {
			if err := json.Unmarshal(a.body, &list); err != nil {
				w.t.Fatal(err)
			}
		}
		for _, in := range list.Instances {
			if in.ID == id {
				return in.Status == status
			}
		}
		return status == ""
	})
}
