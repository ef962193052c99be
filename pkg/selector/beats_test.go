package selector_test

import (
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// beat sends the load report of an instance at home.
func (w *world) beat(id string, b events.Beat) {
	w.t.Helper()
	data, err := events.EncodeBeat(b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Hear("user", "proxima."+instance(id, home).Key().Beat(), data)
}

func TestLoadAwarePicksTheInstanceWithTheHigherScore(t *testing.T) {
	idle := events.Beat{CPU: 0.1, Memory: 0.1}
	for _, tt := range []struct {
		name string
		a, b events.Beat
		want string // "": either
	}{
		{"less cpu", events.Beat{CPU: 0.2, Memory: 0.5}, events.Beat{CPU: 0.9, Memory: 0.5}, "i0"},
		{"less memory", events.Beat{CPU: 0.5, Memory: 0.9}, events.Beat{CPU: 0.5, Memory: 0.3}, "i1"},
		{"a shorter queue", events.Beat{CPU: 0.5, Memory: 0.5, Queue: 9}, events.Beat{CPU: 0.5, Memory: 0.5}, "i1"},
		{"cpu and memory count alike", events.Beat{CPU: 0.3, Memory: 0.7}, events.Beat{CPU: 0.7, Memory: 0.3}, ""},
		{"a queue counts half as much", events.Beat{CPU: 0.5, Memory: 0.5, Queue: 1000}, events.Beat{CPU: 0.99, Memory: 0.49}, ""},
		{"calls in flight do not count", events.Beat{CPU: 0.1, Memory: 0.1, InFlight: 500}, events.Beat{CPU: 0.5, Memory: 0.1}, "i0"},
		{"about the same is the same", idle, events.Beat{CPU: 0.2, Memory: 0.1}, ""},
		{"of this life", events.Beat{CPU: 0.9, Memory: 0.9, Incarnation: "1"}, events.Beat{CPU: 0.1, Memory: 0.1, Incarnation: "1"}, "i1"},
		{"not of another", events.Beat{CPU: 0.9, Memory: 0.9, Incarnation: "0"}, idle, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: selector.LoadAware}, several(2)...)
				w.beat("i0", tt.a)
				w.beat("i1", tt.b)
				got := w.picks(1000)
				if tt.want == "" && (got["i0"] < 300 || got["i1"] < 300) || tt.want != "" && got[tt.want] != 1000 {
					t.Errorf("picks %v, want all of %q (or equally many)", got, tt.want)
				}
				// Twice as many calls in flight there do not change that.
				if tt.want != "" {
					w.aim(tt.want)
					if got := w.picks(100); got[tt.want] != 100 {
						t.Errorf("picks %v with a call in flight there", got)
					}
				}
			})
		})
	}
}

// Two of many are drawn, so the best does not get all calls.
func TestLoadAwareDoesNotHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.LoadAware}, several(10)...)
		shares := make(map[string]float64)
		for i := range 10 {
			w.beat(fmt.Sprint("i", i), events.Beat{CPU: float64(i) / 10, Memory: float64(i) / 10})
			shares[fmt.Sprint("i", i)] = float64(2 * (9 - i)) // of 90: drawn with a worse one
		}
		delete(shares, "i9")
		got := w.picks(9000)
		if got["i9"] > 0 {
			t.Errorf("the worst got %d picks", got["i9"])
		}
		wantShares(t, got, shares)
	})
}

func TestABeatCountsForFifteenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.LoadAware}, several(2)...)
		busy := func() {
			w.beat("i0", events.Beat{CPU: 0.9, Memory: 0.9})
			w.beat("i1", events.Beat{CPU: 0.1, Memory: 0.1})
		}
		busy()
		time.Sleep(14900 * time.Millisecond)
		if got := w.picks(100)["i1"]; got != 100 {
			t.Errorf("%d of 100 picks just before the beats are old", got)
		}
		if why := w.candidate("i1").Reason; !strings.Contains(why, "with a score of 0.92 from its last beat") {
			t.Errorf("reason: %s", why)
		}
		time.Sleep(200 * time.Millisecond)
		if got := w.picks(1000)["i1"]; got < 300 || got > 700 {
			t.Errorf("%d of 1000 picks when they are old, want about half", got)
		}
		if why := w.candidate("i1").Reason; !strings.Contains(why, "without a fresh beat: by calls in flight") {
			t.Errorf("reason: %s", why)
		}
		// Then calls in flight decide, also if only one of them sends no beats.
		w.beat("i0", events.Beat{CPU: 0.1, Memory: 0.1})
		w.aim("i0")
		w.aim("i0")
		if got := w.picks(100)["i1"]; got != 100 {
			t.Errorf("%d of 100 picks of the one with fewer calls in flight", got)
		}
		busy()
		if got := w.picks(100)["i1"]; got != 100 {
			t.Errorf("%d of 100 picks after new beats", got)
		}
	})
}

func TestInvalidBeatsAreCountedAndLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log testkit.Output
		w := start(t, selector.Options{Strategy: selector.LoadAware, Logger: log.Logger(slog.LevelInfo)}, several(2)...)
		good, err := events.EncodeBeat(events.Beat{CPU: 0.5})
		if err != nil {
			t.Fatal(err)
		}
		subject := "proxima." + instance("i0", home).Key().Beat()
		for _, bad := range []struct{ subject, data string }{
			{subject, ""},
			{subject, "null and void"},
			{subject, `{"cpu":2,"mem":0.1,"in_flight":0,"queue":0}`},
			{subject, `{"cpu":0.1,"mem":-1,"in_flight":0,"queue":0}`},
			{"proxima.beat.user.us.us-a", string(good)},
			{"proxima.beat.user.us.us-a.i0.x", string(good)},
			{"proxima.beat.other.us.us-a.i0", string(good)},
			{"", string(good)},
		} {
			before := w.Stats().InvalidBeats
			w.Hear("user", bad.subject, []byte(bad.data))
			if got := w.Stats().InvalidBeats - before; got != 1 {
				t.Errorf("%q on %q: counted %d times", bad.data, bad.subject, got)
			}
		}
		w.Hear("user", "proxima.beat.user.us.us-a.unlisted", good)
		w.Hear("user", subject, good)
		if got := w.Stats().InvalidBeats; got != 8 {
			t.Errorf("%d invalid, want 8", got)
		}
		if got := strings.Count(log.String(), "level=WARN"); got != 1 {
			t.Errorf("%d warnings, want one:\n%s", got, log.String())
		}
		time.Sleep(2 * time.Minute)
		w.Hear("user", subject, nil)
		if got := strings.Count(log.String(), "level=WARN"); got != 2 {
			t.Errorf("%d warnings, want another one after a minute:\n%s", got, log.String())
		}
	})
}

func FuzzHear(f *testing.F) {
	good, err := events.EncodeBeat(events.Beat{CPU: 0.5, Queue: 3, Incarnation: "1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("proxima.beat.user.us.us-a.i0", good)
	f.Add("proxima.beat.user._._.i0", []byte(`{}`))
	f.Add("beat.user", []byte(`{"cpu":1e309}`))
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, selector.Options{Strategy: selector.LoadAware}, several(2)...)
			w.Hear("user", subject, data)
			w.picks(3)
			w.explain()
		})
	})
}

func TestBeatsAreReceivedOnNATS(t *testing.T) {
	for _, bucket := range []string{"", "other"} {
		natstest.Bubble(t, func(t *testing.T) {
			ns := natstest.Start(t)
			nc := natstest.Connect(t, ns)
			r, err := kv.Open(t.Context(), nc, kv.Options{Bucket: bucket, Logger: silent})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range several(2) {
				announce(t, r, e)
			}
			s, err := selector.New(t.Context(), natstest.Connect(t, ns), selector.Options{
				Registry: kv.Options{Bucket: bucket}, Location: home, Logger: silent, Strategy: selector.LoadAware,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			score := func(id string) float64 {
				e, err := s.Explain(t.Context(), selector.Request{Service: "user"})
				if err != nil {
					return -1
				}
				for _, c := range e.Instances {
					if _, text, ok := strings.Cut(c.Reason, "with a score of "); ok && c.ID == id {
						var f float64
						_, _ = fmt.Sscan(strings.TrimSuffix(text, " from its last beat"), &f)
						return f
					}
				}
				return 0
			}
			testkit.Eventually(t, "it is listed", func() bool { return score("i1") == 0 })
			prefix := "proxima."
			if bucket != "" {
				prefix = bucket + "."
			}
			testkit.Eventually(t, "its beat is heard", func() bool {
				data, err := events.EncodeBeat(events.Beat{CPU: 0.25, Memory: 0.5, Queue: 1})
				if err != nil {
					t.Fatal(err)
				}
				if err := nc.Publish(prefix+instance("i1", home).Key().Beat(), data); err != nil {
					t.Fatal(err)
				}
				return math.Abs(score("i1")-0.6) < 0.01
			})
			if got := score("i0"); got != 0 {
				t.Errorf("score %v of the one that is silent", got)
			}
			testkit.Eventually(t, "garbage is counted", func() bool {
				_ = nc.Publish(prefix+"beat.user.x", []byte("?"))
				return s.Stats().InvalidBeats > 0
			})
			before := ns.NumSubscriptions()
			_ = s.Close()
			testkit.Eventually(t, "no subscription is left", func() bool { return ns.NumSubscriptions() < before })
		})
	}
}

// Other strategies do not subscribe to beats.
func TestOtherStrategiesDoNotListen(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		for _, tt := range []struct {
			strategy selector.Strategy
			want     bool
		}{{selector.P2C, false}, {selector.LeastRequest, false}, {selector.LoadAware, true}} {
			s, err := selector.New(t.Context(), natstest.Connect(t, ns), selector.Options{
				Source: always(several(1)...), Location: home, Logger: silent, Strategy: tt.strategy, Probe: selector.Probe{Kind: selector.ProbeNone},
			})
			if err != nil {
				t.Fatal(err)
			}
			before := ns.NumSubscriptions()
			p, err := s.Pick(t.Context(), "user")
			if err != nil {
				t.Fatal(err)
			}
			p.Done(nil)
			time.Sleep(time.Second)
			synctest.Wait()
			if got := ns.NumSubscriptions() > before; got != tt.want {
				t.Errorf("%s listens: %v", tt.strategy, got)
			}
			_ = s.Close()
		}
	})
}
