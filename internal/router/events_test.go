package router_test

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/internal/router/registrar"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// stream reads the events of a door.
func stream(t *testing.T, d *door, path string) (next func() (kind string, c directory.Change), closed <-chan struct{}) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", d.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || got != "text/event-stream" {
		t.Fatalf("got %d %s", resp.StatusCode, got)
	}
	lines, end := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(end)
		in := bufio.NewScanner(resp.Body)
		for in.Scan() {
			lines <- in.Text()
		}
	}()
	line := func() string {
		select {
		case l := <-lines:
			return l
		case <-time.After(10 * time.Second):
			t.Fatal("no event came")
			return ""
		}
	}
	return func() (string, directory.Change) {
		kind, ok := strings.CutPrefix(line(), "event: ")
		data, ok2 := strings.CutPrefix(line(), "data: ")
		if blank := line(); !ok || !ok2 || blank != "" {
			t.Fatalf("not an event: %q %q %q", kind, data, blank)
		}
		return kind, decode[directory.Change](t, data)
	}, end
}

func TestStreamsEveryChangeWithItsKindAndReason(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.router(router.Options{})
	d.list(events.Instance{Service: "user", ID: "u1", Location: zoneA, Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	next, closed := stream(t, d, "/v1/events?service=user")
	want := func(kind, id, fields string) {
		t.Helper()
		k, c := next()
		if k != kind || string(c.Kind) != kind || c.Service != "user" || c.Instance == nil || c.Instance.ID != id || strings.Join(c.Fields, ",") != fields || c.Time.IsZero() {
			t.Fatalf("got %s %+v, want %s %s %s", k, c, kind, id, fields)
		}
	}
	want("listed", "u1", "")

	d.list(events.Instance{Service: "other", ID: "o", Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	in := d.list(events.Instance{Service: "user", ID: "u2", Location: zoneB, Endpoints: map[string]string{"http": "127.0.0.1:9"}}).Instance
	want("registered", "u2", "")
	in.Metadata = map[string]string{"k": "v"}
	in.Version = "2"
	d.list(in)
	want("updated", "u2", "version,metadata")
	in.Status = events.Draining
	d.list(in)
	want("draining", "u2", "status")
	in.Status = events.NotReady
	d.list(in)
	want("not_ready", "u2", "status")
	in.Status = events.Up
	d.list(in)
	want("updated", "u2", "status")
	d.list(in) // the same record, written again: no event
	in.Incarnation = "another"
	d.list(in)
	want("registered", "u2", "incarnation")
	if err := d.Registrar().Deregister(t.Context(), registrar.Ref{Service: "user", ID: "u2"}); err != nil {
		t.Fatal(err)
	}
	want("deregistered", "u2", "")
	d.list(events.Instance{Service: "user", ID: "u3", TTL: time.Second, Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	want("registered", "u3", "")
	want("expired", "u3", "")

	// A router that stops ends its streams.
	began := time.Now()
	d.end()
	<-closed
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

func TestStreamsAllServices(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.list(events.Instance{Service: "b", ID: "1", Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	d.list(events.Instance{Service: "a", ID: "1", Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	next, _ := stream(t, d, "/v1/events")
	for _, service := range []string{"a", "b"} {
		if kind, c := next(); kind != "listed" || c.Service != service {
			t.Errorf("got %s %+v", kind, c)
		}
	}
	d.list(events.Instance{Service: "c", ID: "1", Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	if kind, c := next(); kind != "registered" || c.Service != "c" {
		t.Errorf("got %s %+v", kind, c)
	}
}
