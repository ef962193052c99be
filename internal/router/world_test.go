package router_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/router/registrar"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var (
	zoneA = topology.Location{Region: "r1", Zone: "a"}
	zoneB = topology.Location{Region: "r1", Zone: "b"}
	far   = topology.Location{Region: "r2", Zone: "c"}
)

// fleet is a NATS server with a registry.
type fleet struct {
	tb  testing.TB
	ns  *server.Server
	nc  *nats.Conn // of the clients
	reg *kv.Registry

	policies *policies // nil: there are none
}

func newFleet(tb testing.TB, adjust ...func(*server.Options)) *fleet {
	tb.Helper()
	ns := natstest.Start(tb, adjust...)
	nc := natstest.Connect(tb, ns)
	reg, err := kv.Open(tb.Context(), nc, kv.Options{Memory: true, Logger: quiet()})
	if err != nil {
		tb.Fatal(err)
	}
	return &fleet{tb: tb, ns: ns, nc: nc, reg: reg}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// door is a router of a fleet, in zone a unless the options say otherwise.
type door struct {
	*router.Router
	tb  testing.TB
	nc  *nats.Conn
	url string
	end func() // stops it, also before the test ends
}

func (f *fleet) router(o router.Options) *door {
	f.tb.Helper()
	return f.loggedRouter(o, quiet())
}

func (f *fleet) loggedRouter(o router.Options, log *slog.Logger) *door {
	f.tb.Helper()
	nc := natstest.Connect(f.tb, f.ns)
	reg, err := kv.Open(f.tb.Context(), nc, kv.Options{Memory: true, Logger: quiet()})
	if err != nil {
		f.tb.Fatal(err)
	}
	if o.Selector.Location == (topology.Location{}) {
		o.Selector.Location = zoneA
	}
	if o.Selector.Latency.Interval == 0 {
		o.Selector.Latency = latency.Options{Interval: time.Hour} // distances are the circles'
	}
	o.Logger = log
	var registry router.Registry = reg
	if f.policies != nil {
		registry = ruled{reg, f.policies}
	}
	r, err := router.New(f.tb.Context(), nc, registry, o)
	if err != nil {
		f.tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.Serve(ctx, l) }()
	d := &door{Router: r, tb: f.tb, nc: f.nc, url: "http://" + l.Addr().String()}
	ended := false
	d.end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-served; err != nil {
			f.tb.Errorf("serve: %v", err)
		}
		if err := r.Close(); err != nil {
			f.tb.Errorf("close: %v", err)
		}
	}
	f.tb.Cleanup(d.end)
	wait, stop := context.WithTimeout(f.tb.Context(), 10*time.Second)
	defer stop()
	if err := r.Wait(wait); err != nil {
		f.tb.Fatal(err)
	}
	return d
}

// list registers an instance through the router, which has it in its view
// when list returns.
func (d *door) list(in events.Instance) registrar.Registration {
	d.tb.Helper()
	if in.TTL == 0 {
		in.TTL = time.Hour
	}
	reg, err := d.Registrar().Register(d.tb.Context(), in)
	if err != nil {
		d.tb.Fatal(err)
	}
	return reg
}

// instance starts an HTTP server and lists it.
func (d *door) instance(service, id string, at topology.Location, h http.Handler) *httptest.Server {
	d.tb.Helper()
	srv := httptest.NewServer(h)
	d.tb.Cleanup(srv.Close)
	d.list(events.Instance{
		Service: service, ID: id, Location: at,
		Endpoints: map[string]string{"http": srv.Listener.Addr().String()},
	})
	return srv
}

func onSubject(service, id, subject string) events.Instance {
	return events.Instance{Service: service, ID: id, Location: zoneA, Endpoints: map[string]string{"nats": subject}}
}

// says answers with a text.
func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

// answer is what came back by HTTP.
type answer struct {
	status int
	header http.Header
	body   string
}

// err is the text of an error's JSON.
func (a answer) err() string {
	var e struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(a.body), &e) != nil {
		return ""
	}
	return e.Error
}

func (d *door) do(method, path, body string, header ...string) answer {
	d.tb.Helper()
	req, err := http.NewRequestWithContext(d.tb.Context(), method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.tb.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		d.tb.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		d.tb.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

func (d *door) get(path string, header ...string) answer {
	d.tb.Helper()
	return d.do("GET", path, "", header...)
}

// ask sends a request by NATS; code is empty unless the router answers an error.
func (d *door) ask(subject, payload string, header ...string) (reply *nats.Msg, code string) {
	d.tb.Helper()
	msg := nats.NewMsg(subject)
	msg.Data = []byte(payload)
	for i := 0; i < len(header); i += 2 {
		msg.Header.Add(header[i], header[i+1])
	}
	reply, err := d.nc.RequestMsg(msg, 10*time.Second)
	if err != nil {
		d.tb.Fatalf("%s: %v", subject, err)
	}
	return reply, reply.Header.Get(micro.ErrorCodeHeader)
}

// decode reads JSON that must be whole.
func decode[T any](tb testing.TB, data string) T {
	tb.Helper()
	var v T
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		tb.Fatalf("%v in %s", err, data)
	}
	return v
}

func decodeInto(data []byte, v any) error { return json.Unmarshal(data, v) }

func noRetries() selector.Options { return selector.Options{Retry: selector.Retry{Budget: -1}} }
