package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/proximatest"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// What docs/how-do-i.md shows that is not in examples/.

func TestWithoutNATS(t *testing.T) {
	here, there := topology.Location{Region: "eu", Zone: "a"}, topology.Location{Region: "eu", Zone: "b"}
	fleet := proximatest.New(t,
		events.Instance{Service: "user", ID: "near", Location: here},
		events.Instance{Service: "user", ID: "far", Location: there})
	sel := fleet.Selector(selector.Options{Location: here}) // closed when the test ends
	// … run the code under test with sel …
	fleet.Drain("user", "near")
	if p, err := sel.Pick(t.Context(), "user"); err != nil || p.ID != "far" {
		t.Errorf("picked %v, %v", p.Instance, err)
	}
	fleet.Kill("user", "near")
}

// picks counts the versions of n picks.
func picks(sel *selector.Selector, n int) map[string]int {
	count := map[string]int{}
	for range n {
		p, err := sel.Pick(context.Background(), "user")
		if err != nil {
			panic(err)
		}
		count[p.Version]++
		p.Done(nil)
	}
	return count
}

// release has nine instances of v1 and one of v2 in one zone.
func release(weight int) selector.Source {
	var all []events.Instance
	for i := range 10 {
		in := events.Instance{
			ID: fmt.Sprint("user-", i), Service: "user", Version: "v1", Weight: 100,
			Location:  topology.Location{Region: "eu", Zone: "a"},
			Endpoints: map[string]string{events.HTTP: fmt.Sprint("127.0.0.1:900", i)},
		}
		if i == 9 {
			in.Version, in.Weight = "v2", weight
		}
		in.Metadata = map[string]string{"version": in.Version}
		all = append(all, in)
	}
	return selector.Static(all...)
}

func Example_canaryByWeight() {
	ctx, here := context.Background(), topology.Location{Region: "eu", Zone: "a"}
	options := selector.Options{
		Location: here, Source: release(11), Probe: selector.Probe{Kind: selector.ProbeNone}, // v2: weight 11, nine of v1: 100 each
	}
	options.Strategy = selector.WeightedRoundRobin // exact shares
	sel, err := selector.New(ctx, nil, options)
	if err != nil {
		panic(err)
	}
	defer func() { _ = sel.Close() }()
	fmt.Println(picks(sel, 911))
	// Output: map[v1:900 v2:11]
}

func Example_canaryByVersion() {
	ctx, here := context.Background(), topology.Location{Region: "eu", Zone: "a"}
	options := selector.Options{Location: here, Source: release(100), Probe: selector.Probe{Kind: selector.ProbeNone}}
	options.Levels = topology.Levels{topology.Zone, topology.Region, "version"} // a level may be a metadata key
	options.Labels = map[string]string{"version": "v2"}                         // what this caller wants
	sel, err := selector.New(ctx, nil, options)
	if err != nil {
		panic(err)
	}
	defer func() { _ = sel.Close() }()
	fmt.Println(picks(sel, 100))
	// Output: map[v2:100]
}

func Example_sticky() {
	ctx, here := context.Background(), topology.Location{Region: "eu", Zone: "a"}
	sel, err := selector.New(ctx, nil, selector.Options{
		Location: here, Source: release(100), Probe: selector.Probe{Kind: selector.ProbeNone},
		Strategy: selector.ConsistentHash,
	})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sel.Close() }()
	client := &http.Client{Transport: proximahttp.New(sel, proximahttp.Options{
		Base: answered{},
		Ask: func(req *http.Request, r *selector.Request) {
			r.Key = req.Header.Get("X-User") // the same user, the same instance
		},
	})}
	seen := map[string]bool{}
	for range 20 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://user/cart", nil)
		if err != nil {
			panic(err)
		}
		req.Header.Set("X-User", "ada")
		resp, err := client.Do(req)
		if err != nil {
			panic(err)
		}
		_ = resp.Body.Close()
		seen[proximahttp.Instance(resp).ID] = true
	}
	fmt.Println(len(seen), "instance")
	// Output: 1 instance
}

// answered is a network on which each request is answered.
type answered struct{}

func (answered) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}, nil
}

func Example_explain() {
	ctx, here := context.Background(), topology.Location{Region: "eu", Zone: "a"}
	sel, err := selector.New(ctx, nil, selector.Options{Location: here, Probe: selector.Probe{Kind: selector.ProbeNone}, Source: selector.Static(
		events.Instance{ID: "user-1", Service: "user", Location: here, Status: events.NotReady, Endpoints: map[string]string{events.HTTP: "127.0.0.1:9001"}},
		events.Instance{ID: "user-2", Service: "user", Location: here, Endpoints: map[string]string{events.HTTP: "127.0.0.1:9002"}},
	)})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sel.Close() }()
	mux := http.NewServeMux()
	explained(mux, sel)
	for _, service := range []string{"user", "missing"} {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/debug/proxima/"+service, nil))
		if answer.Code != http.StatusOK {
			fmt.Print(answer.Code, " ", answer.Body)
			continue
		}
		var explanation selector.Explanation
		if err := json.Unmarshal(answer.Body.Bytes(), &explanation); err != nil {
			panic(err)
		}
		for _, c := range explanation.Instances {
			fmt.Println(c.ID, c.Circle, c.Reason)
		}
	}
	// Output:
	// user-2 zone picked by p2c: in the near set of zone
	// user-1 zone never picked: not ready, its own check fails
	// 503 selector: unknown service "missing"
}

// explained shows what the process sees of a service.
func explained(mux *http.ServeMux, sel *selector.Selector) {
	mux.HandleFunc("GET /debug/proxima/{service}", func(w http.ResponseWriter, r *http.Request) {
		explanation, err := sel.Explain(r.Context(), selector.Request{Service: r.PathValue("service")})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(explanation) // as GET /v1/explain/{service} of a router
	})
}

// instrumented shows every hook of telemetry in one place.
func instrumented(ctx context.Context, nc *nats.Conn, mux http.Handler, in events.Instance) error {
	metrics, err := telemetry.New(otel.Meter("github.com/proxima-discovery/proxima"))
	if err != nil {
		return err
	}
	defer func() { _ = metrics.Close() }()

	// A caller.
	registry, err := kv.Open(ctx, nc, kv.Options{})
	if err != nil {
		return err
	}
	defer metrics.Registry(registry)() // what was invalid, forged or missed
	sel, err := selector.New(ctx, nc, selector.Options{
		Source:  registry,
		Breaker: breaker.Settings{OnChange: metrics.OnBreaker},
	})
	if err != nil {
		return err
	}
	defer func() { _ = sel.Close() }()
	defer metrics.Selector(sel)() // picks, circles, suspects, probes; ends before the selector
	client := &http.Client{Transport: proximahttp.New(sel, proximahttp.Options{
		Base: telemetry.Transport(proximahttp.NewBase()), // a span for each attempt
	})}

	// A service.
	server := &http.Server{Handler: telemetry.Handler(mux)} // a span for each request
	announcement, err := registry.Announce(in, kv.AnnounceOptions{OnState: metrics.OnState})
	if err != nil {
		return err
	}
	return errors.Join(use(client, server), announcement.Leave(ctx))
}

// located shows how a program finds out where it runs.
func located(ctx context.Context, flags topology.Location) topology.Location {
	found := topology.Detect(ctx, slices.Concat(
		[]topology.Detector{topology.Fixed("flags", flags)},
		topology.Environment(os.Getenv),
		[]topology.Detector{topology.File("/etc/podinfo/labels")}, // written by Kubernetes' downward API
	)...)
	return found.Location
}

// healthy shows how a program says whether its selector hears of changes.
func healthy(sel *selector.Selector) error {
	if h := sel.Health(); h.Err != nil {
		return fmt.Errorf("the last lists are used, %d services, since %v: %w", h.Services, h.StaleSince, h.Err)
	}
	return nil
}

func use(...any) error { return nil }

var _, _, _ = instrumented, located, healthy // compiled, not run

// sharing shows two selectors of a program.
func sharing(ctx context.Context, nc *nats.Conn) error {
	options := selector.Options{}
	sel, err := selector.New(ctx, nc, options)
	if err != nil {
		return err
	}
	defer func() { _ = sel.Close() }()
	options.Strategy = selector.ConsistentHash
	sticky, err := selector.New(ctx, nc, options)
	if err != nil {
		return err
	}
	defer func() { _ = sticky.Close() }()
	if !sticky.Shares(sel) {
		return errors.New("they share nothing")
	}
	return nil
}

func TestSelectorsShareWithoutBeingTold(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		if err := sharing(t.Context(), natstest.Connect(t, natstest.Start(t))); err != nil {
			t.Error(err)
		}
	})
}
