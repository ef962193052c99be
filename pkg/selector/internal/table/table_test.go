package table_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var places = []topology.Location{{Region: "r", Zone: "a"}, {Region: "r", Zone: "b"}, {Region: "s", Zone: "c"}}

// prober makes the paths of all tests. It probes nothing.
var prober = sync.OnceValue(func() *latency.Prober { return latency.New(latency.Caller{}, latency.Options{}) })

// world is a service of which tables are built.
type world struct {
	tb     testing.TB
	shared *table.Shared
	rules  table.Rules
	kind   table.Kind
	list   []table.Member
}

func newWorld(tb testing.TB, kind table.Kind) *world {
	w := &world{
		tb: tb, kind: kind, shared: &table.Shared{Origin: topology.Place{Location: places[0]}, Epoch: time.Now()},
		rules: table.Rules{NearSlack: time.Millisecond, NearFactor: 1.25, RampUp: 30 * time.Second, Panic: 0.5, Outermost: 2},
	}
	w.shared.SetLayout(table.NewLayout(topology.DefaultLevels(), nil))
	return w
}

// add adds an instance of a circle, at a distance that was measured unless it is 0.
func (w *world) add(circle uint8, distance time.Duration, change func(*events.Entry)) *table.Node {
	e := events.Entry{Instance: &events.Instance{
		ID: fmt.Sprintf("i%05d", len(w.list)), Service: "user", Status: events.Up, Weight: 100,
		Location: places[circle], Endpoints: map[string]string{events.HTTP: "10.0.0.1:80"},
	}}
	if change != nil {
		change(&e)
	}
	n := &table.Node{
		Shared:  w.shared,
		Breaker: breaker.New(breaker.Key{Service: "user", Instance: e.ID}, &breaker.Settings{Failures: 1}),
		Path:    prober().Path(latency.Target{Key: e.Key()}),
	}
	n.SetHome(circle)
	w.tb.Cleanup(n.Close)
	if distance > 0 {
		n.Path.Observe(distance)
	}
	w.list = append(w.list, table.NewMember(n, e, table.LongAgo, false))
	return n
}

func (w *world) build() *table.Table {
	return table.NewBuilder(w.shared, &w.rules, table.Lens{Kind: w.kind}).Build(table.Roster{Members: w.list}, time.Hour, 1)
}

func TestAPickNeedsOneCacheLineOfANode(t *testing.T) {
	if end := unsafe.Offsetof(table.Node{}.Path) + 8; end != 64 {
		t.Errorf("what a pick reads takes %d bytes, want 64", end)
	}
	if size := unsafe.Sizeof(table.Node{}); size > 128 {
		t.Errorf("a node takes %d bytes, want at most 128", size)
	}
}

func TestTheNearSetIsChosenFromAndTheRestIsTheFallBack(t *testing.T) {
	w := newWorld(t, table.KindRandom)
	a, b := w.add(0, 2*time.Millisecond, nil), w.add(0, 3*time.Millisecond, nil)
	far, door := w.add(0, 20*time.Millisecond, nil), w.add(1, 30*time.Millisecond, nil)
	tab := w.build()
	for range 100 {
		if n := tab.Choose(tab.First, 0); n != a && n != b {
			t.Fatalf("chose %s", n.Instance.Load().ID)
		}
	}
	for _, tt := range []struct {
		tried []*table.Node
		want  *table.Node
	}{{[]*table.Node{a}, b}, {[]*table.Node{a, b}, door}, {[]*table.Node{a, b, door}, far}} {
		if c, ok := tab.Search(&table.Query{Tried: tt.tried}, 0); !ok || c.Node != tt.want {
			t.Errorf("after %d were tried: %+v, %v", len(tt.tried), c.Instance, ok)
		}
	}
	if c, ok := tab.Search(&table.Query{Tried: []*table.Node{a, b, far, door}}, 0); ok {
		t.Errorf("all were tried, and %s is the choice", c.Instance.ID)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(0))
	f.Add(uint64(2), uint8(40), uint8(6))
	f.Fuzz(func(t *testing.T, seed uint64, n, kind uint8) {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		w := newWorld(t, table.Kind(int(kind)%len(table.KindNames)))
		for range n {
			node := w.add(uint8(r.IntN(3)), time.Duration(r.IntN(3))*time.Duration(r.IntN(50_000))*time.Microsecond, func(e *events.Entry) {
				e.Suspect, e.Evacuated = r.IntN(4) == 0, r.IntN(8) == 0
				e.Status = []events.Status{events.Up, events.Up, events.Draining, events.NotReady}[r.IntN(4)]
				e.Weight = 1 + r.IntN(300)
			})
			if r.IntN(4) == 0 {
				pass, _ := node.Breaker.Allow()
				pass.Done(fmt.Errorf("failed"))
			}
			w.list[len(w.list)-1].Refresh(false)
		}
		tab := w.build()
		all, shares := 0, 0.0
		for i := range uint8(3) {
			all += tab.Instances(i)
			shares += tab.Share(i)
		}
		if all != int(n) || tab.Size != int(n) {
			t.Fatalf("%d instances in circles, %d in all, want %d", all, tab.Size, n)
		}
		if pickable := tab.Pickable(); (tab.First != nil) != (pickable > 0) || pickable > 0 && (shares < 0.999 || shares > 1.001) {
			t.Fatalf("%d can be picked, the shares add up to %v", pickable, shares)
		}
		var query table.Query
		for range tab.Pickable() {
			c, ok := tab.Search(&query, 0)
			if !ok || c.Instance.Status == events.NotReady {
				t.Fatalf("%v after %d of %d: %+v", ok, len(query.Tried), tab.Pickable(), c.Instance)
			}
			query.Tried = append(query.Tried, c.Node)
		}
		if c, ok := tab.Search(&query, 0); ok {
			t.Fatalf("%s is picked twice", c.Instance.ID)
		}
	})
}

// BenchmarkBuild is one table, by the number of instances.
func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			w := newWorld(b, table.KindP2C)
			for i := range n {
				w.add(uint8(i%3), 0, nil)
			}
			builder := table.NewBuilder(w.shared, &w.rules, table.Lens{Kind: w.kind})
			b.ReportAllocs()
			for b.Loop() {
				builder.Build(table.Roster{Members: w.list}, time.Hour, 1)
			}
		})
	}
}

// BenchmarkChoose is one choice, by strategy.
func BenchmarkChoose(b *testing.B) {
	for kind, name := range table.KindNames {
		if table.Kind(kind) == table.KindHash {
			continue // it searches
		}
		b.Run("strategy="+name, func(b *testing.B) {
			w := newWorld(b, table.Kind(kind))
			for range 1000 {
				w.add(0, 0, nil)
			}
			t := w.build()
			b.ReportAllocs()
			for b.Loop() {
				t.Choose(t.First, 0)
			}
		})
	}
}
