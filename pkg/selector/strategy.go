package selector

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

// Strategy chooses among the instances of a near set.
type Strategy string

// The strategies.
const (
	// P2C draws two at random and takes the one with less load: calls in
	// flight times their average duration, by weight. (Mitzenmacher, The
	// Power of Two Choices in Randomized Load Balancing, 2001.)
	P2C Strategy = "p2c"
	// Nearest takes the one at the least distance.
	Nearest Strategy = "nearest"
	// RoundRobin takes one after the other.
	RoundRobin Strategy = "round_robin"
	// WeightedRoundRobin takes one after the other, each in proportion to
	// its weight and evenly spread in time.
	WeightedRoundRobin Strategy = "weighted_round_robin"
	// Random draws one.
	Random Strategy = "random"
	// LeastRequest draws two at random and takes the one with fewer calls in
	// flight, by weight.
	LeastRequest Strategy = "least_request"
	// ConsistentHash takes the same one for the same [Request.Key] for as
	// long as it is there and not much busier than the others.
	ConsistentHash Strategy = "consistent_hash"
	// LoadAware draws two at random and takes the one that has more to spare
	// by its own word: 0.4 (1-cpu) + 0.4 (1-memory) + 0.2 / (1+queue), from the
	// beats that instances send. When that is about equal, or one of them has not
	// been heard for 15 s, it is P2C that decides.
	LoadAware Strategy = "load_aware"
)

// Strategies returns all strategies.
func Strategies() []Strategy {
	return []Strategy{
		kindP2C: P2C, kindNearest: Nearest, kindRoundRobin: RoundRobin, kindWeighted: WeightedRoundRobin,
		kindRandom: Random, kindLeastRequest: LeastRequest, kindHash: ConsistentHash,
		kindLoadAware: LoadAware,
	}
}

// kind is a strategy as a pick tells it: comparing names takes as long as
// choosing.
type kind uint8

const (
	kindP2C kind = iota
	kindNearest
	kindRoundRobin
	kindWeighted
	kindRandom
	kindLeastRequest
	kindHash
	kindLoadAware
)

func kindOf(s Strategy) kind { return kind(slices.Index(Strategies(), s)) }

// ParseStrategy checks a name given by a user.
func ParseStrategy(name string) (Strategy, error) {
	if s := Strategy(name); slices.Contains(Strategies(), s) {
		return s, nil
	}
	var names []string
	for _, s := range Strategies() {
		names = append(names, string(s))
	}
	return "", fmt.Errorf("selector: strategy %q, want one of %s", name, strings.Join(names, ", "))
}

// turn is the place of a round robin. It lives longer than the tables.
type turn struct {
	_ [64]byte // no other data on the line that every pick writes to
	n atomic.Uint64
	_ [56]byte
}

// choose picks from a near set that is not empty, for all strategies but
// ConsistentHash. The choice may turn out not to be available: its breaker has
// the last word. Time is only looked at by the strategies that learn from it.
func (v *view) choose(c *circle, now uint32) *node {
	near := c.near
	switch v.kind {
	case kindRoundRobin:
		for {
			if i := uint32(v.turn.n.Add(1)) % uint32(len(near)); c.keep(i) {
				return near[i]
			}
		}
	case kindRandom:
		if c.thin != nil {
			return c.draw()
		}
		return near[(rand.Uint64()>>32)*uint64(len(near))>>32]
	case kindWeighted:
		return near[c.stride.next(&v.turn.n)]
	case kindP2C, kindLeastRequest, kindLoadAware:
		if len(near) == 1 {
			break
		}
		a, b := two(near)
		if c.thin != nil {
			a, b = c.draw(), c.draw()
		}
		if c.trials {
			// One that is half-open is tried when it is drawn, for nobody else
			// will find out whether it is back. Its breaker limits how often.
			if a.breaker.State() == breaker.HalfOpen {
				return a
			}
			if b.breaker.State() == breaker.HalfOpen {
				return b
			}
		}
		if a == b { // which thinning out brings about
			return c.relieved(a)
		}
		if v.kind == kindP2C {
			return lighter(a, b, now)
		}
		if v.kind == kindLoadAware {
			return fitter(a, b, now)
		}
		if b.queue() < a.queue() {
			return b
		}
		return a
	}
	return near[0]
}

// two draws two different nodes.
func two(near []*node) (a, b *node) {
	r := rand.Uint64()
	n := uint64(len(near))
	i := (r >> 32) * n >> 32
	j := (r & (1<<32 - 1)) * (n - 1) >> 32
	if j >= i {
		j++
	}
	return near[i], near[j]
}

// alike is how much longer calls of one node may take than of another and still
// be taken for equally long. Without it the slightly faster of two would get
// all calls that come one at a time.
const alike = 1.25

// lighter is the node with less load: calls in flight times their duration, by
// weight. While the duration of one is not known, or is old though the other is
// called all the time, only the calls in flight are compared: so a new instance
// is neither flooded nor starved, and a slow one is tried again.
func lighter(a, b *node, now uint32) *node {
	la, lb := a.queue(), b.queue()
	if da, db := durations(a, b, now); da > alike*db || db > alike*da {
		la, lb = la*da, lb*db
	}
	if lb < la {
		return b
	}
	return a
}
