package latency_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

// liar publishes on a bus what it likes, every second.
type liar struct {
	f    *fleet
	r    *rand.Rand
	seq  uint64
	tape []byte // of an honest caller
}

func (l *liar) subject(reporter string) string {
	return wire.Report{Region: "r", Zone: "a", Service: "user", Reporter: reporter}.Subject()
}

// batch has the round trip rtt(i) of each instance, in microseconds as JSON.
func (l *liar) batch(rtt func(i int) string) []byte {
	l.seq++
	var samples []string
	for i := range l.f.targets {
		samples = append(samples, fmt.Sprintf(`{"id":"i%d","incarnation":"1","rtt_us":%s,"count":3,"age_ms":0}`, i, rtt(i)))
	}
	return fmt.Appendf(nil, `{"seq":%d,"samples":[%s]}`, l.seq, strings.Join(samples, ","))
}

func (l *liar) times(factor func() float64) []byte {
	return l.batch(func(i int) string { return fmt.Sprint(factor() * float64(nthMillisecond(i).Microseconds())) })
}

// nthMillisecond is how far the instances are: the first is the nearest.
func nthMillisecond(i int) time.Duration { return time.Duration(10+5*i) * time.Millisecond }

func TestOneFalseReporterChangesNoNearest(t *testing.T) {
	const honest = 4
	minutes := 5
	if raced {
		minutes = 1
	}
	tests := []struct {
		name    string
		lie     func(l *liar) (subject string, data []byte)
		rejects bool
	}{
		{"ten times too near", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.times(func() float64 { return 0.1 })
		}, false},
		{"ten times too far", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.times(func() float64 { return 10 })
		}, false},
		{"anything", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.times(func() float64 { return 0.01 + 100*l.r.Float64()*l.r.Float64() })
		}, false},
		{"the last is the first", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.batch(func(i int) string {
				return fmt.Sprint(nthMillisecond(len(l.f.targets) - 1 - i).Microseconds())
			})
		}, false},
		{"NaN", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.batch(func(int) string { return "NaN" })
		}, true},
		{"a NaN in quotes", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.batch(func(int) string { return `"NaN"` })
		}, true},
		{"below zero", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.batch(func(int) string { return "-5" })
		}, true},
		{"zero", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.batch(func(int) string { return "0" })
		}, true},
		{"no number has so many digits", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.batch(func(int) string { return "1e999" })
		}, true},
		{"farther than the moon", func(l *liar) (string, []byte) {
			return l.subject("liar"), l.batch(func(int) string { return "1e300" })
		}, true},
		{"from the future", func(l *liar) (string, []byte) {
			return l.subject("liar"), []byte(strings.ReplaceAll(string(l.times(func() float64 { return 0.1 })), `"age_ms":0`, `"age_ms":-60000`))
		}, true},
		{"of another incarnation", func(l *liar) (string, []byte) {
			return l.subject("liar"), []byte(strings.ReplaceAll(string(l.times(func() float64 { return 0.1 })), `"incarnation":"1"`, `"incarnation":"0"`))
		}, false},
		{"again and again", func(l *liar) (string, []byte) {
			if l.tape == nil {
				l.tape = l.times(func() float64 { return 0.1 })
			}
			return l.subject("liar"), l.tape
		}, true},
		{"an honest batch played back", func(l *liar) (string, []byte) {
			if l.tape == nil {
				l.tape = l.f.bus.latest(l.subject("c0"))
			}
			return l.subject("c0"), l.tape
		}, true},
		{"in the name of another", func(l *liar) (string, []byte) {
			l.seq += 1e9
			return l.subject("c0"), l.times(func() float64 { return 0.1 })
		}, true},
		{"under names that are none", func(l *liar) (string, []byte) {
			return l.subject(strings.Repeat("x", 100)), l.times(func() float64 { return 0.1 })
		}, true},
		{"600 samples", func(l *liar) (string, []byte) {
			one := `{"id":"i5","incarnation":"1","rtt_us":100,"count":1,"age_ms":0}`
			l.seq++
			return l.subject("liar"), fmt.Appendf(nil, `{"seq":%d,"samples":[%s%s]}`, l.seq, strings.Repeat(one+",", 599), one)
		}, true},
		{"100 kB", func(l *liar) (string, []byte) {
			return l.subject("liar"), append(l.times(func() float64 { return 0.1 }), strings.Repeat(" ", 100_000)...)
		}, true},
		{"no JSON", func(l *liar) (string, []byte) { return l.subject("liar"), []byte("\x00\xff{") }, true},
		{"leaves in the name of another", func(l *liar) (string, []byte) {
			l.seq += 1e9
			data, _ := json.Marshal(map[string]any{"seq": l.seq, "leaving": true, "samples": []any{}}) // cannot fail
			return l.subject("c0"), data
		}, false},
		{"nothing, but is always there", func(l *liar) (string, []byte) {
			l.seq++
			return l.subject("liar"), fmt.Appendf(nil, `{"seq":%d,"samples":[]}`, l.seq)
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				f := newFleet(t, 8, func(i int) time.Duration { return wobble(r, nthMillisecond(i), 0.1) })
				all := f.rush(honest, 0, latency.Options{NoCoordinates: true})
				defer closeAll(t, all)
				time.Sleep(time.Minute)
				l := &liar{f: f, r: rand.New(rand.NewPCG(3, 4))}
				wrong := 0
				for range minutes * 60 {
					if err := f.bus.Publish(tt.lie(l)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
					for _, c := range all {
						if got := c.nearest(); got != 0 {
							wrong++
							if wrong < 3 {
								t.Logf("at %s the nearest is instance %d, %v; the first is %v", c.name, got, c.paths[got].Estimate(0), c.paths[0].Estimate(0))
							}
						}
					}
				}
				// Only a permission can bind a reporter to its subject. Without
				// one it is believed where no other reporter has measured, and not
				// for long.
				most := 0
				if tt.name == "in the name of another" {
					most = minutes * 60 * honest / 20
				}
				if wrong > most {
					t.Errorf("wrong %d of %d times", wrong, minutes*60*honest)
				}
				if _, _, most := spread(f.drain()); most > (1+minutes)*40 {
					t.Errorf("%d probes of an instance in %d minutes: a liar should not cost that many", most, 1+minutes)
				}
				var rejected uint64
				for _, c := range all {
					rejected += c.Counts().Rejected
				}
				if tt.rejects != (rejected >= uint64(10*minutes)) {
					t.Errorf("%d batches and samples rejected, want many: %v", rejected, tt.rejects)
				}
			})
		})
	}
}
