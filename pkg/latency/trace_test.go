package latency_test

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// ping is what bursts of 30 pings between two cities gave, in milliseconds.
type ping struct{ fastest, average, slowest float64 }

// draw is one round trip: the slowest as often as it came, one time in 30, and
// else so far above the fastest that the average is right.
func (pg ping) draw(r *rand.Rand) time.Duration {
	ms := pg.slowest
	if r.IntN(30) > 0 {
		above := max(0, (30*pg.average-pg.slowest)/29-pg.fastest)
		ms = min(pg.fastest+r.ExpFloat64()*above, pg.slowest)
	}
	return time.Duration(ms * float64(time.Millisecond))
}

// Every path between some 250 cities: after five samples, how far from the
// estimate is the next? The median must predict it better than the mean.
func TestTheMedianPredictsRealPingsBetterThanTheMean(t *testing.T) {
	pings := readPings(t)
	r := rand.New(rand.NewPCG(1, 2))
	p := start(t, nil, latency.Options{Fresh: time.Hour})
	var byMedian, byMean []float64
	for _, pg := range pings {
		pa := p.Path(latency.Target{})
		var sum time.Duration
		for range 5 {
			rtt := pg.draw(r)
			sum += rtt
			pa.Observe(rtt)
		}
		got, ok := pa.Measured()
		if !ok {
			t.Fatalf("not measured after five samples of %+v", pg)
		}
		next := pg.draw(r)
		byMedian = append(byMedian, off(got, next))
		byMean = append(byMean, off(sum/5, next))
	}
	compare(t, byMedian, byMean)
}

// Personal devices whose distances jump: each slice lasts a minute, probes run
// as they do in production, and every second the distance is compared with the
// truth. This judges the filter and the schedule together.
func TestTracksRealDevicesWhoseDistancesJump(t *testing.T) {
	const timeout = 2 * time.Second
	matrices := readSeattle(t)
	var byMedian, byMean []float64
	step := 33
	if raced {
		step = len(matrices[0])
	}
	for from := 0; from < len(matrices[0]); from += step {
		synctest.Test(t, func(t *testing.T) {
			h := history{samples: make(map[string][]observed)}
			n := newNetwork(0)
			p := start(t, n, latency.Options{Timeout: timeout})
			reachable := func(to int) bool {
				return !slices.ContainsFunc(matrices, func(m [][]time.Duration) bool {
					return m[from][to] <= 0 || m[from][to] >= timeout
				})
			}
			paths := make(map[int]*latency.Path)
			var list []*latency.Path
			index := make(map[string]int)
			for to := range matrices[0] {
				if reachable(to) {
					index[address(to)] = to
					paths[to] = p.Path(target(to))
					list = append(list, paths[to])
				}
			}
			for i, m := range matrices {
				n.setFunc(func(a string) time.Duration {
					rtt := m[from][index[a]]
					h.add(a, rtt)
					return rtt
				})
				for to, pa := range list { // each the nearest of its service
					p.group(strconv.Itoa(to)).Set(members(pa))
				}
				for range 60 {
					time.Sleep(time.Second)
					if i == 0 {
						continue // the first samples come in
					}
					for to, pa := range paths {
						got, _ := pa.Measured() // 0 is 100 % off
						byMedian = append(byMedian, off(got, m[from][to]))
						byMean = append(byMean, off(n.meanOf(&h, address(to)), m[from][to]))
					}
				}
			}
		})
	}
	compare(t, byMedian, byMean)
	if right := share(byMedian, 0.1); right < 0.85 {
		t.Errorf("within 10 %% of the truth %.1f %% of the time, want 85 %%", 100*right)
	}
}

// off is the error of an estimate, relative to the truth.
func off(estimate, truth time.Duration) float64 {
	return math.Abs(float64(estimate-truth)) / float64(truth)
}

// share is how many of the errors are below limit.
func share(errs []float64, limit float64) float64 {
	n := 0
	for _, e := range errs {
		if e < limit {
			n++
		}
	}
	return float64(n) / float64(len(errs))
}

// compare demands that the median errs less than the mean, on average and in
// the middle.
func compare(t *testing.T, byMedian, byMean []float64) {
	t.Helper()
	average := func(errs []float64) float64 {
		var sum float64
		for _, e := range errs {
			sum += e
		}
		return sum / float64(len(errs))
	}
	middle := func(errs []float64) float64 { return slices.Sorted(slices.Values(errs))[len(errs)/2] }
	t.Logf("%d readings, error relative to the truth:", len(byMedian))
	for _, one := range []struct {
		name string
		errs []float64
	}{{"median", byMedian}, {"mean  ", byMean}} {
		t.Logf("%s: average %.2f %%, middle %.3f %%, within 10 %% of the truth %.1f %% of the time",
			one.name, 100*average(one.errs), 100*middle(one.errs), 100*share(one.errs, 0.1))
	}
	if average(byMedian) >= average(byMean) || middle(byMedian) > middle(byMean) {
		t.Error("the median errs more than the mean")
	}
}

// history is what was dialled, to filter it by a mean instead.
type history struct{ samples map[string][]observed }

type observed struct {
	rtt time.Duration
	at  time.Time // when the answer came
}

func (h *history) add(address string, rtt time.Duration) {
	h.samples[address] = append(h.samples[address], observed{rtt, time.Now().Add(rtt)})
}

// mean is that of the last five fresh samples.
func (h *history) mean(address string) time.Duration {
	var sum time.Duration
	n := 0
	for _, s := range slices.Backward(h.samples[address]) {
		age := time.Since(s.at)
		if age >= 30*time.Second || n == 5 {
			break
		}
		if age >= 0 {
			sum += s.rtt
			n++
		}
	}
	return sum / time.Duration(max(n, 1))
}

// meanOf is h.mean, between dials.
func (n *network) meanOf(h *history, address string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return h.mean(address)
}

// data opens a file of published measurements, or skips the test.
func data(t *testing.T, name string) io.Reader {
	t.Helper()
	dir := os.Getenv("PROXIMA_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data", "latency")
	}
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the published measurements are not here, set PROXIMA_DATA to their folder: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return z
}

// readPings reads WonderNetwork's pings between cities.
func readPings(t *testing.T) []ping {
	t.Helper()
	records, err := csv.NewReader(data(t, "wondernetwork-2020-07-pings.csv.gz")).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var pings []ping
	for _, rec := range records[1:] { // source,destination,min,avg,max,mdev
		var ms [3]float64
		for i := range ms {
			if ms[i], err = strconv.ParseFloat(rec[2+i], 64); err != nil {
				t.Fatalf("%v: %v", rec, err)
			}
		}
		if pg := (ping{ms[0], ms[1], ms[2]}); rec[0] != rec[1] && pg.fastest > 0 {
			pings = append(pings, pg)
		}
	}
	if len(pings) < 50_000 {
		t.Fatalf("only %d pings", len(pings))
	}
	return pings
}

// readSeattle reads the distances between 99 devices, one matrix per slice of
// time. 0 is missing.
func readSeattle(t *testing.T) [][][]time.Duration {
	t.Helper()
	const devices = 99
	var rows [][]time.Duration
	in := bufio.NewScanner(data(t, "seattle99-t001-t024.txt.gz"))
	for in.Scan() {
		var row []time.Duration
		for field := range strings.FieldsSeq(in.Text()) {
			s, err := strconv.ParseFloat(field, 64)
			if err != nil {
				t.Fatal(err)
			}
			row = append(row, time.Duration(math.Round(s*1000))*time.Millisecond)
		}
		if len(row) != devices {
			t.Fatalf("row %d has %d values", len(rows), len(row))
		}
		rows = append(rows, row)
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 || len(rows)%devices != 0 {
		t.Fatalf("%d rows", len(rows))
	}
	return slices.Collect(slices.Chunk(rows, devices))
}
