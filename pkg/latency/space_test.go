package latency_test

import (
	"context"
	"encoding/csv"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// regions reads the round trips between the regions of a cloud.
func regions(t *testing.T) [][]time.Duration {
	t.Helper()
	f, err := os.Open("../../tests/quality/testdata/aws-regions-p50-1y.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	records, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var matrix [][]time.Duration
	for _, rec := range records[1:] {
		var row []time.Duration
		for _, field := range rec[1:] {
			ms, err := strconv.ParseFloat(field, 64)
			if err != nil {
				t.Fatal(err)
			}
			row = append(row, time.Duration(ms*float64(time.Millisecond)))
		}
		matrix = append(matrix, row)
	}
	if len(matrix) != 32 {
		t.Fatalf("%d regions, want 32", len(matrix))
	}
	return matrix
}

// place is a region with an instance in it.
type place struct {
	region  int
	target  latency.Target
	locator *latency.Locator
}

// Each region has a caller of two of four services, so that all of them are
// connected; how far are the instances of the two others?
func TestPredictsDistancesThatNoCallerMeasured(t *testing.T) {
	t.Parallel()
	matrix := regions(t)
	seeds, rounds := uint64(3), 36
	if raced {
		seeds, rounds = 1, 8
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 9))
			b := newBus(t)
			places := make([]*place, len(matrix))
			byAddress := make(map[string]*place)
			services := [4][]*place{}
			for k, region := range r.Perm(len(matrix)) {
				l := latency.NewLocator()
				name := []string{"user", "order", "cart", "mail"}[k%4]
				p := &place{region, latency.Target{
					Key:         events.Key{Service: name, Region: fmt.Sprintf("r%d", region), Zone: "a", ID: fmt.Sprintf("i%d", region)},
					Incarnation: "1", Address: address(region),
				}, l}
				b.answer(p.target.Key.Ping(), l.Answer)
				places[region], byAddress[p.target.Address] = p, p
				services[k%4] = append(services[k%4], p)
			}
			type distant struct {
				*latency.Path
				truth time.Duration
				at    *place
			}
			var probers []*prober
			var unmeasured []distant
			for region := range matrix {
				rr := rand.New(rand.NewPCG(seed, uint64(region)))
				dial := func(ctx context.Context, _, a string) (net.Conn, error) {
					n := newNetwork(wobble(rr, matrix[region][byAddress[a].region], 0.05))
					return n.Dial(ctx, "", a)
				}
				p := newProber(latency.Caller{
					Bus: b, Location: topology.Location{Region: fmt.Sprintf("r%d", region), Zone: "b"}, Reporter: fmt.Sprintf("c%d", region),
				}, latency.Options{
					Dial: dial, Concurrency: 1, // rr is one dial's at a time
				})
				probers = append(probers, p)
				s := region % 4
				mine := slices.Concat(services[s], services[(s+1)%4])
				other := slices.Concat(services[(s+2)%4], services[(s+3)%4])
				var near, far []*latency.Path
				for _, at := range mine {
					near = append(near, p.Path(at.target))
				}
				for _, at := range other {
					to := at.target
					to.Address = "" // it is not probed from here
					pa := p.Path(to)
					far = append(far, pa)
					if at.region != region {
						unmeasured = append(unmeasured, distant{pa, matrix[region][at.region], at})
					}
				}
				p.group("mine").Set(members(near...))
				p.group("other").Set(members(far...))
			}
			defer func() {
				for _, p := range probers {
					if err := p.Close(); err != nil {
						t.Error(err)
					}
				}
			}()

			for range rounds {
				time.Sleep(5 * time.Second)
				for _, d := range unmeasured {
					if c, ok := d.at.locator.Coordinate(); ok {
						d.SetCoordinate(&c)
					}
					if e := d.Estimate(time.Second); e.Distance <= 0 || e.Distance > 10*time.Second {
						t.Fatalf("an estimate of %v", e)
					}
				}
			}
			var errs []float64
			known := 0
			for _, d := range unmeasured {
				e := d.Estimate(150 * time.Millisecond)
				if e.Source == latency.SourcePredicted {
					known++
				}
				errs = append(errs, math.Abs(float64(e.Distance-d.truth))/float64(d.truth))
			}
			slices.Sort(errs)
			_, requests := b.sent()
			t.Logf("seed %d: %d of %d predicted, off by %.1f %% in the middle, %.1f %% at nine of ten; %d pings",
				seed, known, len(errs), 100*errs[len(errs)/2], 100*errs[len(errs)*9/10], requests)
			if !raced && (known < len(errs)*95/100 || errs[len(errs)/2] > 0.12) {
				t.Error("want nearly all predicted, and half of them within 12 %")
			}
			for _, p := range probers {
				if c, ok := p.Coordinate(); !ok || c.Validate() != nil {
					t.Errorf("Coordinate() = %v, %v", c, ok)
				}
			}
		})
	}
}
