package kv_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// A change may be lost on the way while the connection holds, as between two
// servers of a cluster.
func TestLostChangeIsFound(t *testing.T) {
	for name, x := range map[string]struct {
		then  func(*fixture) // after the registration of b was lost
		limit time.Duration
	}{
		"when the same instance changes":    {func(f *fixture) { f.again("b") }, time.Second},
		"when nothing follows":              {func(*fixture) {}, 23 * time.Second},
		"when only others change":           {func(f *fixture) { f.register(instance("c")) }, 23 * time.Second},
		"when only others change, too late": {func(f *fixture) { time.Sleep(19 * time.Second); f.register(instance("c")) }, 23 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				w, _, r := f.remote(kv.Options{})
				v := watch(t, r, "user")
				f.register(longLived("a"))
				v.until("a", time.Second, count(1))
				w.losing(func(subject string, _ []byte) bool { return subject == live+"b" })
				f.register(longLived("b"))
				time.Sleep(time.Second)
				if w.lost() != 1 || len(v.get("user").Entries) != 1 {
					t.Fatalf("%d lost, %s", w.lost(), show(v.get("user")))
				}
				w.losing(nil)
				x.then(f)
				v.until("b", x.limit, func(s events.Snapshot) bool {
					for _, e := range s.Entries {
						if e.ID == "b" {
							return true
						}
					}
					return false
				})
				time.Sleep(time.Second)
				if g := r.Counts().Gaps; g == 0 {
					t.Error("no gap was counted")
				}
			})
		})
	}
}

func longLived(id string) events.Instance {
	in := instance(id)
	in.TTL = time.Hour
	return in
}

// again writes the record of id anew.
func (f *fixture) again(id string) {
	f.t.Helper()
	in := longLived(id)
	e, err := f.r.Lookup(f.t.Context(), in.Key())
	if err != nil {
		f.t.Fatal(err)
	}
	in.Version = "again"
	if _, err := f.r.Register(f.t.Context(), in, e.Revision); err != nil {
		f.t.Fatal(err)
	}
}

func TestLostPartOfASnapshotIsReadAgain(t *testing.T) {
	for _, lost := range []string{"a record", "the end of a page"} {
		t.Run(lost, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				f.dying(0, 50)
				w, _, r := f.remote(kv.Options{})
				n := 0
				w.losing(func(subject string, msg []byte) bool {
					if lost == "a record" {
						n++
						return n == 20
					}
					ended := string(msg[:min(12, len(msg))]) == "NATS/1.0 204"
					if ended {
						n++
					}
					return ended && n == 1
				})
				v := watch(t, r, "user")
				v.until("all", 5*time.Second, count(50))
				if w.lost() != 1 {
					t.Errorf("%d lost", w.lost())
				}
			})
		})
	}
}

// The view is the bucket's, whatever happens while it is read.
func TestSnapshotOfMovingRecords(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.populate(4500, 0) // several pages
		w, _, r := f.remote(kv.Options{})
		pages := 0
		w.losing(func(_ string, msg []byte) bool {
			if len(msg) > 12 && string(msg[:12]) == "NATS/1.0 204" {
				pages++
			}
			return false
		})
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("i%05d", (i*7)%4500)
				f.again(id)
				if i%20 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		}()
		v := watch(t, r, "user")
		v.until("all", 5*time.Second, count(4500))
		close(stop)
		<-stopped
		time.Sleep(time.Second)
		want, err := f.r.Snapshot(t.Context(), "user")
		if err != nil || !equal(v.get("user"), want[0]) {
			t.Errorf("the view differs, %v", err)
		}
		if pages < 3 {
			t.Errorf("it took %d pages", pages)
		}
	})
}

func TestSlowReaderCatchesUp(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		reader := natstest.Connect(t, f.ns, silent)
		r := open(t, reader, kv.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last atomic.Pointer[events.Snapshot]
		go func() {
			_ = r.Watch(ctx, "user", func(s events.Snapshot) {
				last.Store(&s)
				if len(s.Entries) > 0 {
					time.Sleep(5 * time.Second)
				}
			})
		}()
		time.Sleep(time.Second)
		js := f.js()
		// More than is kept for a reader that is busy: the records of a few
		// instances, written again and again, then each once more.
		for i := range 6000 {
			in := longLived(fmt.Sprintf("i%02d", i%20))
			in.Weight = 1 + i
			data, err := events.Encode(in)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "$KV.proxima." + in.Key().Inst(), Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
		time.Sleep(time.Minute)
		s := last.Load()
		if len(s.Entries) != 20 {
			t.Fatalf("%d entries", len(s.Entries))
		}
		for _, e := range s.Entries {
			if e.Weight <= 5980 {
				t.Errorf("%s has weight %d", e.ID, e.Weight)
			}
		}
		if r.Counts().Gaps == 0 {
			t.Error("nothing was lost: the test is too small")
		}
	})
}

// While apply takes its time the watch does not listen to the registry, which is no
// reason to call it silent.
func TestSlowReaderIsNotASilentRegistry(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.populate(30, 0)
		w, _, r := f.remote(kv.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last atomic.Pointer[events.Snapshot]
		go func() {
			_ = r.Watch(ctx, "user", func(s events.Snapshot) {
				last.Store(&s)
				time.Sleep(5 * time.Second) // longer than a silence that ends a question
			})
		}()
		time.Sleep(10 * time.Second)
		for range 10 {
			// All of it changes unheard, so that a read finds it.
			w.losing(func(subject string, _ []byte) bool { return strings.HasPrefix(subject, "proxima.") })
			f.populate(30, 0)
			time.Sleep(22 * time.Second)
			w.losing(nil)
			for range 20 {
				time.Sleep(time.Second)
				if last.Load().Stale {
					t.Error("it was called stale")
					cancel()
					return
				}
			}
		}
	})
}

func TestStreamOfAnotherLifeWithHigherSequences(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.register(longLived("old"))
		f.register(longLived("same"))
		v := watch(t, f.r, "user")
		v.until("two", time.Second, count(2))
		config := f.stream().Config
		if err := f.js().DeleteStream(t.Context(), "KV_proxima"); err != nil {
			t.Fatal(err)
		}
		config.FirstSeq = 1000
		if _, err := f.js().CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		f.register(longLived("same"))
		f.register(longLived("new"))
		v.until("the old one is suspect", 4*time.Second, func(s events.Snapshot) bool {
			return of(1, 2)(s) && s.Entries[1].ID == "old" && s.Entries[1].Suspect
		})
	})
}

// equal says whether two snapshots list the same revisions.
func equal(a, b events.Snapshot) bool {
	if len(a.Entries) != len(b.Entries) {
		return false
	}
	for i := range a.Entries {
		if a.Entries[i].Key() != b.Entries[i].Key() || a.Entries[i].Revision != b.Entries[i].Revision {
			return false
		}
	}
	return true
}

// nats.go keeps ten changes of a connection for a reader, and drops the rest.
func TestReconnectsWhileTheReaderIsBusy(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, nc, r := f.remote(kv.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		busy := make(chan struct{})
		var last atomic.Pointer[events.Snapshot]
		go func() {
			_ = r.Watch(ctx, "user", func(s events.Snapshot) {
				last.Store(&s)
				if len(s.Entries) == 1 {
					<-busy
				}
			})
		}()
		f.register(longLived("a"))
		time.Sleep(time.Second)
		for range 20 {
			w.cut()
			time.Sleep(time.Second)
			w.lead(f.ns)
			testkit.Within(t, 2*time.Second, "connected", nc.IsConnected)
		}
		w.cut()
		f.register(longLived("b"))
		w.lead(f.ns)
		testkit.Within(t, 2*time.Second, "connected", nc.IsConnected)
		close(busy)
		time.Sleep(time.Second)
		if s := last.Load(); !count(2)(*s) {
			t.Errorf("a second later: %s", show(*s))
		}
	})
}
