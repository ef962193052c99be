package selector_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/policy"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// policies is a source of policies in memory, beside one of instances.
type policies struct {
	selector.Source

	mu      sync.Mutex
	current policy.Current
	apply   []func(policy.Current)
}

func (p *policies) WatchPolicy(ctx context.Context, _ string, apply func(policy.Current)) error {
	p.mu.Lock()
	apply(p.current)
	p.apply = append(p.apply, apply)
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

// put makes documents hold; empty ones are none.
func (p *policies) put(tb testing.TB, all, service string) {
	tb.Helper()
	read := func(name, text string, revision uint64) policy.Document {
		d := policy.Document{Name: name, Revision: revision}
		if text != "" {
			var err error
			if d.Policy, err = policy.Decode([]byte(text)); err != nil {
				tb.Fatal(err)
			}
		}
		return d
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.current.Service.Revision + 1
	p.hold(policy.Current{Default: read(policy.Default, all, next), Service: read("user", service, next)})
}

// force is put for what a source should not hand out.
func (p *policies) force(c policy.Current) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold(c)
}

func (p *policies) hold(c policy.Current) {
	p.current = c
	for _, apply := range p.apply {
		apply(p.current)
	}
}

// ruled is a world whose service has a policy.
type ruled struct {
	*world
	*policies
}

// startRuled makes a selector at home whose services have a policy.
func startRuled(t *testing.T, o selector.Options, text string) ruled {
	t.Helper()
	p := &policies{}
	p.put(t, "", text)
	lists := &fixed{make(chan eventsSnapshot)}
	p.Source, o.Source = lists, p
	w := newWorld(t, o)
	w.fixed = lists
	return ruled{w, p}
}

// set changes the policy of the service.
func (r ruled) set(text string) {
	r.t.Helper()
	r.put(r.t, "", text)
	synctest.Wait()
}

func (r ruled) wantOnly(what string, want []string, ask ...selector.Request) {
	r.t.Helper()
	if got := r.only(ask...); !slices.Equal(got, want) {
		r.t.Errorf("%s: picked %v, want %v", what, got, want)
	}
}

func TestThePolicyOfAServiceSaysWhichInstancesCallsGoTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"where":"version>=1.4"}`)
		w.list(instance("old", home, version("1.3.9")), instance("new", home, version("1.4.0")), instance("door", nextDoor, version("2.0.0")))
		w.wantOnly("by name", []string{"new"})
		w.wantOnly("by a request", []string{"old"}, selector.Request{Where: "version<1.4"})
		w.wantOnly("for all", []string{"new", "old"}, selector.Request{Where: " "})
		w.set(`{"where":"version>=2"}`)
		w.wantOnly("after a change", []string{"door"})
		w.set(``)
		w.wantOnly("without a policy", []string{"new", "old"})
		w.put(t, `{"where":"version=1.3.9"}`, "")
		w.wantOnly("by that for all services", []string{"old"})
		w.put(t, `{"where":"version=1.3.9"}`, `{"where":"version=1.4.0"}`)
		w.wantOnly("by both", []string{"new"})
	})
}

func TestOverridesGoBeforeSplitsAndARequestBeforeAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"overrides":[{"header":"X-Version","value":"2","where":"version=2.0.0"},{"header":"x-gone","where":"version=9.0.0"},{"header":"x-any","where":"version=9.0.0","fallback":"any"}],
			"splits":[{"where":"version=3.0.0","share":1}]}`)
		w.list(instance("a", home, version("1.0.0")), instance("b", home, version("2.0.0")), instance("c", home, version("3.0.0")))
		header := func(name, value string) func(string) string {
			return func(n string) string {
				if strings.EqualFold(n, name) {
					return value
				}
				return ""
			}
		}
		w.wantOnly("without a header", []string{"c"})
		w.wantOnly("with the header", []string{"b"}, selector.Request{Header: header("x-version", "2")})
		w.wantOnly("with another value", []string{"c"}, selector.Request{Header: header("x-version", "3")})
		w.wantOnly("with an expression too", []string{"a"}, selector.Request{Header: header("x-version", "2"), Where: "version=1.0.0"})
		w.wantOnly("with a header for nothing that falls back", []string{"a", "b", "c"}, selector.Request{Header: header("x-any", "yes")})
		_, err := w.try(selector.Request{Header: header("x-gone", "yes")})
		if none, ok := errors.AsType[*selector.NoInstanceError](err); !ok || none.Where != "version=9.0.0" || none.Listed != 3 || none.Matching != 0 {
			t.Errorf("with a header for nothing: %v", err)
		}
		e := w.explain(selector.Request{Header: header("x-version", "2")})
		if e.Rule != "override X-Version: 2" || e.Where != "version=2.0.0" || e.Policy == nil || e.Policy.Revision != 1 || len(e.Policy.Rules) != 5 {
			t.Errorf("explained as %q, %q, %+v", e.Rule, e.Where, e.Policy)
		}
		if e := w.explain(); e.Rule != "rest" || e.Where != "not (version=3.0.0)" || len(e.Instances) != 3 {
			t.Errorf("a call of which chance decides is explained as %q", e.Rule)
		}
	})
}

// Canaries get their share at any concurrency, by every strategy, and the nearest of them
// first.
func TestACanaryOfTenPercentIsThat(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			t.Parallel()
			for _, concurrency := range []int{1, 20, 200} {
				p := &policies{Source: always(join(
					some("old", home, 6, 6, version("1.0.0")), some("new", home, 2, 2, version("2.0.0")),
					some("door", nextDoor, 20, 20, version("2.0.0")), some("far", farAway, 20, 20, version("1.0.0")),
				)...)}
				p.put(t, "", fmt.Sprintf(`{"strategy":%q,"splits":[{"where":"version=2.0.0","share":0.1}]}`, strategy))
				s, err := selector.New(t.Context(), nil, selector.Options{Source: p, Location: home, Logger: silent})
				if err != nil {
					t.Fatal(err)
				}
				var mu sync.Mutex
				got := map[string]int{}
				var all sync.WaitGroup
				for c := range concurrency {
					all.Go(func() {
						mine := map[string]int{}
						for n := range 10_000 / concurrency {
							pick, err := s.PickFor(t.Context(), selector.Request{Service: "user", Key: fmt.Sprint(c, "-", n)})
							if err != nil {
								t.Error(err)
								return
							}
							mine[strings.Trim(pick.ID, "0123456789")]++
							if n%100 == 0 { // others get in between
								time.Sleep(time.Microsecond)
							}
							pick.Done(nil)
						}
						mu.Lock()
						defer mu.Unlock()
						for id, n := range mine {
							got[id] += n
						}
					})
				}
				all.Wait()
				if got["new"] < 900 || got["new"] > 1100 || got["old"]+got["new"] != 10_000 {
					t.Errorf("%d at a time: %v, want 1000 ± 100 to new and the others to old", concurrency, got)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestAUserStaysInItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"strategy":"consistent_hash","hash_key":{"cookie":"sid"},"splits":[{"where":"version=2.0.0","share":0.3,"key":{"cookie":"sid"}}]}`)
		w.list(join(some("a", home, 4, 4, version("1.0.0")), some("b", home, 4, 4, version("2.0.0")))...)
		to := map[string]int{}
		for user := range 400 {
			ask := selector.Request{Header: func(name string) string {
				if name == "Cookie" {
					return fmt.Sprintf("a=b; sid=user-%d", user)
				}
				return ""
			}}
			first := w.pick(ask)
			first.Done(nil)
			to[first.ID]++
			for range 3 {
				if again := w.pick(ask); again.ID != first.ID {
					t.Fatalf("user %d went to %s, then to %s", user, first.ID, again.ID)
				} else {
					again.Done(nil)
				}
			}
		}
		canary := 0
		for id, n := range to {
			if id[0] == 'b' {
				canary += n
			}
		}
		// The share must not be a part of the circle, else one instance had all of it.
		if len(to) != 8 || canary < 85 || canary > 155 {
			t.Errorf("users by instance: %v", to)
		}
	})
}

func TestWhatAPolicyChangesKeepsWhatWasLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"breaker":{"open_for":"1h"}}`)
		w.list(w.at("a", home, time.Millisecond), w.at("b", home, time.Millisecond), w.at("c", farAway, 80*time.Millisecond))
		for range 50 {
			p := w.pick()
			time.Sleep(10 * time.Millisecond)
			p.Done(nil)
		}
		w.fail("b")
		held := w.aim("a")
		defer held.Done(nil)
		before := map[string]string{}
		for _, c := range w.explain().Instances {
			before[c.ID] = learned(c)
		}
		for _, text := range []string{
			`{"strategy":"round_robin","near":{"factor":2},"ramp_up":"1m","panic":0.1,"breaker":{"failures":3,"window":"1s","open_for":"1h"}}`,
			`{"leave":{"regions":["eu","ap"],"price":"1ms"}}`, ``,
		} {
			w.set(text)
			for _, c := range w.explain().Instances {
				if got := learned(c); got != before[c.ID] {
					t.Errorf("after %s: %s has %s, before %s", text, c.ID, got, before[c.ID])
				}
			}
		}
	})
}

func TestRegionsOfAPolicyAreCirclesOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, "")
		ap := topology.Location{Region: "ap", Zone: "ap-a"}
		w.list(instance("eu", farAway), instance("ap", ap), instance("sa", topology.Location{Region: "sa", Zone: "sa-a"}))
		w.picks(60)
		names := func() (names []string) {
			for _, c := range w.circles() {
				names = append(names, fmt.Sprint(c.Name, " ", c.Instances))
			}
			return names
		}
		w.set(`{"leave":{"regions":["ap","eu"]}}`)
		w.wantOnly("in order", []string{"ap"})
		if p := w.pick(); p.Circle() != "ap" {
			t.Errorf("circle %q", p.Circle())
		}
		if got, want := names(), []string{"zone 0", "region 0", "ap 1", "eu 1", "elsewhere 1"}; !slices.Equal(got, want) {
			t.Errorf("circles %q, want %q", got, want)
		}
		w.set(`{"leave":{"within":"region"}}`)
		if _, err := w.try(); !errors.Is(err, selector.ErrNoInstance) {
			t.Errorf("calls that must stay in the region: %v", err)
		}
		w.set("")
		if got, want := names(), []string{"zone 0", "region 0", "elsewhere 3"}; !slices.Equal(got, want) {
			t.Errorf("circles %q, want %q", got, want)
		}
		sum := uint64(0)
		for _, c := range w.circles() {
			sum += c.Picks
		}
		if sum != 60+200+1 {
			t.Errorf("%d picks are counted after the circles were others", sum)
		}
	})
}

func TestCodeGoesBeforeThePolicyUnlessThatSaysOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{Strategy: selector.Nearest}, `{"strategy":"round_robin"}`)
		w.list(instance("a", home), instance("b", home))
		strategy := func(r ...selector.Request) string { return w.explain(r...).Strategy }
		if got := strategy(); got != "nearest" {
			t.Errorf("by %s", got)
		}
		w.set(`{"strategy":"round_robin","over_code":true}`)
		if got := strategy(); got != "round_robin" {
			t.Errorf("over code by %s", got)
		}
		if got := strategy(selector.Request{Strategy: selector.Random}); got != "random" {
			t.Errorf("by a request: %s", got)
		}
		if _, err := w.try(selector.Request{Strategy: "fastest"}); err == nil {
			t.Error("a strategy that there is not is taken")
		}
		w.set(`{"over_code":true}`)
		if got := strategy(); got != "nearest" {
			t.Errorf("over code, which says nothing, by %s", got)
		}
	})
}

// A source hands out the last good policy. If it does not, the selector keeps it.
func TestAPolicyThatMakesNoSenseChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := startRuled(t, selector.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, `{"where":"version=2.0.0"}`)
		w.list(instance("a", home, version("1.0.0")), instance("b", home, version("2.0.0")))
		bad := 0.5
		for _, p := range []*policy.Policy{
			{Strategy: "fastest"},
			{Where: "version="},
			{Splits: []policy.Split{{Where: "(", Share: 1}}},
			{Splits: []policy.Split{{Where: "a=1", Share: 7}}},
			{Mirror: &policy.Mirror{Where: "((", Share: bad}},
			{Probe: "icmp"},
			{Near: &policy.Near{Factor: -1}},
			{Timeout: -1},
		} {
			w.force(policy.Current{Service: policy.Document{Name: "user", Policy: p, Revision: 9}})
			w.wantOnly(fmt.Sprintf("%+v", p), []string{"b"})
		}
		if n := strings.Count(log.String(), "cannot be used"); n != 8 {
			t.Errorf("%d of 8 policies were logged: %s", n, &log)
		}
	})
}

func TestAPolicyBoundsTheTimeOfACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"timeout":"2s","attempt_timeout":"500ms"}`)
		w.list(instance("a", home), instance("b", home), instance("c", home))
		began := time.Now()
		var attempts int
		hang := func(ctx context.Context, p *selector.Pick) error {
			attempts++
			return p.Try(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		}
		err := w.DoFor(t.Context(), selector.Request{Service: "user"}, hang)
		if took := time.Since(began); took != 2*time.Second || attempts != 2 || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the policy allows 2s") {
			t.Errorf("%d attempts in %v: %v", attempts, took, err)
		}
		for _, tt := range []struct {
			ask      selector.Request
			ctx      time.Duration
			took     time.Duration
			attempts int
		}{
			{selector.Request{Timeout: 3 * time.Second}, time.Hour, 3 * time.Second, 2},
			{selector.Request{}, time.Second, time.Second, 2},
			{selector.Request{AttemptTimeout: 200 * time.Millisecond, NonIdempotent: true}, time.Hour, 2 * time.Second, 1},
			{selector.Request{Timeout: -1, AttemptTimeout: -1}, time.Minute, time.Minute, 1},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), tt.ctx)
			began, attempts = time.Now(), 0
			tt.ask.Service = "user"
			err := w.DoFor(ctx, tt.ask, hang)
			if took := time.Since(began); took != tt.took || attempts != tt.attempts {
				t.Errorf("%+v: %d attempts in %v, want %d in %v: %v", tt.ask, attempts, took, tt.attempts, tt.took, err)
			}
			cancel()
		}
		l, err := w.Limits(t.Context(), "user")
		if want := (selector.Limits{Timeout: 2 * time.Second, Attempt: 500 * time.Millisecond, Revision: 1}); err != nil || l != want {
			t.Errorf("limits %+v, %v", l, err)
		}
	})
}

func TestAPolicySaysWhenCallsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"retry":{"attempts":2}}`)
		w.list(several(8)...)
		busy := selector.Overloaded(errors.New("busy"), 0)
		for _, tt := range []struct {
			policy string
			fails  error
			calls  int
		}{
			{`{"retry":{"attempts":2}}`, errCall, 2},
			{`{"retry":{"attempts":3}}`, errCall, 3},
			{`{"retry":{"budget":0}}`, errCall, 1},
			{`{"retry":{"on":["backpressure"]}}`, errCall, 1},
			{`{"retry":{"on":["backpressure"]}}`, busy, 4},
			{`{"retry":{"on":["backpressure"]}}`, selector.NotSent(errCall), 4},
			{`{"retry":{"on":["fault"]}}`, busy, 1},
			{`{"retry":{"on":["fault"]}}`, errCall, 4},
			{`{"retry":{"on":[]}}`, errCall, 1},
		} {
			time.Sleep(10 * time.Second)
			w.set(tt.policy)
			called, err := w.do(selector.Request{}, tt.fails, tt.fails, tt.fails, tt.fails, tt.fails)
			if len(called) != tt.calls || err == nil {
				t.Errorf("%s, %v: %d calls, want %d: %v", tt.policy, tt.fails, len(called), tt.calls, err)
			}
		}
	})
}

func TestAPolicyHedgesOnlyCallsThatSayTheyMayBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"retry":{"hedge":true}}`)
		w.list(several(4)...)
		for range 50 {
			p := w.pick()
			time.Sleep(time.Millisecond)
			p.Done(nil)
		}
		for _, may := range []bool{false, true} {
			var mu sync.Mutex
			calls := 0
			err := w.DoFor(t.Context(), selector.Request{Service: "user", MayHedge: may}, func(ctx context.Context, p *selector.Pick) error {
				return p.Try(ctx, func(ctx context.Context) error {
					mu.Lock()
					calls++
					first := calls == 1
					mu.Unlock()
					if !first {
						return nil
					}
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(500 * time.Millisecond):
						return nil
					}
				})
			})
			if want := map[bool]int{false: 1, true: 2}[may]; err != nil || calls != want {
				t.Errorf("may be hedged: %v: %d calls, %v", may, calls, err)
			}
		}
	})
}

func TestTheBreakersOfAPolicyHoldForInstancesThatAreThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, "")
		w.list(several(4)...)
		w.call("i0", errCall)
		w.call("i0", errCall)
		w.set(`{"breaker":{"failures":3,"open_for":"1h"}}`)
		w.call("i0", errCall)
		if c := w.candidate("i0"); c.Breaker != "open" {
			t.Errorf("i0 is %s after three failures in a row", c.Breaker)
		}
		w.call("i1", errCall)
		for range 2 {
			w.call("i1", errCall)
		}
		time.Sleep(time.Minute)
		if c := w.candidate("i1"); c.Breaker != "open" {
			t.Errorf("i1 is %s", c.Breaker)
		}
	})
}

// PanicSharesHold: with panic 0 nothing fills in, with 1 all do.
func TestAPolicySaysBelowWhichShareOthersFillIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, patient(selector.Options{}), "")
		w.list(several(10)...)
		w.fail("i0", "i1", "i2", "i3", "i4", "i5")
		for text, want := range map[string]int{``: 5, `{"panic":0}`: 4, `{"panic":1}`: 10, `{"panic":0.7}`: 7} {
			w.set(text)
			if near := w.near(); len(near) != want {
				t.Errorf("%s: %d instances are in the near set, want %d", text, len(near), want)
			}
		}
	})
}

func TestTheNamesInPoliciesAreThoseOfTheSelector(t *testing.T) {
	enum := func(field string) []string {
		f, ok := reflect.TypeFor[policy.Policy]().FieldByName(field)
		if !ok {
			t.Fatal(field)
		}
		return strings.Split(f.Tag.Get("enum"), ",")
	}
	var strategies []string
	for _, s := range selector.Strategies() {
		strategies = append(strategies, string(s))
	}
	if diff := cmp.Diff(strategies, enum("Strategy")); diff != "" {
		t.Error(diff)
	}
	probes := []string{string(selector.ProbeConnect), string(selector.ProbeHTTP), string(selector.ProbeHTTP2), string(selector.ProbeGRPC), string(selector.ProbeNATS), string(selector.ProbeNone)}
	if diff := cmp.Diff(probes, enum("Probe")); diff != "" {
		t.Error(diff)
	}
	on, _ := reflect.TypeFor[policy.Retry]().FieldByName("On")
	if got := on.Tag.Get("enum"); got != selector.Fault.String()+","+selector.Backpressure.String() {
		t.Errorf("retry.on: %s", got)
	}
	if want, got := reflect.TypeFor[breaker.Settings]().NumField(), reflect.TypeFor[policy.Breaker]().NumField(); want != got+3 { // Trials, TrialTimeout, OnChange
		t.Errorf("breakers have %d settings, policies %d of them", want, got)
	}
}

// Policies and lists change while calls are made, in virtual time.
func TestNoCallFailsWhileThePolicyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, "")
		entries := join(some("a", home, 4, 4, version("1.0.0")), some("b", home, 4, 4, version("2.0.0")), some("c", nextDoor, 4, 4, version("2.0.0")))
		w.list(entries...)
		stop := make(chan struct{})
		var callers sync.WaitGroup
		failed, calls := 0, 0
		var mu sync.Mutex
		for range 10 {
			callers.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond):
					}
					err := w.Do(t.Context(), "user", func(ctx context.Context, _ *eventsInstance) error {
						time.Sleep(3 * time.Millisecond)
						return nil
					})
					mu.Lock()
					if calls++; err != nil {
						failed++
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		for i := range 100 {
			time.Sleep(100 * time.Millisecond)
			w.set([]string{
				`{"strategy":"round_robin","where":"version=2.0.0"}`, `{"splits":[{"where":"version=2.0.0","share":0.1}],"leave":{"regions":["eu"]}}`,
				`{"strategy":"consistent_hash","where":"version=7.0.0","fallback":"any"}`, `{"timeout":"1s","breaker":{"failures":1,"window":"1s"}}`, ``,
			}[i%5])
		}
		close(stop)
		callers.Wait()
		if failed > 0 || calls < 4000 {
			t.Errorf("%d of %d calls failed", failed, calls)
		}
	})
}
