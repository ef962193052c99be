package selector

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/subset"
)

const (
	// maxTexts is how many texts of expressions are kept for a service: they come from
	// outside, and must not cost memory for ever.
	maxTexts = 256
	// maxRuleCounts is the same for rules of policies that are counted.
	maxRuleCounts = 256
)

// matcher says which instances are in a subset. A *[subset.Subset] is one.
type matcher interface {
	Matches(in *events.Instance) bool
	String() string
}

// rest is the instances of an expression that are in none of some others.
type rest struct {
	of  matcher
	not []matcher
}

func (r rest) Matches(in *events.Instance) bool {
	return r.of.Matches(in) && !slices.ContainsFunc(r.not, func(m matcher) bool { return m.Matches(in) })
}

// String is for people: no expression can say that.
func (r rest) String() string {
	parts := []string{r.of.String()}
	for _, m := range r.not {
		parts = append(parts, "not ("+m.String()+")")
	}
	if parts[0] == "" {
		parts = parts[1:]
	}
	return strings.Join(parts, " and ")
}

// expression is one that was asked for. Texts of one meaning share one.
type expression struct {
	matcher
	svc               *service
	all               bool                       // it is for all instances
	view              atomic.Pointer[subsetView] // nil: it has no tables now
	asked, askedOrAny target                     // of requests with it
}

// spelled is an expression as a request wrote it.
type spelled struct {
	text string
	*expression
}

// subsets are the subsets of a service that were asked for.
type subsets struct {
	svc    *service
	texts  atomic.Pointer[map[string]*spelled] // replaced, never changed
	recent [16]atomic.Pointer[spelled]         // by slot, so that most picks need no map
	own    ruleCounts                          // of requests with an expression of their own

	// What follows is guarded by the service.

	views   []*subsetView // by bit, at most table.MaxSubsets; nil: it is free
	counted map[ruleName]*ruleCounts
}

// subsetView is a subset that has tables: its members, and its vantages from the selector's
// own place.
type subsetView struct {
	svc    *service
	expr   *expression
	number uint8        // its bit, and one more
	usedAt atomic.Int64 // when a pick last used it: a look of maintain
	homes  atomic.Pointer[homes]

	// What follows is guarded by the service.

	of   []int32 // the places of its members in the list
	gone bool    // another one has its bit
}

func (v *subsetView) bit() uint64 { return 1 << (v.number - 1) }

// use notes that a pick uses it.
func (v *subsetView) use() {
	if now := v.svc.sel.clock.Load(); v.usedAt.Load() != now {
		v.usedAt.Store(now)
	}
}

// lately reports whether it was picked from lately, so that its tables are built with every
// change. Those of others are built when they are next used.
func (v *subsetView) lately() bool {
	return v.svc.sel.clock.Load()-v.usedAt.Load() < int64(eagerFor)
}

// find returns the expression of a text. The error is a *[subset.Error].
func (s *subsets) find(text string) (*expression, error) {
	slot := s.slot(text)
	if of := slot.Load(); of != nil && of.text == text {
		return of.expression, nil
	}
	of := (*s.texts.Load())[text]
	if of == nil {
		parsed, err := subset.Parse(text)
		if err != nil {
			return nil, err
		}
		of = s.add(text, parsed)
	}
	slot.CompareAndSwap(nil, of)
	return of.expression, nil
}

// slot is the place of a text in recent.
func (s *subsets) slot(text string) *atomic.Pointer[spelled] {
	n := uint(len(text))
	if n == 0 {
		return &s.recent[0]
	}
	return &s.recent[(n+uint(text[n-1])*3+uint(text[n/2])*5)%uint(len(s.recent))]
}

// add keeps a text that was not known.
func (s *subsets) add(text string, parsed *subset.Subset) *spelled {
	s.svc.mu.Lock()
	defer s.svc.mu.Unlock()
	old := *s.texts.Load()
	plain := old[parsed.String()]
	if plain == nil {
		expr := &expression{matcher: parsed, svc: s.svc, all: parsed.String() == ""}
		expr.asked = target{rule: "request", expr: expr, ruleCounts: &s.own}
		expr.askedOrAny = target{rule: "request", expr: expr, next: all, ruleCounts: &s.own}
		plain = &spelled{parsed.String(), expr}
	}
	texts := maps.Clone(old)
	if len(texts) >= maxTexts-1 {
		s.forgetTextsLocked(texts)
	}
	texts[plain.text] = plain
	of := plain
	if text != plain.text {
		of = &spelled{text, plain.expression}
		texts[text] = of
	}
	s.texts.Store(&texts)
	return of
}

// rest returns the expression of what is left by splits: that of the policy before, if it
// has the same.
func (s *subsets) rest(m rest) *expression {
	if r := s.svc.rules.Load(); r != nil {
		for _, t := range r.targets {
			if _, is := t.expr.matcher.(rest); is && t.expr.String() == m.String() {
				return t.expr
			}
		}
	}
	return &expression{matcher: m, svc: s.svc}
}

// forgetTextsLocked forgets the texts of expressions that neither have tables nor are in the
// policy, and all spellings but one of the others.
func (s *subsets) forgetTextsLocked(texts map[string]*spelled) {
	maps.DeleteFunc(texts, func(text string, of *spelled) bool { return of.view.Load() == nil || text != of.String() })
	r := s.svc.rules.Load()
	keep := func(e *expression) { texts[e.String()] = &spelled{e.String(), e} }
	for _, t := range r.targets {
		if _, is := t.expr.matcher.(rest); !is {
			keep(t.expr)
		}
	}
	if r.mirror != nil {
		keep(r.mirror.expr)
	}
	for i := range s.recent {
		s.recent[i].Store(nil)
	}
}

// view returns the tables of an expression. If there were none, another one that was not
// used for the longest time may lose its tables for that.
func (s *subsets) view(e *expression) *subsetView {
	if v := e.view.Load(); v != nil {
		v.use()
		return v
	}
	s.svc.mu.Lock()
	defer s.svc.mu.Unlock()
	if v := e.view.Load(); v != nil {
		return v
	}
	i := s.freeLocked()
	v := &subsetView{svc: s.svc, expr: e, number: uint8(i + 1)}
	v.use()
	s.views[i] = v
	s.svc.AllInFlight[v.number].Store(0)
	list := s.svc.members.list
	for i := range list {
		if list[i].Subsets &^= v.bit(); e.Matches(list[i].In) {
			list[i].Subsets |= v.bit()
			v.of = append(v.of, int32(i))
		}
	}
	e.view.Store(v)
	return v
}

// freeLocked returns a bit that is free, after it has freed one if all are taken.
func (s *subsets) freeLocked() int {
	if i := slices.Index(s.views, nil); i >= 0 {
		return i
	}
	if len(s.views) < table.MaxSubsets {
		s.views = append(s.views, nil)
		return len(s.views) - 1
	}
	least, at := 0, int64(math.MaxInt64)
	for i, v := range s.views {
		if used := v.usedAt.Load(); used < at {
			least, at = i, used
		}
	}
	v := s.views[least]
	v.gone = true
	v.expr.view.Store(nil)
	s.views[least] = nil
	if r := s.svc.rules.Load(); r != nil {
		vantages := maps.Clone(*r.vantages.Load())
		maps.DeleteFunc(vantages, func(p place, _ *vantage) bool { return p.subset == v })
		r.vantages.Store(&vantages)
	}
	return least
}

// of is the subsets that an instance is in, as bits.
func (s *subsets) of(in *events.Instance) (bits uint64) {
	for _, v := range s.views {
		if v != nil && v.expr.Matches(in) {
			bits |= v.bit()
		}
	}
	return bits
}

// index finds the members of each subset in the list again.
func (s *subsets) index(list []table.Member) {
	used := false
	for _, v := range s.views {
		if v != nil {
			v.of, used = v.of[:0], true
		}
	}
	if !used {
		return
	}
	for i := range list {
		eachBit(list[i].Subsets, func(bit int) {
			v := s.views[bit]
			v.of = append(v.of, int32(i))
		})
	}
}

// recount counts the calls in flight to each subset anew.
func (s *subsets) recount(list []table.Member) {
	for _, v := range s.views {
		if v == nil {
			continue
		}
		sum := uint64(0)
		for _, i := range v.of {
			sum += list[i].InFlight()
		}
		s.svc.AllInFlight[v.number].Store(int64(sum))
	}
}

// stats are what was counted of rules, by their names.
func (s *subsets) stats() []RuleStats {
	var all []RuleStats
	for name, c := range s.counted {
		all = append(all, RuleStats{name.kind, name.where, c.calls.Load(), c.fellBack.Load()})
	}
	if n := s.own.calls.Load(); n > 0 {
		all = append(all, RuleStats{"request", "", n, s.own.fellBack.Load()})
	}
	slices.SortFunc(all, func(a, b RuleStats) int { return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Where, b.Where)) })
	return all
}

// counts returns what was counted of a rule, in this policy or one before.
func (s *subsets) counts(name ruleName) *ruleCounts {
	s.svc.mu.Lock()
	defer s.svc.mu.Unlock()
	if c := s.counted[name]; c != nil {
		return c
	}
	if len(s.counted) >= maxRuleCounts {
		maps.DeleteFunc(s.counted, func(_ ruleName, c *ruleCounts) bool {
			return !slices.ContainsFunc(s.svc.rules.Load().targets, func(t *target) bool { return t.ruleCounts == c })
		})
	}
	if s.counted == nil {
		s.counted = make(map[ruleName]*ruleCounts)
	}
	c := new(ruleCounts)
	s.counted[name] = c
	return c
}
