package nats_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/testkit"
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
	time.Sleep(8 * time.Second)
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
