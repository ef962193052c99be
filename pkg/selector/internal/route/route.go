package route

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/proxima-discovery/proxima/pkg/policy"
)

// Kind is the kind of a rule.
type Kind uint8

// The kinds, in the order in which they are tried.
const (
	Override Kind = iota
	Split
	Rest // of calls that are in no split: those of Where that are in no split
	Where
)

var kindNames = [...]string{Override: "override", Split: "split", Rest: "rest", Where: "where"}

func (k Kind) String() string { return kindNames[k] }

// Rule is one of a plan.
type Rule struct {
	Kind  Kind
	Where string // the expression; for Rest that of the policy, which may be empty
	Any   bool   // all instances are used when none of Where is usable
	Share float64

	header, value string // of an override
	key           *policy.Key
	source        int // of the number that decides, for a split: 0 is chance, others are keys
}

// String is how people read it.
func (r *Rule) String() string {
	switch r.Kind {
	case Override:
		if r.value == "" {
			return "override " + r.header
		}
		return "override " + r.header + ": " + r.value
	case Split:
		return fmt.Sprintf("split %s at %.4g %%", r.Where, 100*r.Share)
	case Rest:
		return "rest"
	default:
		return "where " + r.Where
	}
}

// Header is what a request says under the name of a header, empty if nothing.
type Header = func(name string) string

// Plan is the rules of a policy. All but its counters is fixed.
type Plan struct {
	Rules []Rule // overrides, then splits and what is left of them, then where

	splits  int // place of the first
	rest    int // place behind the last
	last    int // place of the rule of calls for which no other one is; None: there is none
	sources int
	salt    uint64
	turn    turn
}

// turn counts the calls that chance decides.
type turn struct {
	_ [64]byte // no other data on the line that every call writes to
	n atomic.Uint64
	_ [56]byte
}

// New returns the plan of a policy, nil if that has no rules.
func New(service string, p *policy.Policy) *Plan {
	plan := &Plan{salt: mix(xxhash.Sum64String(service)), sources: 1}
	for _, o := range p.Overrides {
		plan.Rules = append(plan.Rules, Rule{Kind: Override, Where: o.Where, Any: o.Fallback == policy.Any, header: o.Header, value: o.Value})
	}
	plan.splits = len(plan.Rules)
	for _, s := range p.Splits {
		r := Rule{Kind: Split, Where: s.Where, Any: s.Fallback != policy.None, Share: s.Share, key: s.Key}
		if s.Key != nil {
			r.source = plan.sourceOf(s.Key)
		}
		plan.Rules = append(plan.Rules, r)
	}
	plan.rest, plan.last = len(plan.Rules), None
	if len(p.Splits) > 0 {
		// The share of a split is that of its instances: they get no other calls.
		plan.last = len(plan.Rules)
		plan.Rules = append(plan.Rules, Rule{Kind: Rest, Where: p.Where, Any: p.Where == "" || p.Fallback == policy.Any})
	}
	if p.Where != "" {
		if plan.last == None {
			plan.last = len(plan.Rules)
		}
		plan.Rules = append(plan.Rules, Rule{Kind: Where, Where: p.Where, Any: p.Fallback == policy.Any})
	}
	if len(plan.Rules) == 0 {
		return nil
	}
	plan.turn.n.Store(rand.Uint64()) // callers do not all send their first call to the same subset
	return plan
}

// sourceOf is the number of a key among those of the splits.
func (p *Plan) sourceOf(k *policy.Key) int {
	for i := range p.Rules {
		if r := &p.Rules[i]; r.key != nil && *r.key == *k {
			return r.source
		}
	}
	p.sources++
	return p.sources - 1
}

// ByName reports whether a call of which nothing is known but the service may be for more
// than all instances.
func (p *Plan) ByName() bool { return p != nil && p.splits < len(p.Rules) }

// None is the rule of a call that is for all instances.
const None = -1

// maxSplits is how many splits a policy may have.
const maxSplits = 16

// Decide returns which rule a call is for. header may be nil.
//
// Shares are exact: the numbers by which chance decides are a Weyl sequence, whose parts
// fill each share evenly, however many goroutines draw from it. A key decides the same in
// every process, and a key that is in a share stays in it when the share grows.
func (p *Plan) Decide(header Header) int { return p.decide(header, true) }

// Peek is Decide for a call that is not made: shares that chance decides get none.
func (p *Plan) Peek(header Header) int { return p.decide(header, false) }

func (p *Plan) decide(header Header, chance bool) int {
	if header != nil {
		for i := range p.Rules[:p.splits] {
			if r := &p.Rules[i]; r.applies(header) {
				return i
			}
		}
	}
	if p.splits < p.rest {
		if i := p.split(header, chance); i != None {
			return i
		}
	}
	return p.last
}

func (r *Rule) applies(header Header) bool {
	v := header(r.header)
	return v != "" && (r.value == "" || v == r.value)
}

// split goes through the splits. Each takes its part of what those before it have left, so
// that shares hold also where different keys decide.
func (p *Plan) split(header Header, chance bool) int {
	var numbers [1 + maxSplits]float64 // by source, within what is left
	var drawn [1 + maxSplits]bool
	left := 1.0
	for i := p.splits; i < p.rest; i++ {
		r := &p.Rules[i]
		source, key := 0, ""
		if r.key != nil && header != nil && r.source <= maxSplits {
			if key = KeyOf(r.key, header); key != "" {
				source = r.source
			}
		}
		if !drawn[source] {
			drawn[source] = true
			switch {
			case source > 0:
				numbers[source] = part(mix(xxhash.Sum64String(key) ^ p.salt))
			case chance:
				numbers[0] = part(p.turn.n.Add(1) * golden)
			default:
				numbers[0] = 1 // in no share
			}
		}
		share := 1.0
		if r.Share < left {
			share = r.Share / left
		}
		u := numbers[source]
		if u < share {
			return i
		}
		if share < 1 && u < 1 {
			numbers[source] = (u - share) / (1 - share)
		}
		left -= r.Share
	}
	return None
}

// golden is the golden ratio of 1<<64: the multiples of it are spread most evenly.
const golden = 0x9e3779b97f4a7c15

// part is a number as a part of 1.
func part(n uint64) float64 { return float64(n>>11) / (1 << 53) }

// mix returns another hash for a hash (Steele, Lea and Flood, 2014): a share must not be
// the same part of the circle that consistent_hash divides.
func mix(hash uint64) uint64 {
	hash += golden
	hash = (hash ^ hash>>30) * 0xbf58476d1ce4e5b9
	hash = (hash ^ hash>>27) * 0x94d049bb133111eb
	return hash ^ hash>>31
}

// KeyOf returns the key of a request, empty if it has none.
func KeyOf(k *policy.Key, header Header) string {
	if k.Header != "" {
		return header(k.Header)
	}
	line := header("Cookie")
	if line == "" {
		return ""
	}
	c, err := (&http.Request{Header: http.Header{"Cookie": {line}}}).Cookie(k.Cookie)
	if err != nil {
		return ""
	}
	return c.Value
}

// Share is a counter by which an even share of calls is drawn, for mirrors.
type Share struct{ turn turn }

// Next reports whether the next call is in the share.
func (s *Share) Next(share float64) bool { return part(s.turn.n.Add(1)*golden) < share }
