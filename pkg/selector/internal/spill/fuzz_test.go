package spill_test

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/spill"
)

// Whatever is counted, the shares are shares.
func FuzzLook(f *testing.F) {
	f.Add([]byte{}, int64(0), int64(0))
	f.Add([]byte("\x00\x01\x02\x03 some bytes that stand for counters, times and circles of some looks, and a few more"), int64(time.Millisecond), int64(math.MaxInt64))
	b := make([]byte, 40*64)
	for i := range b {
		b[i] = byte(i * i / 7)
	}
	f.Add(b, int64(-1), int64(5))
	f.Fuzz(func(t *testing.T, b []byte, price1, price2 int64) {
		next := func() uint64 {
			if len(b) == 0 {
				return 0
			}
			// One byte says how large the number is.
			kind := b[0]
			b = b[1:]
			var x [8]byte
			n := copy(x[:], b[:min(len(b), int(kind%9))])
			b = b[n:]
			return binary.LittleEndian.Uint64(x[:])
		}
		r := spill.New(spill.Options{Price: []time.Duration{0, time.Duration(price1), time.Duration(price2)}}, 3)
		seen := make([]spill.Seen, 0, 8)
		now := time.Duration(0)
		for look := 0; len(b) > 0 && look < 300; look++ {
			switch x := next(); x % 8 {
			case 0:
				now = time.Duration(x)
			case 1:
				now -= time.Duration(x % uint64(time.Minute))
			case 2:
				seen = seen[:int(x/8)%(len(seen)+1)]
			case 3:
				if len(seen) < 6 {
					seen = append(seen, spill.Seen{Circle: uint8(x / 8 % 5)})
				}
			case 4:
				if n := len(seen); n > 1 {
					seen[0], seen[n-1] = seen[n-1], seen[0]
				}
			case 5:
				r.Hint(uint8(x/8), time.Duration(next()), now)
			}
			now += 200 * time.Millisecond
			for i := range seen {
				s := &seen[i]
				switch x := next(); x % 8 {
				case 0:
					s.Picks, s.Completions, s.Rejects, s.Measured = next(), next(), next(), next()
				case 1:
					s.Busy, s.Distance = time.Duration(next()), time.Duration(next())
				case 2:
					s.InFlight, s.Queued = int(next()), x&8 != 0
				case 3:
					s.Ramp = math.Float64frombits(next())
				default:
					s.Picks += x / 8 % 1000
					s.Completions += x / 8 % 999
					s.Measured += x / 8 % 100
					s.Busy += time.Duration(x / 8 % 100 * 1e8)
				}
			}
			shares, _, _ := r.Look(now, seen)
			sum := 0.0
			for i, s := range shares {
				if !(s >= 0 && s <= 1) {
					t.Fatalf("look %d: %v", look, shares)
				}
				sum += s
				why := r.Why(i)
				if math.IsNaN(why.Slower) || math.IsNaN(why.Share) || why.Share > 1 {
					t.Fatalf("look %d: %+v", look, why)
				}
				_ = why.String()
			}
			if len(shares) != len(seen) || len(seen) > 0 && math.Abs(sum-1) > 1e-6 {
				t.Fatalf("look %d: %v for %+v", look, shares, seen)
			}
			for c := range uint8(6) {
				if d, ok := r.Baseline(c); ok && d < 0 {
					t.Fatalf("baseline %v", d)
				}
			}
		}
	})
}
