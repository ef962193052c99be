package selector_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// A program calls the nearest instance of a service. PROXIMA_REGION and PROXIMA_ZONE, or
// Options.Location, state where the program runs.
func Example() {
	ctx, url, stop := demo() // a NATS server, and instances that have announced themselves
	defer stop()

	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	check(err)
	sel, err := selector.New(ctx, nc, selector.Options{})
	check(err)
	defer sel.Close()

	err = sel.Do(ctx, "user", func(ctx context.Context, in *events.Instance) error {
		resp, err := http.Get("http://" + in.Endpoints["http"] + "/hello")
		if err != nil {
			return err // Do calls the next nearest
		}
		defer resp.Body.Close()
		_, err = io.Copy(os.Stdout, resp.Body)
		return err
	})
	check(err)
	// Output: hello from us-east-1a
}

// Pick is for calls that are not one function: the caller reports their end with Done.
func ExampleSelector_Pick() {
	ctx := context.Background()
	sel, err := selector.New(ctx, nil, selector.Options{
		Source: selector.Static( // instead of the registry in NATS
			events.Instance{Service: "user", ID: "here", Location: topology.Location{Region: "us", Zone: "us-a"}},
			events.Instance{Service: "user", ID: "there", Location: topology.Location{Region: "eu", Zone: "eu-a"}},
		),
		Location: topology.Location{Region: "us", Zone: "us-a"},
	})
	check(err)
	defer sel.Close()

	pick, err := sel.Pick(ctx, "user")
	check(err)
	fmt.Println(pick.ID, "of circle", pick.Circle())
	pick.Done(nil) // or the error of the call
	// Output: here of circle zone
}

// Explain lists all instances with the reasons.
func ExampleSelector_Explain() {
	ctx := context.Background()
	sel, err := selector.New(ctx, nil, selector.Options{
		Source: selector.Static(
			events.Instance{Service: "user", ID: "a", Location: topology.Location{Region: "us", Zone: "us-a"}, Status: events.Draining},
			events.Instance{Service: "user", ID: "b", Location: topology.Location{Region: "us", Zone: "us-b"}},
			events.Instance{Service: "user", ID: "c", Location: topology.Location{Region: "eu", Zone: "eu-a"}},
		),
		Location: topology.Location{Region: "us", Zone: "us-a"},
	})
	check(err)
	defer sel.Close()

	e, err := sel.Explain(ctx, selector.Request{Service: "user"})
	check(err)
	for _, c := range e.Instances {
		fmt.Printf("%s (%s): %s\n", c.ID, c.Circle, c.Reason)
	}
	// Output:
	// b (region): picked by p2c: in the near set of region
	// c (elsewhere): standby: used only when no instance in circle "region" is available (circle region is nearer)
	// a (zone): standby: used only when no better instance is available: it is about to leave
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// demo starts a NATS server with a registry and an instance of user in each of
// two zones, and makes the nearer one that of this process.
func demo() (ctx context.Context, url string, stop func()) {
	dir, err := os.MkdirTemp("", "proxima-example")
	check(err)
	ns, err := server.NewServer(&server.Options{JetStream: true, StoreDir: dir, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	check(err)
	ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		panic("the server is not ready after 10s")
	}
	nc, err := nats.Connect(ns.ClientURL(), nats.MaxReconnects(-1))
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r, err := kv.Open(ctx, nc, kv.Options{Logger: silent})
	check(err)

	stops := []func(){cancel}
	for _, zone := range []string{"us-east-1a", "us-east-1b"} {
		hello := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello from "+zone) }))
		a, err := r.Announce(events.Instance{
			ID: "user-" + zone, Service: "user",
			Endpoints: map[string]string{events.HTTP: hello.Listener.Addr().String()},
			Location:  topology.Location{Region: "us-east-1", Zone: zone},
		}, kv.AnnounceOptions{Logger: silent})
		check(err)
		for !a.State().Registered() {
			time.Sleep(time.Millisecond) // an example has no test to fail
		}
		stops = append(stops, func() { _ = a.Leave(context.Background()) }, hello.Close)
	}
	check(os.Setenv("PROXIMA_REGION", "us-east-1"))
	check(os.Setenv("PROXIMA_ZONE", "us-east-1a"))
	return ctx, ns.ClientURL(), func() {
		_, _ = os.Unsetenv("PROXIMA_REGION"), os.Unsetenv("PROXIMA_ZONE")
		for _, stop := range stops {
			stop()
		}
		nc.Close()
		ns.Shutdown()
		ns.WaitForShutdown()
		_ = os.RemoveAll(dir)
	}
}
