package selector

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/policy"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/route"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// PolicySource tells the policy of a service. A [Source] that is one too decides how calls
// are made: *kv.Registry is.
type PolicySource interface {
	// WatchPolicy calls apply with what holds for a service when that is known, also that
	// there is no policy, and after every change, one call at a time, until ctx ends. While
	// the registry is out of reach the last one stays.
	WatchPolicy(ctx context.Context, service string, apply func(policy.Current)) error
}

var _ PolicySource = (*kv.Registry)(nil)

// rules are the settings that hold for a service: what the code states, and the policy.
// They are replaced when the policy changes, with the vantages that see by them. Nodes
// stay, with all that was learned of instances.
type rules struct {
	svc *service
	table.Rules
	current policy.Current // of which they are made

	kind     table.Kind
	said     string // the strategy that the policy says
	regions  []string
	fast     bool        // picks by name need nothing but the home table
	fallback bool        // all instances are used when none of what a request asks for is usable
	plan     *route.Plan // nil: every call is for all instances
	targets  []*target   // of the rules of the plan
	hashKey  *policy.Key
	mirror   *mirror // nil: there is none

	timeout, attemptTimeout time.Duration // 0: none
	overCode                bool
	retry                   retry
	breaker                 *breaker.Settings
	bulkhead                *Bulkhead // nil: calls in flight are not bounded
	probe                   ProbeKind

	homes    homes                              // all instances, from the selector's own place
	vantages atomic.Pointer[map[place]*vantage] // other ones; replaced, never changed
}

// retry is when a call is tried again.
type retry struct {
	attempts            int
	backoff             time.Duration
	budget              float64
	faults, backpressed bool // the outcomes after which it is
	hedge               bool
}

// target is where the calls of one rule go.
type target struct {
	rule string
	expr *expression // nil: all instances
	next *target     // is used when none of expr is usable; nil: nothing is
	*ruleCounts
}

// all is the target of all instances.
var all = &target{}

// in is the target for another instance of the service in this program: one that was
// forgotten and is watched again.
func (t *target) in(svc *service) *target {
	if t.expr == nil || t.expr.svc == svc {
		return t
	}
	same := *t
	same.expr = &expression{matcher: t.expr.matcher, svc: svc}
	return &same
}

// ruleCounts are what was counted of one rule. They outlive policies.
type ruleCounts struct{ calls, fellBack atomic.Uint64 }

// ruleName is the name of a rule in counts.
type ruleName struct{ kind, where string }

// newRules makes the rules of a policy. It changes nothing of the service.
func (svc *service) newRules(current policy.Current) (*rules, error) {
	for _, d := range [...]policy.Document{current.Default, current.Service} {
		if d.Policy == nil {
			continue
		}
		if _, err := policy.Encode(d.Policy); err != nil { // a source should have refused it
			return nil, fmt.Errorf("selector: policy %q, revision %d: %w", d.Name, d.Revision, err)
		}
	}
	p := current.Policy()
	r := &rules{svc: svc, current: current, fallback: p.Fallback == policy.Any, hashKey: p.HashKey}
	r.vantages.Store(&map[place]*vantage{})
	if err := r.settle(p); err != nil {
		return nil, err
	}
	r.plan = route.New(svc.name, p)
	r.fast = r.kind != table.KindHash && r.bulkhead == nil && !r.plan.ByName()
	if err := r.aim(); err != nil {
		return nil, err
	}
	if p.Mirror != nil {
		expr, err := svc.subsets.find(p.Mirror.Where)
		if err != nil {
			return nil, err
		}
		r.mirror = &mirror{expr: expr, share: p.Mirror.Share}
	}
	return r, nil
}

// aim finds the targets of the plan.
func (r *rules) aim() error {
	if r.plan == nil {
		return nil
	}
	s := &r.svc.subsets
	r.targets = make([]*target, len(r.plan.Rules))
	var splits []matcher
	for i := range r.plan.Rules {
		of := &r.plan.Rules[i]
		expr, err := s.find(of.Where)
		if err != nil {
			return err
		}
		switch of.Kind {
		case route.Split:
			splits = append(splits, expr.matcher)
		case route.Rest:
			expr = s.rest(rest{expr.matcher, splits})
		}
		t := &target{rule: of.String(), expr: expr, ruleCounts: s.counts(ruleName{of.Kind.String(), expr.String()})}
		if of.Any {
			t.next = all
		}
		r.targets[i] = t
	}
	if n := len(r.targets); n > 1 && r.plan.Rules[n-1].Kind == route.Where && r.plan.Rules[n-2].Kind == route.Rest {
		r.targets[n-2].next = r.targets[n-1] // the splits are a part of it
	}
	return nil
}

// codeRules are the rules without a policy.
func (svc *service) codeRules() *rules {
	r := &rules{svc: svc}
	r.vantages.Store(&map[place]*vantage{})
	if err := r.settle(&policy.Policy{}); err != nil {
		panic(err) // the options were checked
	}
	r.fast = r.kind != table.KindHash && r.bulkhead == nil
	r.homes.rules = r
	r.homes.by[0].Store(r.newVantage(nil, nil, 0, r.kind))
	return r
}

// prefer chooses between what the code states and what the policy does; zero values state
// nothing.
func prefer[T comparable](overCode bool, code, doc, other T) T {
	var zero T
	if overCode && doc != zero {
		return doc
	}
	for _, v := range [...]T{code, doc} {
		if v != zero {
			return v
		}
	}
	return other
}

// nothing is what a policy says with a pointer, where Options say the same with a zero that
// stands for the default: a value that has the effect of 0.
func nothing[T policy.Duration | float64](v *T, effect time.Duration) time.Duration {
	switch {
	case v == nil:
		return 0
	case *v == 0:
		return effect
	}
	return time.Duration(*v)
}

// settle works out the settings.
func (r *rules) settle(p *policy.Policy) error {
	s := r.svc.sel
	code, other := &s.given, &s.opts
	over := p.OverCode != nil && *p.OverCode
	r.overCode, r.said = over, p.Strategy

	strategy := prefer(over, string(code.Strategy), p.Strategy, string(other.Strategy))
	if _, err := ParseStrategy(strategy); err != nil {
		return err
	}
	r.kind = table.KindOf(strategy)
	near, leave := p.Near, p.Leave
	if near == nil {
		near = &policy.Near{}
	}
	if leave == nil {
		leave = &policy.Leave{}
	}
	r.NearSlack = prefer(over, code.Near.Slack, nothing(near.Slack, 1), other.Near.Slack)
	r.NearFactor = prefer(over, code.Near.Factor, near.Factor, other.Near.Factor)
	r.RampUp = prefer(over, code.Ramp.Up, nothing(p.RampUp, -1), other.Ramp.Up)
	r.Panic = 0.5
	if p.Panic != nil {
		r.Panic = *p.Panic
	}
	r.settleLeave(leave, code)
	r.probe = prefer(over, code.Probe.Kind, ProbeKind(p.Probe), other.Probe.Kind)
	r.timeout, r.attemptTimeout = time.Duration(p.Timeout), time.Duration(p.AttemptTimeout)
	r.settleRetry(p.Retry, code)
	r.settleBreaker(p.Breaker, code)
	r.bulkhead = bulkheadOf(code.Bulkhead, p.Bulkhead, over)
	r.Bounded = r.bulkhead != nil
	return nil
}

func (r *rules) settleLeave(p *policy.Leave, code *Options) {
	s := r.svc.sel
	r.Leave.Off = code.Spill.Off
	if p.Off != nil && (r.overCode || !r.Leave.Off) {
		r.Leave.Off = *p.Off
	}
	levels := s.opts.Levels
	r.regions = code.Spill.Regions
	if len(p.Regions) > 0 && (r.overCode || len(r.regions) == 0) {
		if r.regions = p.Regions; len(levels)+len(r.regions) > maxLevels {
			r.regions = r.regions[:maxLevels-len(levels)]
		}
	}
	price := prefer(r.overCode, code.Spill.Price, nothing(p.Price, 0), 0)
	circles := len(levels) + 1 + len(r.regions)
	for i := range circles {
		r.Leave.Price = append(r.Leave.Price, times(price, i))
	}
	within := prefer(r.overCode, code.Spill.Within, topology.Level(p.Within), "")
	r.Outermost = uint8(circles - 1)
	if i := slices.Index(levels, within); i >= 0 {
		r.Outermost = uint8(i)
	} else if within != "" {
		s.log.Warn("a policy wants calls to stay within a level that this caller has not, so they do not", "service", r.svc.name, "level", within)
	}
}

func (r *rules) settleRetry(p *policy.Retry, code *Options) {
	if p == nil {
		p = &policy.Retry{}
	}
	other := &r.svc.sel.opts.Retry
	r.retry = retry{
		attempts: prefer(r.overCode, code.Retry.Attempts, p.Attempts, other.Attempts),
		backoff:  prefer(r.overCode, code.Retry.Backoff, nothing(p.Backoff, 1), other.Backoff),
		budget:   prefer(r.overCode, code.Retry.Budget, orNegative(p.Budget), other.Budget),
		faults:   p.On == nil || slices.Contains(*p.On, Fault.String()), backpressed: p.On == nil || slices.Contains(*p.On, Backpressure.String()),
		hedge: p.Hedge != nil && *p.Hedge,
	}
}

// orNegative is a share of which 0 means none; Options say that with a negative one.
func orNegative(share *float64) float64 {
	switch {
	case share == nil:
		return 0
	case *share == 0:
		return -1
	}
	return *share
}

func (r *rules) settleBreaker(p *policy.Breaker, code *Options) {
	set := code.Breaker
	if p != nil {
		set.Failures = prefer(r.overCode, set.Failures, p.Failures, 0)
		set.FailureRatio = prefer(r.overCode, set.FailureRatio, orNegative(p.FailureRatio), 0)
		set.MinCalls = prefer(r.overCode, set.MinCalls, p.MinCalls, 0)
		set.Window = prefer(r.overCode, set.Window, time.Duration(p.Window), 0)
		set.OpenFor = prefer(r.overCode, set.OpenFor, time.Duration(p.OpenFor), 0)
		set.MaxOpenFor = prefer(r.overCode, set.MaxOpenFor, time.Duration(p.MaxOpenFor), 0)
	}
	theirs, svc := set.OnChange, r.svc
	set.OnChange = func(k breaker.Key, from, to breaker.State) {
		svc.rebuildSoon()
		if theirs != nil {
			theirs(k, from, to)
		}
	}
	r.breaker = &set
}

// sameBreaker reports whether breakers do the same by both.
func (r *rules) sameBreaker(of *rules) bool {
	a, b := r.breaker, of.breaker
	return a.Failures == b.Failures && a.FailureRatio == b.FailureRatio && a.MinCalls == b.MinCalls && a.Window == b.Window &&
		a.OpenFor == b.OpenFor && a.MaxOpenFor == b.MaxOpenFor
}

// decide sets where a call goes, once for all of its attempts. Nil stands for all
// instances.
func (r *rules) decide(ask *Request) error {
	switch {
	case ask.decided:
		return nil
	case ask.Where != "":
		to, err := r.asked(ask.Where)
		if err != nil {
			return err
		}
		ask.to = to
	case r.plan != nil:
		if i := r.plan.Decide(ask.Header); i != route.None {
			ask.to = r.targets[i]
		}
	}
	ask.decided = true
	if ask.to != nil {
		ask.to.calls.Add(1)
	}
	if r.hashKey != nil && ask.Key == "" && ask.Header != nil {
		ask.Key = route.KeyOf(r.hashKey, ask.Header)
	}
	if ask.Key == "" {
		ask.Key = ask.DefaultKey
	}
	return nil
}

// asked is the target of a request with an expression of its own, nil if that is for all
// instances, whatever the policy says.
func (r *rules) asked(text string) (*target, error) {
	expr, err := r.svc.subsets.find(text)
	switch {
	case err != nil || expr.all:
		return nil, err
	case r.fallback:
		return &expr.askedOrAny, nil
	}
	return &expr.asked, nil
}

// kindOf is the strategy of a request.
func (r *rules) kindOf(ask *Request) (table.Kind, error) {
	if ask.Strategy == "" {
		return r.kind, nil
	}
	s, err := ParseStrategy(string(ask.Strategy))
	if err != nil {
		return r.kind, err
	}
	return table.KindOf(string(s)), nil
}

// strategyFor is the strategy of the calls of a selector that states one, or none.
func (r *rules) strategyFor(stated Strategy) Strategy {
	return Strategy(prefer(r.overCode, string(stated), r.said, string(P2C)))
}

// fastVantage is the one that picks by name need, nil if they need more.
func (r *rules) fastVantage() *vantage {
	if r.fast {
		return r.homes.by[0].Load()
	}
	return nil
}

// limit is how long a call may take, and what says so; 0: as long as its context.
func (r *rules) limit(ask *Request) (limit time.Duration, of string) {
	switch {
	case ask.Timeout < 0:
		return 0, ""
	case ask.Timeout > 0:
		return ask.Timeout, "request"
	}
	return r.timeout, "policy"
}

func (r *rules) attemptLimit(ask *Request) time.Duration {
	if ask.AttemptTimeout != 0 {
		return ask.AttemptTimeout
	}
	return r.attemptTimeout
}

// tags say for a log which documents hold.
func (r *rules) tags() []any {
	p := r.current.Policy()
	var says []string
	for _, line := range policy.Diff(nil, p) {
		says = append(says, strings.TrimPrefix(line, "+ "))
	}
	return []any{"service", r.svc.name, "revision", r.current.Service.Revision, "default_revision", r.current.Default.Revision, "policy", strings.Join(says, ", ")}
}

// followPolicy applies the policies of the source to a service until that is stopped. known is
// called when the first one holds.
func (svc *service) followPolicy(from PolicySource, known func()) {
	defer known()
	err := from.WatchPolicy(svc.run, svc.name, func(c policy.Current) {
		svc.setPolicy(c)
		known()
	})
	if err != nil && svc.run.Err() == nil {
		svc.sel.log.Error("the source of policies ended, the last policy stays", "service", svc.name, "error", err)
	}
	<-svc.run.Done()
}

// setPolicy makes a policy hold. The last one stays if it cannot.
func (svc *service) setPolicy(c policy.Current) {
	next, err := svc.newRules(c)
	if err != nil {
		svc.sel.log.Error("a policy cannot be used, the last one stays", "service", svc.name, "error", err)
		return
	}
	svc.mu.Lock()
	old := svc.rules.Load()
	if svc.closed {
		svc.mu.Unlock()
		return
	}
	svc.replaceLocked(old, next)
	svc.mu.Unlock()
	if next.kind == table.KindLoadAware {
		svc.listenOnce()
	}
	if c.Default.Policy != nil || c.Service.Policy != nil || old.current.Default.Policy != nil || old.current.Service.Policy != nil {
		svc.sel.log.Info("another policy holds", next.tags()...)
	}
}

// replaceLocked puts other rules in place of those that hold.
func (svc *service) replaceLocked(old, next *rules) {
	if !slices.Equal(old.regions, next.regions) {
		svc.relayLocked(next.regions)
	}
	if !next.sameBreaker(old) {
		for i := range svc.members.list {
			svc.members.list[i].Breaker.Set(next.breaker)
		}
	} else {
		next.breaker = old.breaker
	}
	svc.places.boundLocked(next)
	if svc.known {
		svc.members.refresh()
	}
	generation := svc.generation.Add(1)
	next.homes.takeLocked(next, nil, &old.homes, svc.known, generation)
	svc.fast.Store(next.fastVantage())
	for _, v := range svc.subsets.views {
		if v != nil && v.lately() {
			h := &homes{}
			h.takeLocked(next, v, v.homes.Load(), svc.known, generation)
			v.homes.Store(h)
		}
	}
	svc.rules.Store(next)
	svc.places.queue.WakeAll() // these may let more calls go
	if svc.known {
		svc.builtAt = svc.Now()
	}
}

// relayLocked cuts the service into circles by other regions.
func (svc *service) relayLocked(regions []string) {
	old, l := svc.Layout(), table.NewLayout(svc.sel.opts.Levels, regions)
	svc.SetLayout(l)
	svc.members.relay(old, l)
	unloadedBefore := svc.unloaded
	svc.unloaded = make(map[unloaded]heard)
	for of, h := range unloadedBefore {
		if to := l.Index(old.Name(of.circle)); l.Name(uint8(to)) == old.Name(of.circle) {
			of.circle = uint8(to)
			svc.unloaded[of] = h
		}
	}
}

// joinPolicies has the service follow the policies of the source, if that has any. It
// delays the first pick by policyWait at most.
func (svc *service) joinPolicies() {
	from, ok := svc.sel.source.(PolicySource)
	if !ok {
		return
	}
	limit := policyWait
	if svc.sel.unreachable() != nil {
		limit = sharingWait
	}
	ctx, cancel := context.WithTimeout(svc.run, limit)
	defer cancel()
	known := make(chan struct{})
	var closed atomic.Bool
	svc.sel.work.Go(func() {
		svc.followPolicy(from, func() {
			if closed.CompareAndSwap(false, true) {
				close(known)
			}
		})
	})
	select {
	case <-known:
	case <-ctx.Done():
		if svc.run.Err() == nil {
			svc.sel.log.Warn("the policy is not known yet, calls begin without", "service", svc.name)
		}
	}
}

// mirrorCall makes a copy of a call.
func (r *rules) mirrorCall(ctx context.Context, ask *Request, call func(context.Context, *Pick) error) {
	svc := r.svc
	p, ok := r.mirrorPick(ask)
	if !ok {
		svc.mirrorsDropped.Add(1)
		return
	}
	svc.mirrored.Add(1)
	err := fmt.Errorf("%w: %w", errPanicked, context.Canceled)
	defer func() {
		if what := recover(); what != nil {
			svc.sel.log.Error("a mirrored call panicked", "service", svc.name, "instance", p.ID, "panic", fmt.Sprint(what))
		}
		p.Done(err)
	}()
	err = call(ctx, &p)
	if err != nil && (ctx.Err() == context.Canceled || svc.run.Err() != nil) {
		err = context.Canceled // the selector was closed
	}
}

// mirrorPick picks an instance for a copy. It is no load of the instance, but takes a place
// where calls in flight are bounded.
func (r *rules) mirrorPick(ask *Request) (Pick, bool) {
	v, err := r.vantage(&Request{Protocol: ask.Protocol, From: ask.From}, &target{expr: r.mirror.expr})
	if err != nil {
		return Pick{}, false
	}
	t := v.current()
	if t == nil {
		return Pick{}, false
	}
	now := r.svc.Now()
	if t.Bounded && !r.svc.places.whole.BeginWithin(r.bulkhead.most()) {
		return Pick{}, false
	}
	f, ok := t.Search(&table.Query{Key: ask.Key, Only: true}, table.Ticks(now))
	if !ok {
		if t.Bounded {
			r.svc.places.whole.TakeBack()
		}
		return Pick{}, false
	}
	p := Pick{f.Instance, f.Node, f.Pass, now, f.Index, pickLive | pickMirror, 0}
	if t.Bounded {
		f.Node.Copied()
		p.flags |= pickBusy | pickBounded
	}
	return p, true
}
