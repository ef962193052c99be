package kv_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// away is a connection to a server that is not there.
func away(t *testing.T, w *wire) *nats.Conn {
	t.Helper()
	return w.connect(t, nats.RetryOnFailedConnect(true))
}

// saved runs a registry with three instances until dir holds them, and returns
// its wire, cut.
func saved(t *testing.T, dir string) (*fixture, *wire) {
	t.Helper()
	f := setup(t)
	f.dying(0, 3)
	other := instance("other")
	other.Service = "order"
	f.register(other)
	w, _, r := f.remote(kv.Options{SnapshotDir: dir})
	v := watch(t, r, "")
	v.until("listed", time.Second, of(0, 3))
	time.Sleep(6 * time.Second)
	v.close()
	w.cut()
	return f, w
}

func TestStartWithoutTheRegistry(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		f, w := saved(t, dir)
		last := time.Now()
		time.Sleep(20 * time.Minute)
		r := open(t, away(t, w), kv.Options{SnapshotDir: dir})
		v := watch(t, r, "user")
		began := time.Now()
		v.until("the last list", 100*time.Millisecond, of(0, 3))
		s := v.get("user")
		if !s.Stale || s.StaleSince.Sub(last).Abs() > 10*time.Second {
			t.Errorf("stale %t since %v, want since %v", s.Stale, s.StaleSince, last)
		}
		t.Logf("listed after %v", time.Since(began))
		all, err := r.Snapshot(t.Context(), "")
		if err != nil || len(all) != 2 || !all[0].Stale || all[0].Service != "order" || len(all[1].Entries) != 3 {
			t.Errorf("%v, %v", all, err)
		}

		// What the registry says is newer, whatever it says.
		in := longLived("living1")
		e, err := f.r.Lookup(t.Context(), in.Key())
		if err != nil {
			t.Fatal(err)
		}
		if err := f.r.Deregister(t.Context(), &in, e.Revision); err != nil {
			t.Fatal(err)
		}
		w.lead(f.ns)
		v.until("what is listed now", time.Second, func(s events.Snapshot) bool { return of(0, 2)(s) && !s.Stale && s.StaleSince.IsZero() })
	})
}

// The registry comes back without its memory: those that start now know no
// less than those that never stopped.
func TestStartWithoutTheRegistryThatThenComesBackEmpty(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		f, w := saved(t, dir)
		r := open(t, away(t, w), kv.Options{SnapshotDir: dir})
		v := watch(t, r, "user")
		v.until("the last list", 100*time.Millisecond, of(0, 3))
		v.allow(3)
		f.wipe()
		w.lead(f.ns)
		v.until("suspects", 10*time.Second, func(s events.Snapshot) bool { return of(3, 0)(s) && !s.Stale })
		f.register(longLived("living1"))
		v.until("one is back", time.Second, of(2, 1))
	})
}

// A server without the bucket, or one that does not answer, is no registry.
func TestStartWithARegistryThatDoesNotAnswer(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		_, w := saved(t, dir)
		empty := natstest.Start(t)
		w.lead(empty)
		began := time.Now()
		v := watch(t, open(t, w.connect(t), kv.Options{SnapshotDir: dir, NoCreate: true}), "user")
		v.until("the last list", 2*time.Second, of(0, 3))
		w.cut()
		w.lead(empty)
		nc := w.connect(t)
		w.swallow()
		v = watch(t, open(t, nc, kv.Options{SnapshotDir: dir, NoCreate: true}), "user")
		v.until("the last list", 5*time.Second, of(0, 3))
		t.Logf("both took %v", time.Since(began))
	})
}

func TestNothingIsSavedOfAStaleView(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		f, w := saved(t, dir)
		path := filepath.Join(dir, "proxima", "user.json")
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		v := watch(t, open(t, away(t, w), kv.Options{SnapshotDir: dir}), "user")
		v.until("the last list", time.Second, of(0, 3))
		time.Sleep(time.Minute)
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Errorf("it was written anew, %v", err)
		}

		w.lead(f.ns)
		f.register(longLived("new"))
		v.until("the new one", 2*time.Second, of(0, 4))
		time.Sleep(6 * time.Second)
		if after, err := os.ReadFile(path); err != nil || !strings.Contains(string(after), `"id":"new"`) {
			t.Errorf("%s, %v", after, err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "proxima", "*"))
		if err != nil || len(files) != 2 {
			t.Errorf("%v, %v", files, err)
		}
	})
}

func TestServiceThatLeftIsNotSaved(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		f := setupWith(t, kv.Options{SnapshotDir: dir})
		in := longLived("a")
		rev := f.register(in)
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, count(1))
		time.Sleep(6 * time.Second)
		if err := f.r.Deregister(t.Context(), &in, rev); err != nil {
			t.Fatal(err)
		}
		v.until("gone", time.Second, count(0))
		time.Sleep(6 * time.Second)
		if files, err := os.ReadDir(filepath.Join(dir, "proxima")); err != nil || len(files) > 0 {
			t.Errorf("%v, %v", files, err)
		}
	})
}

func TestSavedSnapshotsThatCannotBeUsed(t *testing.T) {
	valid := `{"version":1,"service":"user","saved":"2000-01-01T00:00:00Z","instances":[{"revision":7,"instance":` +
		`{"id":"a","service":"user","endpoints":{"http":"10.0.0.5:8080"},"location":{},"status":"up","weight":100,"ttl":"15s"}}]}`
	for name, x := range map[string]struct {
		data string
		wait time.Duration
		want int
	}{
		"valid":              {data: valid, want: 1},
		"too old":            {data: valid, wait: 25 * time.Hour},
		"empty":              {},
		"cut off":            {data: valid[:len(valid)/2]},
		"another version":    {data: strings.Replace(valid, `"version":1`, `"version":2`, 1)},
		"of another service": {data: strings.ReplaceAll(valid, `"service":"user"`, `"service":"order"`)},
		"a bad instance":     {data: strings.Replace(valid, `10.0.0.5:8080`, `nowhere`, 1)},
		"an alien instance":  {data: strings.Replace(valid, `"id":"a","service":"user"`, `"id":"a","service":"order"`, 1)},
		"garbage":            {data: "\x00\xff{"},
	} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				dir := t.TempDir()
				if err := os.MkdirAll(filepath.Join(dir, "proxima"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "proxima", "user.json"), []byte(x.data), 0o600); err != nil {
					t.Fatal(err)
				}
				time.Sleep(x.wait)
				w := newWire(nil)
				nc := away(t, w)
				v := watch(t, open(t, nc, kv.Options{SnapshotDir: dir}), "user")
				time.Sleep(10 * time.Second)
				if got := len(v.get("user").Entries); got != x.want {
					t.Errorf("%d instances, want %d", got, x.want)
				}
			})
		})
	}
}

func TestSnapshotDirThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ns := natstest.Start(t)
	_, err := kv.Open(t.Context(), natstest.Connect(t, ns), kv.Options{SnapshotDir: file})
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

// A caller that starts without the registry knows what was evacuated when it was last seen.
func TestStartWithoutTheRegistryKnowsOfEvacuations(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		f := setup(t)
		f.evacuate(f.r, "eu", true)
		for _, in := range []events.Instance{longLived("a"), at("b", "eu", "eu-a"), at("c", "eu", "")} {
			in.TTL = time.Hour
			f.register(in)
		}
		w, _, r := f.remote(kv.Options{SnapshotDir: dir})
		v := watch(t, r, "user")
		v.until("listed", time.Second, func(s events.Snapshot) bool { return count(3)(s) && evacuated("b", "c")(s) })
		time.Sleep(6 * time.Second)
		v.close()
		w.cut()
		v = watch(t, open(t, away(t, w), kv.Options{SnapshotDir: dir}), "user")
		v.until("the last list", time.Second, evacuated("b", "c"))
		f.evacuate(f.r, "eu", false)
		w.lead(f.ns)
		v.until("what holds now", 10*time.Second, func(s events.Snapshot) bool { return count(3)(s) && evacuated()(s) })
	})
}
