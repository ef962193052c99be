package nats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/policy"
)

// rules is the policy of service user as each region sees it.
type rules struct {
	mu   sync.Mutex
	seen []policy.Current
}

func follow(t *testing.T, sites []*site) *rules {
	r := &rules{seen: make([]policy.Current, len(sites))}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	for i, s := range sites {
		following.Go(func() {
			_ = s.r.WatchPolicy(ctx, "user", func(c policy.Current) { // until ctx ends
				r.mu.Lock()
				defer r.mu.Unlock()
				r.seen[i] = c
			})
		})
	}
	t.Cleanup(func() { cancel(); following.Wait() })
	return r
}

// until waits until the policy has these strategies, "" for none, in the regions in order.
func (r *rules) until(t *testing.T, what string, strategies ...string) {
	t.Helper()
	took := testkit.Eventually(t, what, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i, want := range strategies {
			if r.seen[i].Service.Name == "" || r.seen[i].Policy().Strategy != want {
				return false
			}
		}
		return true
	})
	t.Logf("%s: after %v", what, took.Round(time.Millisecond))
}

func (s *site) policy(t *testing.T, strategy string) policy.Document {
	t.Helper()
	d, err := s.r.PutPolicy(t.Context(), "user", fmt.Appendf(nil, `{"strategy":%q}`, strategy))
	if err != nil {
		t.Fatalf("%s: %v", s.region, err)
	}
	return d
}

func TestAPolicyReachesAllRegionsAndTheLaterOneHolds(t *testing.T) {
	t.Parallel()
	sites := startRegions(t, kv.Options{})
	us, eu, ap := sites[0], sites[1], sites[2]
	seen := follow(t, sites)
	seen.until(t, "none", "", "", "")
	us.policy(t, "random")
	seen.until(t, "that of us", "random", "random", "random")
	eu.policy(t, "nearest")
	seen.until(t, "that of eu, which is later", "nearest", "nearest", "nearest")
	time.Sleep(5 * time.Second) // they have been found in the buckets, too

	eu.link.Cut()
	eu.policy(t, "p2c")
	seen.until(t, "eu is cut off", "nearest", "p2c", "nearest")
	if err := ap.r.DeletePolicy(t.Context(), "user"); err != nil {
		t.Fatal(err)
	}
	seen.until(t, "removed where that is heard", "", "p2c", "")
	us.policy(t, "least_request")
	seen.until(t, "another one there", "least_request", "p2c", "least_request")
	eu.link.Heal()
	seen.until(t, "the later one", "least_request", "least_request", "least_request")
	if err := eu.r.DeletePolicy(t.Context(), "user"); err != nil {
		t.Fatal(err)
	}
	seen.until(t, "none again", "", "", "")
	for _, s := range sites {
		if all, err := s.r.Policies(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("%s: %+v, %v", s.region, all, err)
		}
	}
}

// What programs that knew of no policies made is changed by those that do, and what was
// written before is read.
func TestSourcesThatWereMadeBeforePoliciesAreBegunAnew(t *testing.T) {
	t.Parallel()
	sites := startRegions(t, kv.Options{})
	us, eu := sites[0], sites[1]
	for _, s := range sites {
		s.announce(t, in(s.region, s.region))
	}
	views := watchAll(t, sites)
	views.until(t, "one of each region", ids(regions...))
	eu.policy(t, "random")
	js, err := jetstream.NewWithDomain(eu.nc, eu.region)
	if err != nil {
		t.Fatal(err)
	}
	// Its consumer as it was: keepers of other regions look every three seconds.
	own, err := js.Stream(t.Context(), "KV_proxima")
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := own.PushConsumer(t.Context(), "region_"+us.region)
	if err != nil {
		t.Fatal(err)
	}
	config := consumer.CachedInfo().Config
	config.FilterSubjects = config.FilterSubjects[:2]
	if _, err := own.UpdatePushConsumer(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	// And the source as it was.
	far, err := jetstream.NewWithDomain(us.nc, us.region)
	if err != nil {
		t.Fatal(err)
	}
	sourced := func() *jetstream.StreamInfo {
		stream, err := far.Stream(t.Context(), "KV_proxima_"+us.region)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo()
	}
	told := func() bool {
		for _, source := range sourced().Config.Sources {
			for _, transform := range source.SubjectTransforms {
				if source.External.APIPrefix == "$JS."+eu.region+".API" && strings.Contains(transform.Source, ".policy.") {
					return true
				}
			}
		}
		return false
	}
	old := sourced().Config
	for _, source := range old.Sources {
		var kept []jetstream.SubjectTransformConfig
		for _, transform := range source.SubjectTransforms {
			if !strings.Contains(transform.Source, ".policy.") {
				kept = append(kept, transform)
			}
		}
		source.SubjectTransforms = kept
	}
	if _, err := far.UpdateStream(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	stream, err := far.Stream(t.Context(), "KV_proxima_"+us.region)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("$KV.proxima_"+us.region+".policy.>")); err != nil {
		t.Fatal(err)
	}
	if d, err := us.r.Policy(t.Context(), "user"); err != nil || d.Policy != nil {
		t.Fatalf("the policy is there: %+v, %v", d, err)
	}
	time.Sleep(8 * time.Second) // longer than the upkeep needs to change a source
	if told() {
		t.Fatal("the source takes policies that its region does not send")
	}
	views.until(t, "all regions still", ids(regions...))

	r, err := kv.Open(t.Context(), eu.nc, kv.Options{Domain: eu.region, Regions: regions}) // a program that knows of them
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the source takes policies", told)
	testkit.Eventually(t, "what was written before is read", func() bool {
		d, err := us.r.Policy(t.Context(), "user")
		return err == nil && d.Policy != nil && d.Policy.Strategy == "random"
	})
	if _, err := r.PutPolicy(t.Context(), "user", []byte(`{"strategy":"nearest"}`)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "and what is written later", func() bool {
		d, err := us.r.Policy(t.Context(), "user")
		return err == nil && d.Policy != nil && d.Policy.Strategy == "nearest"
	})
	views.until(t, "all regions still", ids(regions...))
}

// usersOf reads users.conf.
func usersOf(t *testing.T) []*server.User {
	t.Helper()
	t.Setenv("NATS_PROGRAM_PASSWORD", "p")
	t.Setenv("NATS_OPERATOR_PASSWORD", "o")
	opts, err := server.ProcessConfigFile("users.conf")
	if err != nil {
		t.Fatal(err)
	}
	return opts.Users
}

func TestOnlyOperatorsWriteWhatOperatorsDecide(t *testing.T) {
	users := usersOf(t)
	ns := natstest.Start(t, func(o *server.Options) { o.Users = users })
	var refused atomic.Int64
	login := func(name string) (*nats.Conn, *kv.Registry) {
		nc := natstest.Connect(t, ns, nats.UserInfo(name, name[:1]), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { refused.Add(1) }))
		r, err := kv.Open(t.Context(), nc, kv.Options{OpTimeout: time.Second, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return nc, r
	}
	nc, program := login("program")
	_, operator := login("operator")

	// A program announces, watches, and follows what operators write.
	a, err := program.Announce(instance("a"), kv.AnnounceOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Leave(context.Background()) })
	v := watchWith(t, program)
	v.until(t, "the instance", v.all(1))
	seen := follow(t, []*site{{region: "here", r: program}})
	seen.until(t, "none", "")
	if _, err := operator.PutPolicy(t.Context(), "user", []byte(`{"strategy":"random"}`)); err != nil {
		t.Fatal(err)
	}
	seen.until(t, "the policy", "random")
	if _, err := program.Policies(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := operator.Evacuate(t.Context(), events.Evacuation{Region: "elsewhere", Evacuated: true}); err != nil {
		t.Error(err)
	}
	if n := refused.Load(); n != 0 {
		t.Errorf("%d were refused until now", n)
	}

	// It writes none of it.
	if _, err := program.PutPolicy(t.Context(), "user", []byte(`{"strategy":"p2c"}`)); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("a policy: %v", err)
	}
	if err := program.DeletePolicy(t.Context(), "user"); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("a removal: %v", err)
	}
	if _, err := program.Evacuate(t.Context(), events.Evacuation{Region: "here", Evacuated: true}); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("an order: %v", err)
	}
	live := nats.NewMsg("proxima.policy.user")
	live.Data = []byte(`{"strategy":"p2c"}`)
	live.Header.Set("Proxima-At", time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano))
	before := refused.Load()
	if err := errors.Join(nc.PublishMsg(live), nc.Publish("proxima.evacuate.here", nil), nc.Publish("proxima.inst.user._._.a", nil), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "all are refused", func() bool { return refused.Load() == before+3 })
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := js.DeleteStream(soon, "KV_proxima"); err == nil {
		t.Error("it removes the bucket")
	}
	seen.until(t, "the policy still", "random")
}
