package table

import (
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// ring is consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam,
// 2016): each node owns points on a ring of hashes, a key belongs to the node of the
// next point, and a node with more than boundedLoad times the average of calls in
// flight passes the key on. The hashes are the same in every process, so callers agree.
type ring struct {
	nodes   []*Node
	weights []int
	total   int      // of the weights
	points  []uint64 // sorted; the low bits are the index of a node
}

const (
	boundedLoad  = 1.25
	pointsOfOne  = 160     // of a node with default weight: shares differ by some 8 %
	pointsOfRing = 1 << 16 // about: a near set of thousands stays cheap to hash
	nodeBits     = 20
	nodeMask     = 1<<nodeBits - 1
)

func newRing(near []*Node) *ring {
	r := &ring{nodes: near, weights: make([]int, len(near))}
	for i, n := range near {
		r.weights[i] = max(1, n.Instance.Load().Weight)
		r.total += r.weights[i]
	}
	each := min(pointsOfOne, float64(pointsOfRing)*events.DefaultWeight/float64(r.total))
	r.points = make([]uint64, 0, int(each*float64(r.total)/events.DefaultWeight)+len(near))
	for i, n := range near {
		hash := xxhash.Sum64String(n.Instance.Load().Key().String())
		for range max(1, int(each*float64(r.weights[i])/events.DefaultWeight)) {
			r.points = append(r.points, hash&^nodeMask|uint64(i)&nodeMask)
			hash = splitMix64(hash)
		}
	}
	slices.Sort(r.points)
	return r
}

// splitMix64 returns another hash for a hash (Steele, Lea and Flood, 2014).
func splitMix64(hash uint64) uint64 {
	hash += 0x9e3779b97f4a7c15
	hash = (hash ^ hash>>30) * 0xbf58476d1ce4e5b9
	hash = (hash ^ hash>>27) * 0x94d049bb133111eb
	return hash ^ hash>>31
}

// fits reports whether a ring that was made for another table is that of near.
func (r *ring) fits(near []*Node) bool {
	if r == nil || !slices.Equal(r.nodes, near) {
		return false
	}
	for i, n := range near {
		if max(1, n.Instance.Load().Weight) != r.weights[i] {
			return false
		}
	}
	return true
}

// ringOf returns the ring of a circle. It is made when it is first needed, unless the
// last one still fits.
func (l *lens) ringOf(c *Circle) *ring {
	c.ringOnce.Do(func() {
		c.ring = l.rings[c.index].Load()
		if !c.ring.fits(c.near) {
			c.ring = newRing(c.near)
			l.rings[c.index].Store(c.ring)
		}
	})
	return c.ring
}

// pick walks from the point of a key's hash to the first node that take accepts and that is
// not too busy, given the calls in flight to all; if there is none, to the first that
// take accepts. mixed is set if inFlight may lack some calls.
func (r *ring) pick(hash uint64, inFlight float32, mixed bool, now uint32, take func(*Node) bool) bool {
	share := boundedLoad * float64(inFlight+1) / float64(r.total)
	start, _ := slices.BinarySearch(r.points, hash&^nodeMask)
	for _, busyToo := range [...]bool{false, true} {
		for i := range r.points {
			p := start + i
			if p >= len(r.points) {
				p -= len(r.points)
			}
			k := r.points[p] & nodeMask
			n := r.nodes[k]
			busy := !busyToo && float64(n.queue(now)) >= 2+share*float64(r.weights[k])
			if busy && mixed {
				mixed = false
				share = max(share, boundedLoad*float64(r.inFlight()+1)/float64(r.total))
				busy = float64(n.queue(now)) >= 2+share*float64(r.weights[k])
			}
			if !busy && take(n) {
				return true
			}
		}
	}
	return false
}

// inFlight counts the calls in flight, by whatever strategy.
func (r *ring) inFlight() (sum uint64) {
	for _, n := range r.nodes {
		sum += n.InFlight()
	}
	return sum
}
