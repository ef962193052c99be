package kv_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// load is a Load that a test decides. It fails the test when it is called
// twice at a time.
type load struct {
	t       *testing.T
	mute    atomic.Bool
	calls   atomic.Int32
	running atomic.Int32
	takes   time.Duration
	beat    events.Beat
}

func (l *load) tell() (events.Beat, bool) {
	if l.running.Add(1) != 1 {
		l.t.Error("two calls at a time")
	}
	defer l.running.Add(-1)
	l.calls.Add(1)
	time.Sleep(l.takes)
	return l.beat, !l.mute.Load()
}

// heard collects "subject payload" of what is published on a subject.
type heard struct {
	mu  sync.Mutex
	all []string
}

func (f *fixture) hear(subject string) *heard {
	f.t.Helper()
	h := &heard{}
	if _, err := f.nc.Subscribe(subject, func(m *nats.Msg) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all = append(h.all, m.Subject+" "+string(m.Data))
	}); err != nil {
		f.t.Fatal(err)
	}
	return h
}

func (h *heard) get() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.all...)
}

func TestBeatsHaveTheLoadAndItsInstance(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		h := f.hear(">")
		l := &load{t: t, beat: events.Beat{CPU: 0.5, Memory: 1.001, InFlight: 3, Queue: 1, Incarnation: "made up"}}
		in := instance("a")
		in.Incarnation = "life1"
		f.announce(f.r, in, kv.AnnounceOptions{Load: l.tell})
		time.Sleep(time.Minute)
		beats := 0
		for _, m := range h.get() {
			if !strings.HasPrefix(m, "proxima.beat.") {
				continue
			}
			beats++
			if want := `proxima.beat.user.us-east-1.us-east-1a.a {"cpu":0.5,"mem":1,"in_flight":3,"queue":1,"incarnation":"life1"}`; m != want {
				t.Fatalf("%s\nwant\n%s", m, want)
			}
		}
		if beats < 10 || beats > 13 || beats != int(l.calls.Load()) {
			t.Errorf("%d beats of %d calls in a minute, want one each 5s", beats, l.calls.Load())
		}
		if f.get("proxima.beat.user.us-east-1.us-east-1a.a") != nil || f.stream().State.NumSubjects != 2 {
			t.Error("the bucket keeps a beat")
		}
	})
}

func TestBeatsOfAnUnknownPlaceInAnotherBucket(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupWith(t, kv.Options{Bucket: "other"})
		h := f.hear("*.beat.>")
		l := &load{t: t}
		in := instance("a")
		in.Location.Region, in.Location.Zone, in.Incarnation = "", "", "x"
		f.announce(f.r, in, kv.AnnounceOptions{Load: l.tell, BeatInterval: time.Second})
		testkit.Within(t, 2*time.Second, "a beat", func() bool { return len(h.get()) > 0 })
		if got, want := h.get()[0], `other.beat.user._._.a {"cpu":0,"mem":0,"in_flight":0,"queue":0,"incarnation":"x"}`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		l.mute.Store(true)
		time.Sleep(time.Second)
		before, calls := len(h.get()), l.calls.Load()
		time.Sleep(time.Minute)
		if n := len(h.get()); n != before || l.calls.Load() < calls+50 {
			t.Errorf("%d beats of an instance that has nothing to publish, %d calls", n-before, l.calls.Load()-calls)
		}
	})
}

func TestBeatsBeginWhenItIsListedAndEndWithLeave(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		h := f.hear("proxima.beat.>")
		l := &load{t: t}
		var check health
		check.ill.Store(1)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Check: check.check, Load: l.tell, Drain: time.Minute})
		time.Sleep(time.Minute)
		if n := len(h.get()); n != 0 || l.calls.Load() != 0 {
			t.Errorf("%d beats of what is not listed, %d calls", n, l.calls.Load())
		}
		check.ill.Store(0)
		registered(t, a, time.Second)
		testkit.Within(t, 5500*time.Millisecond+time.Second, "a beat", func() bool { return len(h.get()) > 0 })
		check.ill.Store(1)
		testkit.Within(t, 10*time.Second, "not ready", func() bool { return a.State().Status == events.NotReady })
		before := len(h.get())
		time.Sleep(time.Minute)
		if n := len(h.get()) - before; n < 10 {
			t.Errorf("%d beats in a minute while not ready", n)
		}
		before = len(h.get())
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(h.get()) - before; n < 10 || n > 14 {
			t.Errorf("%d beats in a minute of draining", n)
		}
		before, calls := len(h.get()), l.calls.Load()
		time.Sleep(time.Minute)
		if n := len(h.get()) - before; n != 0 || l.calls.Load() != calls {
			t.Errorf("%d beats of what has left, %d calls", n, l.calls.Load()-calls)
		}
	})
}

// The connection keeps what is published while it is away, as nats.go does
// unless told otherwise.
func TestNoBeatIsReplayedAfterAReconnect(t *testing.T) {
	for _, how := range []string{"cut", "black hole"} {
		t.Run(how, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				w, nc, r := f.remote(kv.Options{}, nats.ReconnectBufSize(nats.DefaultReconnectBufSize),
					nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))
				h := f.hear("proxima.beat.>")
				l := &load{t: t, takes: 100 * time.Millisecond}
				a := f.announce(r, instance("a"), kv.AnnounceOptions{Load: l.tell, BeatInterval: time.Second})
				registered(t, a, time.Second)
				testkit.Within(t, 2*time.Second, "a beat", func() bool { return len(h.get()) > 0 })
				if how == "cut" {
					w.cut()
				} else {
					w.swallow()
				}
				testkit.Within(t, 10*time.Second, "disconnected", func() bool { return !nc.IsConnected() })
				time.Sleep(time.Second)
				before, calls := len(h.get()), l.calls.Load()
				time.Sleep(30 * time.Second)
				if l.calls.Load() != calls {
					t.Errorf("asked %d times while disconnected", l.calls.Load()-calls)
				}
				if err := nc.Publish("proxima.beat.kept", nil); err != nil { // or nothing below means anything
					t.Fatal(err)
				}
				w.lead(f.ns)
				testkit.Within(t, time.Second, "connected", nc.IsConnected)
				time.Sleep(100 * time.Millisecond) // beats are at least 900ms apart, but one may be due
				replayed := h.get()[before:]
				if len(replayed) == 0 || replayed[0] != "proxima.beat.kept " || len(replayed) > 2 {
					t.Errorf("heard after the reconnect: %q", replayed)
				}
				testkit.Within(t, 2*time.Second, "the next beat", func() bool { return len(h.get()) > before+1 })
			})
		})
	}
}

func TestASlowLoadDelaysNoHeartbeat(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		h := f.hear("proxima.beat.>")
		l := &load{t: t, takes: 40 * time.Second} // longer than the lease
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Load: l.tell})
		registered(t, a, time.Second)
		v := guard(t, f.r, 1)
		before := f.stream().State.LastSeq
		time.Sleep(4 * time.Minute)
		if n := f.stream().State.LastSeq - before; n < 4*60/6 || n > 4*60/4 {
			t.Errorf("%d heartbeats in 4 minutes, want one each 5s", n)
		}
		if n := len(h.get()); n < 4 || n > 6 {
			t.Errorf("%d beats in 4 minutes, want one each 45s", n)
		}
		testkit.Within(t, time.Minute, "a call under way", func() bool { return l.running.Load() == 1 })
		calls, told := l.calls.Load(), len(h.get())
		v.allow(0)
		began := time.Now()
		if err := a.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		within(t, time.Since(began), 0, 1100*time.Millisecond)
		time.Sleep(2 * time.Minute)
		if l.calls.Load() != calls || len(h.get()) != told {
			t.Errorf("after it left: %d calls, %d beats", l.calls.Load()-calls, len(h.get())-told)
		}
	})
}

func TestLoadMayAskForTheState(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		h := f.hear("proxima.beat.>")
		var self atomic.Pointer[kv.Announcement]
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Load: func() (events.Beat, bool) {
			a := self.Load()
			if err := a.Update(func(in *events.Instance) { in.Weight++ }); err != nil {
				t.Error(err)
			}
			return events.Beat{InFlight: a.Instance().Weight}, a.State().Registered()
		}})
		self.Store(a)
		time.Sleep(time.Minute)
		for i, m := range h.get() {
			if want := fmt.Sprintf(`"in_flight":%d,`, events.DefaultWeight+1+i); !strings.Contains(m, want) {
				t.Errorf("%s, want %s", m, want)
			}
		}
		if n := len(h.get()); n < 10 {
			t.Errorf("%d beats", n)
		}
	})
}

func TestWhatIsNoBeatIsNotToldAndLoggedOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		h := f.hear("proxima.beat.>")
		var log testkit.Output
		percent := events.Beat{CPU: 50}
		logged := func() int {
			return strings.Count(log.String(), `level=WARN msg="the load is not published" service=user instance=a error="events: cpu \"50\": want a number, 0 to 1"`)
		}
		var right atomic.Bool
		f.announce(f.r, instance("a"), kv.AnnounceOptions{
			Load: func() (events.Beat, bool) {
				if right.Load() {
					return events.Beat{CPU: 0.5}, true
				}
				return percent, true
			},
			Logger: log.Logger(slog.LevelInfo),
		})
		time.Sleep(time.Minute)
		if len(h.get()) != 0 || logged() != 1 {
			t.Errorf("heard %q, logged %d times\n%s", h.get(), logged(), log.String())
		}
		right.Store(true)
		testkit.Within(t, 6*time.Second, "a beat", func() bool { return len(h.get()) == 1 })
		right.Store(false)
		time.Sleep(time.Minute)
		if len(h.get()) != 1 || logged() != 2 {
			t.Errorf("heard %q, logged %d times", h.get(), logged())
		}
	})
}

func TestAReplacedInstancePublishesNoLoad(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		h := f.hear("proxima.beat.>")
		l := &load{t: t}
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Load: l.tell})
		registered(t, a, time.Second)
		other := instance("a")
		other.Incarnation = "newer"
		if _, err := f.r.Register(t.Context(), other, a.State().Revision); err != nil {
			t.Fatal(err)
		}
		select {
		case <-a.Done():
		case <-time.After(6 * time.Second):
			t.Fatalf("not replaced: %+v", a.State())
		}
		before := len(h.get())
		time.Sleep(time.Minute)
		if n := len(h.get()) - before; n != 0 {
			t.Errorf("%d beats of a replaced instance", n)
		}
	})
}
