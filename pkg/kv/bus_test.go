package kv_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

const samples = "latency.us-east-1.us-east-1a.user."

// notes remembers what a subscription heard.
type notes struct {
	mu   sync.Mutex
	text []string
}

func (n *notes) handle(subject string, data []byte, age time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = append(n.text, fmt.Sprintf("%s %s %v", subject, data, age.Round(time.Second)))
}

func (n *notes) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	text := n.text
	n.text = nil
	slices.Sort(text)
	return text
}

func (n *notes) want(t *testing.T, when string, text ...string) {
	t.Helper()
	time.Sleep(10 * time.Millisecond)
	if got := n.take(); !slices.Equal(got, text) {
		t.Errorf("%s: heard %q, want %q", when, got, text)
	}
}

func (f *fixture) subscribe(b *kv.Bus, subject string) (*notes, func()) {
	f.t.Helper()
	n := &notes{}
	stop, err := b.Subscribe(f.t.Context(), subject, n.handle)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(stop)
	return n, stop
}

func (f *fixture) open(o kv.Options) *kv.Registry {
	f.t.Helper()
	r, err := kv.Open(f.t.Context(), f.nc, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (f *fixture) publish(b *kv.Bus, subject, data string) {
	f.t.Helper()
	if err := b.Publish(subject, []byte(data)); err != nil {
		f.t.Fatal(err)
	}
}

func TestANewSubscriberReceivesTheLastMessageOfEachSubjectFirst(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		b := f.r.Bus()
		first, stop := f.subscribe(b, samples+"*") // makes the stream
		first.want(t, "at the start")

		f.publish(b, samples+"x", "x1")
		f.publish(b, samples+"y", "y1")
		f.publish(b, "latency.us-east-1.us-east-1b.user.z", "elsewhere")
		first.want(t, "live", samples+"x x1 0s", samples+"y y1 0s")

		time.Sleep(70 * time.Second)
		f.publish(b, samples+"x", "x2")
		first.want(t, "live", samples+"x x2 0s")
		time.Sleep(5 * time.Second)
		later, _ := f.subscribe(b, samples+"*")
		later.want(t, "history", samples+"x x2 5s", samples+"y y1 1m15s")
		f.publish(b, samples+"y", "y2")
		later.want(t, "live", samples+"y y2 0s")

		first.take()
		stop()
		f.publish(b, samples+"y", "y3")
		first.want(t, "after its end")

		time.Sleep(2*time.Minute + time.Second)
		last, _ := f.subscribe(b, samples+"*")
		last.want(t, "two minutes later")
	})
}

func TestBucketsWhoseNamesDifferInCaseHaveStreamsOfTheirOwn(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		for _, bucket := range []string{"dev", "DEV", "Dev", "d-e_v"} {
			b := open(t, f.nc, kv.Options{Bucket: bucket}).Bus()
			first, _ := f.subscribe(b, samples+"*") // makes the stream
			f.publish(b, samples+"x", bucket)
			first.want(t, "live", samples+"x "+bucket+" 0s")
			later, _ := f.subscribe(b, samples+"*")
			later.want(t, "history", samples+"x "+bucket+" 0s")
		}
		for _, name := range []string{"DEV_LATENCY", "DEV_latency", "Dev_latency", "D-E_V_LATENCY"} {
			if _, err := f.js().Stream(t.Context(), name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// Reporters choose the headers of what they send. No later subscriber is kept
// from hearing the others.
func TestHeadersOfAReporterDoNotEndTheHistory(t *testing.T) {
	for name, forged := range map[string]nats.Header{
		"a status":     {"Status": {"204"}, "Nats-Num-Pending": {"0"}},
		"an error":     {"Status": {"503"}},
		"a sequence":   {"Nats-Sequence": {"18446744073709551614"}},
		"a time":       {"Nats-Time-Stamp": {"2099-01-01T00:00:00Z"}},
		"another name": {"Nats-Subject": {"proxima.latency.us-east-1.us-east-1a.user.y"}},
	} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				b := f.r.Bus()
				_, _ = f.subscribe(b, samples+"*") // makes the stream
				if err := f.nc.PublishMsg(&nats.Msg{Subject: "proxima." + samples + "a", Data: []byte("a1"), Header: forged}); err != nil {
					t.Fatal(err)
				}
				f.raw("proxima."+samples+"b", "NATS/1.0\r\nno colon\r\n\r\n", "b1")
				time.Sleep(time.Second)
				f.publish(b, samples+"z", "z1")
				time.Sleep(time.Second)
				later, _ := f.subscribe(b, samples+"*")
				later.want(t, "history", samples+"a a1 2s", samples+"z z1 1s")
			})
		})
	}
}

// What the stream is named, and keeps, is known outside.
func TestTheSamplesAreInAStreamInMemory(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.subscribe(f.r.Bus(), samples+"*")
		s, err := f.js().Stream(t.Context(), "PROXIMA_LATENCY")
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		if c.Storage != jetstream.MemoryStorage || c.MaxMsgsPerSubject != 1 || c.MaxAge != 2*time.Minute ||
			!c.AllowDirect || c.Discard != jetstream.DiscardOld || !slices.Equal(c.Subjects, []string{"proxima.latency.>"}) {
			t.Errorf("%+v", c)
		}

		// It is made anew when a subscriber misses it.
		if err := f.js().DeleteStream(t.Context(), "PROXIMA_LATENCY"); err != nil {
			t.Fatal(err)
		}
		f.subscribe(f.r.Bus(), samples+"*")
		f.publish(f.r.Bus(), samples+"x", "x1")
		time.Sleep(time.Second)
		n, _ := f.subscribe(f.r.Bus(), samples+"*")
		n.want(t, "history", samples+"x x1 1s")
	})
}

func TestAnotherBucketHasABusOfItsOwn(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		other := f.open(kv.Options{Bucket: "other"}).Bus()
		n, _ := f.subscribe(other, samples+"*")
		f.publish(f.r.Bus(), samples+"x", "not for it")
		f.publish(other, samples+"x", "for it")
		n.want(t, "live", samples+"x for it 0s")
		if _, err := f.js().Stream(t.Context(), "OTHER_LATENCY"); err != nil {
			t.Error(err)
		}
	})
}

func TestWithoutAStreamOnlyThePastIsLost(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		b := f.open(kv.Options{NoCreate: true}).Bus()
		n, _ := f.subscribe(b, samples+"*")
		f.publish(b, samples+"x", "x1")
		n.want(t, "live", samples+"x x1 0s")
		if _, err := f.js().Stream(t.Context(), "PROXIMA_LATENCY"); err == nil {
			t.Error("it made the stream")
		}
	})
}

// Batches are true for a moment. One that was measured before an outage must
// not be told after it.
func TestNothingIsToldAfterAnOutageThatWasMeantForBefore(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{})
		b := r.Bus()
		here, _ := f.subscribe(f.r.Bus(), samples+"*")
		there, _ := f.subscribe(b, samples+"*")
		w.cut()
		time.Sleep(time.Second)
		if err := b.Publish(samples+"x", []byte("during")); err == nil {
			t.Error("published into the void")
		}
		if _, err := b.Request(t.Context(), "ping.user._._.a", nil); err == nil {
			t.Error("there was an answer")
		}
		n := &notes{}
		stop, err := b.Subscribe(t.Context(), samples+"y", n.handle) // is not an error, and works later
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		w.lead(f.ns)
		time.Sleep(5 * time.Second)
		here.want(t, "after the outage")
		f.publish(b, samples+"x", "after")
		f.publish(b, samples+"y", "after")
		here.want(t, "after the outage", samples+"x after 0s", samples+"y after 0s")
		there.want(t, "after the outage", samples+"x after 0s", samples+"y after 0s")
		n.want(t, "subscribed in the outage", samples+"y after 0s")
	})
}

func TestHistoryThatIsLongIsReadInPages(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		b := f.r.Bus()
		f.subscribe(b, samples+"none")
		for i := range 1200 {
			f.publish(b, fmt.Sprint(samples, "r", i), "x")
		}
		time.Sleep(time.Second)
		n, _ := f.subscribe(b, samples+"*")
		if got := len(n.take()); got != 1200 {
			t.Errorf("heard %d, want 1200", got)
		}
	})
}

// A clock that is wrong makes samples look a little too young, never of the
// future, nor too old to count.
func TestAgesDoNotRestOnOurClock(t *testing.T) {
	server := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	written := []time.Time{server.Add(-31 * time.Second), server.Add(-time.Second)}
	for skew, want := range map[time.Duration][]time.Duration{
		0:                 {31 * time.Second, time.Second},
		10 * time.Second:  {41 * time.Second, 11 * time.Second},
		-10 * time.Second: {30 * time.Second, 0},
		time.Hour:         {30 * time.Second, 0},
		-time.Hour:        {30 * time.Second, 0},
	} {
		if got := kv.Ages(written, server.Add(skew)); !slices.Equal(got, want) {
			t.Errorf("our clock is off by %v: %v, want %v", skew, got, want)
		}
	}
}

// place is a locator that is where it is told to be.
type place struct {
	at    atomic.Pointer[events.Coordinate]
	pings atomic.Int64
}

func (p *place) Answer(ping []byte) []byte {
	p.pings.Add(1)
	return append([]byte("to "), ping...)
}

func (p *place) Coordinate() (events.Coordinate, bool) {
	if c := p.at.Load(); c != nil {
		return *c, true
	}
	return events.Coordinate{}, false
}

func TestALocatorAnswersPingsAndItsCoordinateIsAnnounced(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		changes := f.listen("proxima.inst.user.>")
		p := &place{}
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Locator: p})
		registered(t, a, 5*time.Second)
		answer, err := f.r.Bus().Request(t.Context(), instanceKey("a").Ping(), []byte("ping"))
		if err != nil || string(answer) != "to ping" || p.pings.Load() != 1 {
			t.Errorf("%q, %v", answer, err)
		}

		time.Sleep(30 * time.Second)
		if n := changes(); n != 1 {
			t.Errorf("%d changes before it is known, want the first alone", n)
		}
		c := events.Coordinate{Vec: [8]float64{0.1}, Error: 0.2, Height: 0.01}
		p.at.Store(&c)
		time.Sleep(30 * time.Second)
		e, err := f.r.Lookup(t.Context(), instanceKey("a"))
		if err != nil || e.Coordinate == nil || *e.Coordinate != c {
			t.Fatalf("%+v, %v", e.Instance, err)
		}
		if n := changes(); n != 2 {
			t.Errorf("%d changes, want one for the coordinate", n)
		}
	})
}
