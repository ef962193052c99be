package route_test

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/policy"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/route"
)

func plan(t *testing.T, text string) *route.Plan {
	t.Helper()
	p, err := policy.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return route.New("user", p)
}

// decided counts the rules of calls, of which headers says what the nth one has.
func decided(p *route.Plan, calls int, header func(n int) route.Header) map[string]float64 {
	shares := map[string]float64{}
	for n := range calls {
		name := "all"
		var h route.Header
		if header != nil {
			h = header(n)
		}
		if i := p.Decide(h); i != route.None && (p.Rules[i].Kind != route.Rest || p.Rules[i].Where != "") {
			name = p.Rules[i].Where
		}
		shares[name] += 1 / float64(calls)
	}
	return shares
}

func wantShares(t *testing.T, got, want map[string]float64, within float64) {
	t.Helper()
	for name, share := range want {
		if math.Abs(got[name]-share) > within {
			t.Errorf("%s: %.4f, want %.4f ± %.4f; all: %v", name, got[name], share, within, got)
		}
	}
}

func TestSharesHoldWithinATenthOfAPercentByChance(t *testing.T) {
	p := plan(t, `{"splits":[{"where":"v=2","share":0.1},{"where":"v=3","share":0.25},{"where":"v=4","share":0.05}],"where":"v=1"}`)
	wantShares(t, decided(p, 10_000, nil), map[string]float64{"v=2": 0.1, "v=3": 0.25, "v=4": 0.05, "v=1": 0.6}, 0.001)
	// Also those of every other call, and of every third.
	for _, every := range []int{2, 3, 5, 8} {
		hits := 0
		for n := range 10_000 * every {
			if i := p.Decide(nil); n%every == 0 && p.Rules[i].Where == "v=2" {
				hits++
			}
		}
		if hits < 950 || hits > 1050 {
			t.Errorf("of every %dth call %d of 10000 are in a share of 10 %%", every, hits)
		}
	}
}

func TestSharesHoldHoweverManyGoroutinesDraw(t *testing.T) {
	p := plan(t, `{"splits":[{"where":"v=2","share":0.1}]}`)
	var hits atomic.Int64
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			for range 50 {
				if p.Decide(nil) == 0 {
					hits.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := hits.Load(); n < 990 || n > 1010 {
		t.Errorf("%d of 10000 calls are in a share of 10 %%", n)
	}
}

func TestSharesByKeysHoldAndAKeyStays(t *testing.T) {
	user := func(name string) func(int) route.Header {
		return func(n int) route.Header {
			return func(h string) string {
				if h == name {
					return fmt.Sprint("user-", n)
				}
				return ""
			}
		}
	}
	small := plan(t, `{"splits":[{"where":"v=2","share":0.1,"key":{"header":"x-user"}},{"where":"v=3","share":0.3,"key":{"header":"x-user"}}]}`)
	large := plan(t, `{"splits":[{"where":"v=2","share":0.2,"key":{"header":"x-user"}}]}`)
	header := user("x-user")
	wantShares(t, decided(small, 20_000, header), map[string]float64{"v=2": 0.1, "v=3": 0.3, "all": 0.6}, 0.015)
	for n := range 5_000 {
		first := small.Decide(header(n))
		if again := small.Decide(header(n)); again != first {
			t.Fatalf("user %d was sent to %d, then to %d", n, first, again)
		}
		if first == 0 && large.Decide(header(n)) != 0 {
			t.Fatalf("user %d left the share when it grew", n)
		}
	}
	// Other keys decide each split: the shares hold all the same.
	mixed := plan(t, `{"splits":[{"where":"v=2","share":0.4,"key":{"header":"x-user"}},{"where":"v=3","share":0.3,"key":{"header":"x-team"}},{"where":"v=4","share":0.15}]}`)
	both := func(n int) route.Header {
		return func(h string) string { return fmt.Sprint(h, n) }
	}
	wantShares(t, decided(mixed, 20_000, both), map[string]float64{"v=2": 0.4, "v=3": 0.3, "v=4": 0.15, "all": 0.15}, 0.015)
	wantShares(t, decided(mixed, 20_000, nil), map[string]float64{"v=2": 0.4, "v=3": 0.3, "v=4": 0.15, "all": 0.15}, 0.002)
}

func TestTheFirstOverrideThatAppliesGoesBeforeSplits(t *testing.T) {
	p := plan(t, `{"overrides":[{"header":"x-version","value":"2","where":"v=2"},{"header":"x-canary","where":"canary"}],
		"splits":[{"where":"v=3","share":1}]}`)
	for _, tt := range []struct {
		headers map[string]string
		want    string
	}{
		{map[string]string{"x-version": "2", "x-canary": "yes"}, "override x-version: 2"},
		{map[string]string{"x-version": "1", "x-canary": "yes"}, "override x-canary"},
		{map[string]string{"x-version": "1"}, "split v=3 at 100 %"},
		{nil, "split v=3 at 100 %"},
	} {
		if got := p.Rules[p.Decide(func(name string) string { return tt.headers[name] })].String(); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.headers, got, tt.want)
		}
	}
	if i := p.Peek(nil); p.Rules[i].Kind != route.Rest {
		t.Errorf("a call that is not made is in %s by chance", p.Rules[i].String())
	}
}

func TestAKeyIsInAHeaderOrACookie(t *testing.T) {
	header := func(name string) string {
		return map[string]string{"Cookie": `bad name=1; a="x y"; sid=7; other=8`, "x-user": "u"}[name]
	}
	for _, tt := range []struct {
		key  policy.Key
		want string
	}{{policy.Key{Header: "x-user"}, "u"}, {policy.Key{Cookie: "sid"}, "7"}, {policy.Key{Cookie: "none"}, ""}, {policy.Key{Header: "none"}, ""}} {
		if got := route.KeyOf(&tt.key, header); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.key, got, tt.want)
		}
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(0.1, 0.5, "a", "sid=1")
	f.Fuzz(func(t *testing.T, a, b float64, key, cookie string) {
		if !(a >= 0 && b >= 0 && a+b <= 1) {
			return
		}
		p := route.New("s", &policy.Policy{Splits: []policy.Split{
			{Where: "x", Share: a, Key: &policy.Key{Cookie: "sid"}}, {Where: "y", Share: b, Key: &policy.Key{Header: "k"}},
		}})
		header := func(name string) string { return map[string]string{"Cookie": cookie, "k": key}[name] }
		if i := p.Decide(header); i < route.None || i >= len(p.Rules) {
			t.Errorf("rule %d", i)
		}
	})
}
