package kv_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// at is an instance in a place.
func at(id, region, zone string) events.Instance {
	in := instance(id)
	in.Location = topology.Location{Region: region, Zone: zone}
	return in
}

// evacuate gives an order.
func (f *fixture) evacuate(r *kv.Registry, place string, evacuated bool) events.Evacuation {
	f.t.Helper()
	region, zone, err := events.ParsePlace(place)
	if err != nil {
		f.t.Fatal(err)
	}
	e, err := r.Evacuate(f.t.Context(), events.Evacuation{Region: region, Zone: zone, Evacuated: evacuated})
	if err != nil {
		f.t.Fatalf("evacuate %s: %v", place, err)
	}
	return e
}

// evacuated says that these instances are in places that are evacuated, and no others.
func evacuated(ids ...string) func(events.Snapshot) bool {
	return func(s events.Snapshot) bool {
		var got []string
		for _, e := range s.Entries {
			if e.Evacuated {
				got = append(got, e.ID)
			}
		}
		slices.Sort(got)
		return slices.Equal(got, ids) && len(s.Entries) > 0
	}
}

func TestAnEvacuationIsSeenAtOnceAndUntilItIsUndone(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		for _, in := range []events.Instance{at("eu1", "eu", "a"), at("eu2", "eu", "b"), at("us", "us", "a"), at("lost", "", "")} {
			f.announce(f.r, in, kv.AnnounceOptions{})
		}
		other := open(t, natstest.Connect(t, f.ns), kv.Options{NoCreate: true})
		v := watch(t, other, "user")
		v.until("all", time.Second, count(4))
		for _, step := range []struct {
			place string
			is    bool
			want  []string
		}{
			{"eu/a", true, []string{"eu1"}},
			{"eu", true, []string{"eu1", "eu2"}},
			{"eu", false, []string{"eu1"}}, // the zone is another order
			{"eu/a", false, nil},
			{"us/a", true, []string{"us"}},
			{"us/a", true, []string{"us"}}, // again
			{"us/a", false, nil},
			{"nowhere", true, nil},
		} {
			e := f.evacuate(f.r, step.place, step.is)
			what := fmt.Sprintf("%s evacuated: %t", step.place, step.is)
			v.until(what, time.Second, evacuated(step.want...))
			// A watch that begins now has it in the first snapshot.
			began := watch(t, f.r, "user", func(s events.Snapshot) {
				if !evacuated(step.want...)(s) {
					t.Errorf("%s: the first snapshot is %+v", what, s.Entries)
				}
			})
			began.until("the first snapshot", time.Second, count(4))
			began.close()
			left, err := other.Evacuations(t.Context())
			if err != nil || step.is != slices.ContainsFunc(left, func(l events.Evacuation) bool { return l == e }) {
				t.Errorf("%s: %+v, %v", what, left, err)
			}
		}
		entries := func() []events.Entry { return v.get("user").Entries }
		before := entries()
		f.evacuate(f.r, "eu", true)
		v.until("both", time.Second, evacuated("eu1", "eu2"))
		for i, e := range entries() {
			if e.Instance != before[i].Instance || before[i].Evacuated {
				t.Errorf("%s is another instance, or a snapshot was changed after it was sent", e.ID)
			}
		}
		if c := other.Counts(); c.Invalid+c.Forged+c.Gaps != 0 {
			t.Errorf("%+v", c)
		}
	})
}

func TestAnEvacuationThatIsNotHeardIsFound(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, at("eu", "eu", "a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("it", time.Second, count(1))
		// As another client would write it.
		if _, err := f.js().Publish(t.Context(), "$KV.proxima.evacuate.eu", []byte(`{"evacuated":true,"at":"2026-11-21T08:00:00Z"}`)); err != nil {
			t.Fatal(err)
		}
		v.until("evacuated", 25*time.Second, evacuated("eu"))
		// And as an operator without other means would remove it.
		msg := nats.NewMsg("$KV.proxima.evacuate.eu")
		msg.Header.Set("KV-Operation", "PURGE")
		if _, err := f.js().PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
		v.until("not evacuated", 25*time.Second, evacuated())
	})
}

// Evacuate reads the orders that hold and makes a later one.
func TestAnOrderIsLaterThanThoseBeforeWhateverTheClock(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, at("eu", "eu", "a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("it", time.Second, count(1))
		fast := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		if _, err := f.js().Publish(t.Context(), "$KV.proxima.evacuate.eu", []byte(`{"evacuated":true,"at":"`+fast+`"}`)); err != nil {
			t.Fatal(err)
		}
		if e := f.evacuate(f.r, "eu", false); e.At.Format(time.RFC3339) != fast || e.At.Nanosecond() != 1e6 {
			t.Errorf("it is of %v", e.At)
		}
		time.Sleep(time.Minute)
		v.until("not evacuated", time.Second, evacuated())
	})
}

func TestAnOrderThatIsNotStoredEnds(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, at("eu", "eu", "a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("it", time.Second, count(1))
		if err := f.nc.Publish("proxima.evacuate.eu", []byte(`{"evacuated":true,"at":"2026-11-21T08:00:00Z"}`)); err != nil {
			t.Fatal(err)
		}
		v.until("evacuated", time.Second, evacuated("eu"))
		v.until("not any more", 10*time.Second, evacuated())
		time.Sleep(time.Minute)
		if left, err := f.r.Evacuations(t.Context()); err != nil || len(left) != 0 {
			t.Errorf("it is kept: %+v, %v", left, err)
		}
	})
}

func TestGarbageAmongOrdersIsSkipped(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, at("eu", "eu", "a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("it", time.Second, count(1))
		const good = `{"evacuated":true,"at":"2026-11-21T08:00:00Z"}`
		for key, data := range map[string]string{
			"evacuate.eu": "{", "evacuate.eu.a": `{"evacuated":1}`, "evacuate.eu.a.b": good, "evacuate._": good, "evacuate.us": strings.Repeat("[", 10_000),
		} {
			if _, err := f.js().Publish(t.Context(), "$KV.proxima."+key, []byte(data)); err != nil {
				t.Fatal(err)
			}
			if err := f.nc.Publish("proxima."+key, []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 3000 { // more than is asked for at a time
			if _, err := f.js().PublishAsync(fmt.Sprintf("$KV.proxima.evacuate.r%d.%s", i, "x"), []byte(good)); err != nil {
				t.Fatal(err)
			}
		}
		<-f.js().PublishAsyncComplete()
		time.Sleep(time.Minute)
		v.until("it is there, and not evacuated", time.Second, func(s events.Snapshot) bool { return count(1)(s) && evacuated()(s) })
		if n := f.r.Counts().Invalid; n < 10 {
			t.Errorf("%d messages are counted as invalid", n)
		}
		f.evacuate(f.r, "eu", true)
		v.until("evacuated, in spite of all", time.Second, evacuated("eu"))
		time.Sleep(time.Minute)
		v.until("still", time.Second, evacuated("eu"))
	})
}

// A flood on the subject of orders makes callers look no more than every
// second or so, and what is ordered meanwhile is honoured.
func TestAFloodOfOrdersMakesCallersReadOnceASecond(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, at("eu", "eu", "a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("it", time.Second, count(1))
		var asked atomic.Int32
		if _, err := f.nc.Subscribe("$JS.API.DIRECT.GET.KV_proxima", func(msg *nats.Msg) {
			if strings.Contains(string(msg.Data), "evacuate") {
				asked.Add(1)
			}
		}); err != nil {
			t.Fatal(err)
		}
		for i := range 3000 {
			region := fmt.Sprint("r", i%7)
			data := []string{"{", `{"evacuated":true,"at":"2026-11-21T08:00:00Z"}`, `{"evacuated":false,"at":"2026-11-21T09:00:00Z"}`}[i%3]
			if err := f.nc.Publish("proxima.evacuate."+region, []byte(data)); err != nil {
				t.Fatal(err)
			}
			if i == 1500 {
				f.evacuate(f.r, "eu", true)
			}
			time.Sleep(10 * time.Millisecond)
		}
		v.until("evacuated", time.Second, evacuated("eu"))
		if n := asked.Load(); n > 40 {
			t.Errorf("asked %d times in 30s", n)
		}
	})
}

func TestEvacuationsOutliveTheServer(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		for _, memory := range []bool{false, true} {
			store := t.TempDir()
			keep := func(o *server.Options) { o.StoreDir = store }
			f := &fixture{t: t, ns: natstest.Start(t, keep)}
			w := newWire(f.ns)
			f.nc = w.connect(t)
			f.r = open(t, f.nc, kv.Options{Memory: memory})
			f.announce(f.r, at("eu", "eu", "a"), kv.AnnounceOptions{})
			v := watch(t, f.r, "user")
			v.until("it", 5*time.Second, count(1))
			f.evacuate(f.r, "eu", true)
			v.until("evacuated", time.Second, evacuated("eu"))
			v.hook(func(s events.Snapshot) {
				if len(s.Entries) > 0 && !evacuated("eu")(s) {
					t.Errorf("memory=%t: for a moment it is not evacuated", memory)
				}
			})
			time.Sleep(5 * time.Second) // it has been found in the bucket, too
			w.cut()
			natstest.Stop(f.ns)
			time.Sleep(3 * time.Second)
			again := natstest.Start(t, keep)
			w.lead(again)
			// A registry that knows it writes it again.
			testkit.Within(t, time.Minute, "kept again", func() bool {
				left, err := f.r.Evacuations(t.Context())
				return err == nil && len(left) == 1
			})
			v.until("evacuated still", time.Minute, func(s events.Snapshot) bool { return count(1)(s) && evacuated("eu")(s) })
			v.close()
			f.nc.Close()
			natstest.Stop(again)
		}
	})
}

func TestEvacuatingAPlaceThatIsNoneIsRefused(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		for _, e := range []events.Evacuation{{}, {Zone: "a"}, {Region: "e u"}, {Region: "_"}, {Region: "eu", Zone: "*"}} {
			if got, err := f.r.Evacuate(t.Context(), e); err == nil {
				t.Errorf("%+v is kept as %+v", e, got)
			}
		}
		f.flush()
	})
}
