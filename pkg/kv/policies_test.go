package kv_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/policy"
)

// ruler is a caller that follows the policy of one service.
type ruler struct {
	t      testing.TB
	mu     sync.Mutex
	all    []policy.Current
	change chan struct{}
	close  func()
}

func rule(t testing.TB, r *kv.Registry, service string) *ruler {
	ctx, cancel := context.WithCancel(t.Context())
	v := &ruler{t: t, change: make(chan struct{}, 1)}
	var watching sync.WaitGroup
	watching.Go(func() { _ = r.WatchPolicy(ctx, service, v.apply) }) // until ctx ends
	v.close = func() { cancel(); watching.Wait() }
	t.Cleanup(v.close)
	return v
}

func (v *ruler) apply(c policy.Current) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all = append(v.all, c)
	select {
	case v.change <- struct{}{}:
	default:
	}
}

// last is what holds, and how often it changed.
func (v *ruler) last() (policy.Current, int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.all) == 0 {
		return policy.Current{}, 0
	}
	return v.all[len(v.all)-1], len(v.all)
}

func (v *ruler) until(what string, limit time.Duration, ok func(policy.Current) bool) time.Duration {
	v.t.Helper()
	began, late := time.Now(), time.NewTimer(limit)
	defer late.Stop()
	for {
		c, n := v.last()
		if n > 0 && ok(c) {
			return time.Since(began)
		}
		select {
		case <-v.change:
		case <-late.C:
			v.t.Fatalf("after %v still not: %s; %d: %+v %+v", limit, what, n, c.Default, c.Service)
		}
	}
}

// strategy says that a strategy holds, empty: none is set.
func strategy(want string) func(policy.Current) bool {
	return func(c policy.Current) bool {
		return c.Policy().Strategy == want && c.Service.Err == nil && c.Default.Err == nil
	}
}

func (f *fixture) policy(name, data string, o ...kv.PolicyOption) policy.Document {
	f.t.Helper()
	d, err := f.r.PutPolicy(f.t.Context(), name, []byte(data), o...)
	if err != nil {
		f.t.Fatalf("policy of %s: %v", name, err)
	}
	return d
}

// rawPolicy writes a key as another tool would.
func (f *fixture) rawPolicy(key, data string, header ...string) {
	f.t.Helper()
	msg := nats.NewMsg("$KV.proxima." + key)
	msg.Data = []byte(data)
	for i := 0; i < len(header); i += 2 {
		msg.Header.Set(header[i], header[i+1])
	}
	if _, err := f.js().PublishMsg(f.t.Context(), msg); err != nil {
		f.t.Fatal(err)
	}
}

func TestAPolicyIsSeenWithinASecondAndUntilItIsRemoved(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := rule(t, open(t, natstest.Connect(t, f.ns), kv.Options{NoCreate: true}), "user")
		v.until("known that there is none", 2*time.Second, strategy(""))
		if c, _ := v.last(); c.Default.Name != policy.Default || c.Service.Name != "user" || c.Service.Revision != 0 {
			t.Errorf("%+v", c)
		}
		written := f.policy("user", `{"strategy": "random"}`)
		v.until("the policy", time.Second, strategy("random"))
		if c, n := v.last(); c.Service.Revision != written.Revision || !c.Service.At.Equal(written.At) || string(c.Service.Data) != `{"strategy": "random"}` || n != 2 {
			t.Errorf("change %d: %+v, written %+v", n, c.Service, written)
		}
		f.policy(policy.Default, `{"strategy":"nearest","timeout":"2s"}`)
		v.until("that for all below it", time.Second, func(c policy.Current) bool {
			return c.Policy().Strategy == "random" && c.Policy().Timeout == policy.Duration(2*time.Second)
		})
		f.policy("other", `{"strategy":"p2c"}`)
		all, err := f.r.Policies(t.Context())
		if err != nil || len(all) != 3 || all[0].Name != policy.Default || all[1].Name != "other" || all[2].Name != "user" {
			t.Errorf("%+v, %v", all, err)
		}
		if err := f.r.DeletePolicy(t.Context(), "user"); err != nil {
			t.Fatal(err)
		}
		v.until("that for all alone", time.Second, strategy("nearest"))
		if d, err := f.r.Policy(t.Context(), "user"); err != nil || d.Policy != nil || d.Err != nil || d.Revision != 0 {
			t.Errorf("%+v, %v", d, err)
		}
		time.Sleep(time.Hour)
		if c, n := v.last(); !strategy("nearest")(c) || n > 6 {
			t.Errorf("%d changes, %+v", n, c)
		}
		if err := f.r.DeletePolicy(t.Context(), "user"); !errors.Is(err, kv.ErrNoPolicy) {
			t.Errorf("removed twice: %v", err)
		}
		if c := f.r.Counts(); c.Invalid+c.Forged != 0 {
			t.Errorf("%+v", c)
		}
	})
}

func TestAPolicyThatAnotherToolWritesIsFound(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := rule(t, f.r, "user")
		v.until("none", 2*time.Second, strategy(""))
		f.rawPolicy("policy.user", `{"strategy":"random"}`)
		v.until("it", 25*time.Second, strategy("random"))
		if c, _ := v.last(); time.Since(c.Service.At).Abs() > time.Minute || c.Service.Revision == 0 {
			t.Errorf("%+v", c.Service)
		}
		// One with the command comes after it, and after another one, whatever the clock.
		f.rawPolicy("policy.user", `{"strategy":"nearest"}`, "Proxima-At", time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano))
		v.until("the one of a fast clock", 25*time.Second, strategy("nearest"))
		if d := f.policy("user", `{"strategy":"p2c"}`); !d.At.After(time.Now().Add(59 * time.Minute)) {
			t.Errorf("it is of %v", d.At)
		}
		v.until("a later one", time.Second, strategy("p2c"))
		f.rawPolicy("policy.user", "", "KV-Operation", "DEL")
		v.until("none any more", 25*time.Second, strategy(""))
	})
}

func TestAPolicyIsOnlyWrittenInThePlaceOfTheRevisionThatIsMeant(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		write := func(revision uint64) (policy.Document, error) {
			return f.r.PutPolicy(t.Context(), "user", []byte(`{"strategy":"p2c"}`), kv.IfRevision(revision))
		}
		if _, err := write(7); !errors.Is(err, kv.ErrChanged) || !strings.Contains(err.Error(), "the revision is 0, not 7") {
			t.Errorf("there is none: %v", err)
		}
		first, err := write(0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := write(0); !errors.Is(err, kv.ErrChanged) {
			t.Errorf("there is one: %v", err)
		}
		if err := f.r.DeletePolicy(t.Context(), "user", kv.IfRevision(first.Revision+1)); !errors.Is(err, kv.ErrChanged) {
			t.Errorf("removed: %v", err)
		}
		f.rawPolicy("policy.user", "garbage")
		if _, err := write(first.Revision); !errors.Is(err, kv.ErrChanged) {
			t.Errorf("one that cannot be read is another: %v", err)
		}
		d, err := f.r.Policy(t.Context(), "user")
		bad, ok := errors.AsType[*policy.UnreadableError](d.Err)
		if err != nil || !ok || string(bad.Data) != "garbage" {
			t.Fatalf("%+v, %v", d, err)
		}
		if d, err = write(bad.Revision); err != nil {
			t.Fatal(err)
		}
		// Of many at once one is written.
		var written atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := write(d.Revision); err == nil {
					written.Add(1)
				} else if !errors.Is(err, kv.ErrChanged) && !errors.Is(err, kv.ErrUnavailable) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := written.Load(); n != 1 {
			t.Errorf("%d were written", n)
		}
	})
}

func TestAPolicyThatCannotBeMeantIsNotWritten(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		for _, x := range [][2]string{{"user", "{"}, {"user", `{"timeout":"0s"}`}, {"user", ""}, {"User", "{}"}, {"", "{}"}, {"_", "{}"}, {"_default.x", "{}"}, {strings.Repeat("x", 4096), "{}"}, {"a.*", "{}"}, {"a b", "{}"}} {
			if d, err := f.r.PutPolicy(t.Context(), x[0], []byte(x[1])); err == nil {
				t.Errorf("%.20q %q is kept as %+v", x[0], x[1], d)
			}
		}
		for _, name := range []string{"", "*", ">", "a..b"} {
			if _, err := f.r.Policy(t.Context(), name); err == nil {
				t.Errorf("%q is a name", name)
			}
			if err := f.r.WatchPolicy(t.Context(), name, func(policy.Current) {}); err == nil {
				t.Errorf("%q is a name", name)
			}
		}
		f.flush()
	})
}

// The log tells once, and the counter, and Policy.
func TestADocumentThatCannotBeReadLeavesTheLastGoodOne(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		var log testkit.Output
		f := setup(t)
		f.r = open(t, f.nc, kv.Options{Logger: log.Logger(slog.LevelInfo)})
		good := f.policy("user", `{"strategy":"random"}`)
		v := rule(t, f.r, "user")
		v.until("it", 2*time.Second, strategy("random"))
		for i, garbage := range []string{`{"strategy":"fastest"}`, "", "{", strings.Repeat("[", 60_000), `{"strategy":"p2c"}`} {
			var header []string
			if i == 4 {
				header = []string{"Proxima-At", "yesterday"}
			}
			f.rawPolicy("policy.user", garbage, header...)
			v.until("told", 25*time.Second, func(c policy.Current) bool {
				bad, ok := errors.AsType[*policy.UnreadableError](c.Service.Err)
				return ok && string(bad.Data) == garbage
			})
			c, _ := v.last()
			if c.Policy().Strategy != "random" || c.Service.Revision != good.Revision {
				t.Errorf("%.20q: %+v", garbage, c.Service)
			}
			if d, err := f.r.Policy(t.Context(), "user"); err != nil || d.Err == nil || d.Policy == nil {
				t.Errorf("%.20q: %+v, %v", garbage, d, err)
			}
			// A caller that comes later has no last good one.
			late := rule(t, open(t, natstest.Connect(t, f.ns), kv.Options{}), "user")
			late.until("that it cannot be read", 2*time.Second, func(c policy.Current) bool { return c.Service.Err != nil && c.Service.Policy == nil })
			late.close()
			time.Sleep(time.Hour)
			if n := f.r.Counts().Invalid; n != uint64(i+1) {
				t.Errorf("%.20q: %d are counted", garbage, n)
			}
			if n := strings.Count(log.String(), "the last good one stays"); n != i+1 {
				t.Errorf("%.20q: logged %d times\n%s", garbage, n, log.String())
			}
		}
		f.policy("user", `{"strategy":"nearest"}`)
		v.until("the next good one", time.Second, strategy("nearest"))
	})
}

func TestWhatAScheduleWritesIsNoPolicyAndRemovesNone(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.policy("user", `{"strategy":"random"}`)
		v := rule(t, f.r, "user")
		v.until("it", 2*time.Second, strategy("random"))
		// As a client does that may write leases only: no server checks its target.
		for i, header := range [][]string{{}, {"KV-Operation", "PURGE"}} {
			f.rawPolicy("lease.user.r1.a.x", `{"strategy":"p2c"}`, append(header, "Nats-Schedule", "@at "+time.Now().Add(2*time.Second).UTC().Format(time.RFC3339), "Nats-Schedule-Target", "$KV.proxima.policy.user")...)
			time.Sleep(time.Minute)
			if c, _ := v.last(); !strategy("random")(c) {
				t.Errorf("%q: %+v", header, c.Service)
			}
			// And what it has replaced is written again.
			if d, err := f.r.Policy(t.Context(), "user"); err != nil || d.Policy == nil || d.Policy.Strategy != "random" {
				t.Errorf("%q: %+v, %v", header, d, err)
			}
			if c := f.r.Counts(); c.Forged != uint64(i+1) {
				t.Errorf("%q: %+v", header, c)
			}
		}
	})
}

func TestGarbageAmongPoliciesIsSkipped(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := rule(t, f.r, "user")
		v.until("none", 2*time.Second, strategy(""))
		for _, key := range []string{"policy.a.b.c", "policy._", "policy.UPPER", "policy._default.x"} {
			f.rawPolicy(key, `{"strategy":"random"}`)
			if err := f.nc.Publish("proxima."+key, []byte(`{"strategy":"random"}`)); err != nil {
				t.Fatal(err)
			}
		}
		for _, live := range []string{"{", `{"strategy":"random"}`, ""} { // one does not say when it was written
			if err := f.nc.Publish("proxima.policy.user", []byte(live)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 3000 { // more than is asked for at a time
			if _, err := f.js().PublishAsync(fmt.Sprintf("$KV.proxima.policy.s%d", i), []byte(`{"where":"version=1"}`)); err != nil {
				t.Fatal(err)
			}
		}
		<-f.js().PublishAsyncComplete()
		time.Sleep(time.Minute)
		if c, _ := v.last(); !strategy("")(c) {
			t.Errorf("%+v", c)
		}
		all, err := f.r.Policies(t.Context())
		if err != nil || len(all) != 3000 {
			t.Errorf("%d, %v", len(all), err)
		}
		f.policy("user", `{"strategy":"p2c"}`)
		v.until("it, in spite of all", time.Second, strategy("p2c"))
	})
}

// Documents that are large together do not fit into one answer.
func TestAllPoliciesAreReadHoweverLarge(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupWith(t, kv.Options{Memory: true})
		large := `{"where":"` + strings.Repeat("a", 1000) + `"` + strings.Repeat(" ", 60_000) + `}`
		const n = 300
		for i := range n {
			f.policy(fmt.Sprint("s", i), large)
		}
		all, err := f.r.Policies(t.Context())
		if err != nil || len(all) != n {
			t.Errorf("%d, %v", len(all), err)
		}
	})
}

// A policy that was heard of and is not in the bucket ends.
func TestAPolicyThatWasHeardButIsNotKeptEnds(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := rule(t, f.r, "user")
		v.until("none", 2*time.Second, strategy(""))
		msg := nats.NewMsg("proxima.policy.user")
		msg.Data = []byte(`{"strategy":"random"}`)
		msg.Header.Set("Proxima-At", "2026-11-21T08:00:00Z")
		if err := f.nc.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
		v.until("it", time.Second, strategy("random"))
		v.until("not any more", 10*time.Second, strategy(""))
	})
}

// A follower reads what is used, and asks when there is something to see.
func TestFollowersOfPoliciesAskLittle(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var asked, others atomic.Int32
		if _, err := f.nc.Subscribe("$JS.API.DIRECT.GET.KV_proxima", func(msg *nats.Msg) {
			if strings.Contains(string(msg.Data), "policy.") {
				asked.Add(1)
			}
			if strings.Contains(string(msg.Data), "policy.other") || strings.Contains(string(msg.Data), "policy.>") {
				others.Add(1)
			}
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := asked.Load(); n != 0 {
			t.Errorf("asked %d times before there is a use", n)
		}
		names := []string{"user", "orders", "billing"}
		var all []*ruler
		for _, name := range names {
			for range 3 {
				v := rule(t, f.r, name)
				v.until("none", time.Second, strategy(""))
				all = append(all, v)
			}
		}
		time.Sleep(10 * time.Minute)
		if n := asked.Load(); n > 34+9 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		before := asked.Load()
		for i := range 100 { // of no concern
			if _, err := open(t, f.nc, kv.Options{}).PutPolicy(t.Context(), "other", fmt.Appendf(nil, `{"timeout":"%ds"}`, i+1)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if n := asked.Load() - before - 100; n > 4 { // each write asks once
			t.Errorf("asked %d times for other policies", n)
		}
		goroutines := func() int {
			synctest.Wait()
			return f.nc.NumSubscriptions()
		}
		with := goroutines()
		for _, v := range all {
			v.close()
		}
		if n := with - goroutines(); n != 1 {
			t.Errorf("%d subscriptions for policies", n)
		}
		before = asked.Load()
		time.Sleep(10 * time.Minute)
		if n := asked.Load() - before; n != 0 {
			t.Errorf("asked %d times after the last use", n)
		}
	})
}

func TestPoliciesOutliveTheServer(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		for _, memory := range []bool{false, true} {
			store := t.TempDir()
			keep := func(o *server.Options) { o.StoreDir = store }
			f := &fixture{t: t, ns: natstest.Start(t, keep)}
			w := newWire(f.ns)
			f.nc = w.connect(t)
			f.r = open(t, f.nc, kv.Options{Memory: memory})
			v := rule(t, f.r, "user")
			v.until("none", 5*time.Second, strategy(""))
			written := f.policy("user", `{"strategy":"random"}`)
			v.until("it", time.Second, strategy("random"))
			time.Sleep(5 * time.Second) // it has been found in the bucket, too
			_, changes := v.last()
			w.cut()
			natstest.Stop(f.ns)
			time.Sleep(3 * time.Second)
			again := natstest.Start(t, keep)
			w.lead(again)
			if memory { // an announcer makes the bucket
				f.announce(f.r, at("eu", "eu", "a"), kv.AnnounceOptions{})
			}
			// A registry that knows it writes it again.
			testkit.Within(t, time.Minute, "kept again", func() bool {
				d, err := f.r.Policy(t.Context(), "user")
				return err == nil && d.Policy != nil && d.At.Equal(written.At)
			})
			time.Sleep(time.Minute)
			if c, n := v.last(); !strategy("random")(c) || n > changes+1 { // the revision is another
				t.Errorf("memory=%t: %d changes, then %d: %+v", memory, changes, n, c.Service)
			}
			v.close()
			f.nc.Close()
			natstest.Stop(again)
		}
	})
}

func TestAPolicyThatVanishedWithTheBucketIsWrittenAgainAndARemovedOneIsNot(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, at("eu", "eu", "a"), kv.AnnounceOptions{})
		f.policy("user", `{"strategy":"random"}`)
		f.policy("gone", `{"strategy":"random"}`)
		v, gone := rule(t, f.r, "user"), rule(t, f.r, "gone")
		v.until("it", 2*time.Second, strategy("random"))
		if err := f.r.DeletePolicy(t.Context(), "gone"); err != nil {
			t.Fatal(err)
		}
		gone.until("removed", time.Second, strategy(""))
		time.Sleep(5 * time.Second) // it has been found in the bucket, too
		for range 3 {
			f.wipe()
			testkit.Within(t, time.Minute, "written again", func() bool {
				d, err := f.r.Policy(t.Context(), "user")
				return err == nil && d.Policy != nil
			})
			time.Sleep(time.Minute)
			if d, err := f.r.Policy(t.Context(), "gone"); err != nil || d.Policy != nil {
				t.Errorf("%+v, %v", d, err)
			}
		}
	})
}

// A copy of the stream that is behind, or one that was restored, has older documents.
func TestAnOlderPolicyDoesNotReplaceALaterOneThatIsKnown(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, at("eu", "eu", "a"), kv.AnnounceOptions{})
		older := f.policy("user", `{"strategy":"random"}`)
		later := f.policy("user", `{"strategy":"nearest"}`)
		v := rule(t, f.r, "user")
		v.until("it", 2*time.Second, strategy("nearest"))
		stream := f.stream().Config
		if err := f.js().DeleteStream(t.Context(), "KV_proxima"); err != nil {
			t.Fatal(err)
		}
		if _, err := f.js().CreateStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
		f.rawPolicy("policy.user", string(older.Data), "Proxima-At", older.At.Format(time.RFC3339Nano))
		_, changes := v.last()
		testkit.Within(t, time.Minute, "written again", func() bool {
			d, err := f.r.Policy(t.Context(), "user")
			return err == nil && d.Policy != nil && d.At.Equal(later.At) && d.Policy.Strategy == "nearest"
		})
		time.Sleep(time.Minute)
		if c, n := v.last(); !strategy("nearest")(c) || n > changes+1 { // the revision is another
			t.Errorf("%d changes, then %d: %+v", changes, n, c.Service)
		}
	})
}

// One that may not write follows all the same, and does not try at each look.
func TestAUserThatMayNotWritePoliciesFollowsThem(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t, func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "operator"},
				{Username: "caller", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.proxima.policy.>", "proxima.policy.>"}}}},
			}
		})
		f := &fixture{t: t, ns: ns, nc: natstest.Connect(t, ns, nats.UserInfo("operator", ""))}
		f.r = open(t, f.nc, kv.Options{})
		var refused atomic.Int64
		nc := natstest.Connect(t, ns, nats.UserInfo("caller", ""), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { refused.Add(1) }))
		r := open(t, nc, kv.Options{OpTimeout: time.Second})
		for _, name := range []string{"user", "orders", policy.Default} {
			f.policy(name, `{"strategy":"random"}`)
		}
		v := rule(t, r, "user")
		rule(t, r, "orders").until("it", time.Second, strategy("random"))
		v.until("it", 2*time.Second, strategy("random"))
		if _, err := r.PutPolicy(t.Context(), "user", []byte("{}")); err == nil || !strings.Contains(err.Error(), "ermissions") {
			t.Errorf("it may: %v", err)
		}
		refused.Store(0)
		f.wipe()
		time.Sleep(5 * time.Minute)
		if n := refused.Load(); n != 1 {
			t.Errorf("it was refused %d times", n)
		}
		if c, _ := v.last(); !strategy("random")(c) {
			t.Errorf("%+v", c.Service)
		}
		f.policy("user", `{"strategy":"p2c"}`)
		v.until("the next one", time.Second, strategy("p2c"))
	})
}

func TestACallerThatStartsWithoutTheRegistryKnowsTheLastPolicy(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		f := setup(t)
		f.policy("user", `{"strategy": "random"}`)
		f.policy(policy.Default, `{"timeout":"2s"}`)
		w := newWire(f.ns)
		begin := func() *ruler {
			return rule(t, open(t, away(t, w), kv.Options{SnapshotDir: dir, NoCreate: true}), "user")
		}
		v := begin()
		v.until("it", 2*time.Second, strategy("random"))
		time.Sleep(10 * time.Second) // it is saved
		v.close()
		w.cut()
		v = begin()
		v.until("the last one", 5*time.Second, func(c policy.Current) bool {
			return strategy("random")(c) && c.Policy().Timeout == policy.Duration(2*time.Second) && string(c.Service.Data) == `{"strategy":"random"}`
		})
		if err := f.r.DeletePolicy(t.Context(), "user"); err != nil {
			t.Fatal(err)
		}
		w.lead(f.ns)
		v.until("what holds now", 30*time.Second, strategy(""))
		time.Sleep(10 * time.Second)
		v.close()
		if _, err := os.Stat(filepath.Join(dir, "proxima", "documents", "policy.user.json")); !os.IsNotExist(err) {
			t.Errorf("what is removed is on disk still: %v", err)
		}
		// Garbage in the bucket: the last good one is on disk. Garbage on disk: none is.
		f.rawPolicy("policy._default", "garbage")
		v = begin()
		v.until("the last good one", 5*time.Second, func(c policy.Current) bool {
			return c.Default.Err != nil && c.Policy().Timeout == policy.Duration(2*time.Second)
		})
		v.close()
		if err := os.WriteFile(filepath.Join(dir, "proxima", "documents", "policy._default.json"), []byte(`{"document":7}`), 0o600); err != nil {
			t.Fatal(err)
		}
		v = begin()
		v.until("none", 5*time.Second, func(c policy.Current) bool { return c.Default.Err != nil && c.Default.Policy == nil })
		// The directory has nothing that a watch of instances stumbles over.
		if s, err := open(t, w.connect(t), kv.Options{SnapshotDir: dir}).Snapshot(t.Context(), ""); err != nil || len(s) != 0 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// What two regions wrote while they were cut off from each other: the later one holds in
// both, one without a time gets it from its own region, and a removal is as good as a
// document. Each region sees the other's as the server would source it.
func TestRegionsAgreeOnTheLaterPolicy(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupRegion(t)
		if err := f.js().DeleteStream(t.Context(), "KV_proxima_us"); err != nil {
			t.Fatal(err)
		}
		if _, err := f.js().CreateStream(t.Context(), jetstream.StreamConfig{
			Name: "KV_proxima_us", Subjects: []string{"$KV.proxima_us.>"}, MaxMsgsPerSubject: 1, AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Hour, AllowDirect: true,
			RePublish: &jetstream.RePublish{Source: "$KV.proxima_us.>", Destination: "proxima_us.>"},
		}); err != nil {
			t.Fatal(err)
		}
		v := rule(t, f.r, "user")
		v.until("none", 5*time.Second, strategy(""))
		eu := func(at time.Time, data string, header ...string) {
			t.Helper()
			msg := nats.NewMsg("$KV.proxima_us.policy.eu.user")
			msg.Data = []byte(data)
			if !at.IsZero() {
				msg.Header.Set("Proxima-At", at.UTC().Format(time.RFC3339Nano))
			}
			for i := 0; i < len(header); i += 2 {
				msg.Header.Set(header[i], header[i+1])
			}
			if _, err := f.js().PublishMsg(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
		}
		steady := func(want string) {
			t.Helper()
			v.until(want, time.Second, strategy(want))
			time.Sleep(time.Minute)
			if c, _ := v.last(); !strategy(want)(c) {
				t.Errorf("not %q any more: %+v", want, c.Service)
			}
		}
		ours := f.policy("user", `{"strategy":"random"}`)
		steady("random")
		eu(ours.At.Add(-time.Second), `{"strategy":"nearest"}`) // arrives later, is older
		steady("random")
		eu(ours.At.Add(time.Second), `{"strategy":"nearest"}`)
		steady("nearest")
		eu(ours.At.Add(2*time.Second), "", "KV-Operation", "PURGE")
		steady("")
		if all, err := f.r.Policies(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("%+v, %v", all, err)
		}
		ours = f.policy("user", `{"strategy":"p2c"}`)
		steady("p2c")
		// Garbage of another region changes nothing here.
		eu(ours.At.Add(time.Second), "garbage")
		time.Sleep(time.Minute)
		if c, _ := v.last(); c.Policy().Strategy != "p2c" || c.Service.Err == nil {
			t.Errorf("%+v", c.Service)
		}
		eu(ours.At.Add(-time.Second), `{"strategy":"random"}`)
		v.until("no trouble", 30*time.Second, strategy("p2c"))
		// Another tool writes here: the document gets its time, so that the others know it.
		f.rawPolicy("policy.user", `{"strategy":"nearest"}`)
		v.until("later than theirs", 30*time.Second, strategy("nearest"))
		if msg := f.get("$KV.proxima.policy.user"); header(msg, "Proxima-At") == "" || string(msg.Data) != `{"strategy":"nearest"}` {
			t.Errorf("%+v", msg)
		}
		// And there: it is earlier than all others until it has its time.
		eu(time.Time{}, `{"strategy":"random"}`)
		steady("nearest")
		eu(time.Now(), `{"strategy":"random"}`)
		steady("random")
		// A removal with another tool.
		f.rawPolicy("policy.user", "", "KV-Operation", "DEL")
		v.until("removed", 30*time.Second, strategy(""))
		if msg := f.get("$KV.proxima.policy.user"); header(msg, "Proxima-At") == "" {
			t.Errorf("%+v", msg)
		}
	})
}

// Two registries of one moment, and any order of arrival: all agree.
func TestPoliciesOfOneMomentAreDecidedAlikeEverywhere(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		at := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC).Format(time.RFC3339Nano)
		var got []string
		for _, first := range []string{"p2c", "random"} {
			second := map[string]string{"p2c": "random", "random": "p2c"}[first]
			f := setupRegion(t)
			if err := f.js().DeleteStream(t.Context(), "KV_proxima_us"); err != nil {
				t.Fatal(err)
			}
			if _, err := f.js().CreateStream(t.Context(), jetstream.StreamConfig{Name: "KV_proxima_us", Subjects: []string{"$KV.proxima_us.>"}, AllowDirect: true}); err != nil {
				t.Fatal(err)
			}
			f.rawPolicy("policy.user", `{"strategy":"`+first+`"}`, "Proxima-At", at)
			msg := nats.NewMsg("$KV.proxima_us.policy.eu.user")
			msg.Data = []byte(`{"strategy":"` + second + `"}`)
			msg.Header.Set("Proxima-At", at)
			if _, err := f.js().PublishMsg(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
			d, err := f.r.Policy(t.Context(), "user")
			if err != nil || d.Policy == nil {
				t.Fatalf("%+v, %v", d, err)
			}
			got = append(got, d.Policy.Strategy)
			f.nc.Close()
			natstest.Stop(f.ns)
		}
		if got[0] != got[1] {
			t.Errorf("%q", got)
		}
	})
}

// A real caller restarts while operators write without pause: each sees the last one.
func TestManyWritersAndFollowersAgree(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var followers []*ruler
		for range 5 {
			followers = append(followers, rule(t, open(t, natstest.Connect(t, f.ns), kv.Options{}), "user"))
		}
		var writing sync.WaitGroup
		for i := range 4 {
			r := open(t, natstest.Connect(t, f.ns), kv.Options{})
			writing.Go(func() {
				for n := range 50 {
					_, err := r.PutPolicy(t.Context(), "user", fmt.Appendf(nil, `{"timeout":"%dms"}`, 1+100*i+n))
					if err != nil && !errors.Is(err, kv.ErrUnavailable) { // three others were faster, three times
						t.Error(err)
					}
					time.Sleep(time.Duration(n) * time.Millisecond)
				}
			})
		}
		writing.Wait()
		d, err := f.r.Policy(t.Context(), "user")
		if err != nil || d.Policy == nil {
			t.Fatalf("%+v, %v", d, err)
		}
		for _, v := range followers {
			v.until("the last one", 5*time.Second, func(c policy.Current) bool { return c.Service.Revision == d.Revision })
		}
	})
}
