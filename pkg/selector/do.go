package selector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// Do calls the nearest working instance of a service. When call fails, Do calls
// another instance, after a short random wait that grows, as long as there are
// attempts ([Retry.Attempts]), a retry budget ([ErrBudget]) and time before ctx ends, or
// before the time limit that the policy of the service states ([Limits]).
// When all instances have been tried, and the last one did not listen or broke the
// connection, Do begins again, up to twice, after 0.4 and 0.8 s: they may be restarting.
//
// The context of an attempt ends when the instance seems to hang and another one may take
// the call, see [Pick.AfterSlow]. Otherwise an attempt has all of the time of ctx.
//
// Do assumes that a call may be repeated, also one that the instance has received.
// Where that is not so, use [Selector.DoFor] with [Request.NonIdempotent], or mark
// errors as [Permanent].
//
// The error is a *[CallError] with that of the last attempt. An error that is an
// [Answer], such as one marked [Permanent], is returned as it was before it was marked. If
// there was no attempt, the error is that of [Selector.Pick] or of ctx.
func (s *Selector) Do(ctx context.Context, service string, call func(context.Context, *events.Instance) error) error {
	return s.DoFor(ctx, Request{Service: service}, func(ctx context.Context, p *Pick) error {
		return p.Try(ctx, func(ctx context.Context) error { return call(ctx, p.Instance) })
	})
}

// Try makes one attempt, whose context ends when the instance seems to hang and another
// one may take the call, see [Pick.AfterSlow]. The error is that of call, or [ErrSlow].
func (p *Pick) Try(ctx context.Context, call func(context.Context) error) error {
	attempt, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	OnHedged(ctx, func() { giveUp(errHedged) })
	stop := p.AfterSlow(ctx, func() { giveUp(ErrSlow) })
	defer stop() // also if call panics
	err := call(attempt)
	switch slow := !stop(); {
	case slow && err != nil && ctx.Err() == nil:
		err = fmt.Errorf("%w: %w", ErrSlow, context.DeadlineExceeded)
	case slow && err != nil && errors.Is(err, context.Canceled): // both ended at the same time
		err = ctx.Err()
	}
	return err
}

// DoFor is Do for a [Request], with one difference: the context that call gets does not
// end when the instance seems to hang. To give up such an attempt, call uses [Pick.Try]
// or [Pick.AfterSlow]. When call returns, its pick ends with the error that call
// returned, unless call has ended it with Done or DoneAfter, or has kept it, see
// [Pick.Keep]. When call panics, the pick ends like a canceled call.
func (s *Selector) DoFor(ctx context.Context, r Request, call func(context.Context, *Pick) error) error {
	if err := ctx.Err(); err != nil {
		return err // before any instance was called
	}
	svc, err := s.known(ctx, r.Service)
	if err != nil {
		return err
	}
	ru := svc.rules.Load()
	s.state(ru, &r)
	svc.budget.call(ru.retry.budget)
	t := tries{Selector: s, svc: svc, rules: ru, request: &r}
	limit, of := ru.limit(&r)
	if limit <= 0 {
		return t.do(ctx, call)
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = t.do(bounded, call)
	if failed, ok := errors.AsType[*CallError](err); ok && bounded.Err() != nil && ctx.Err() == nil {
		failed.Err = fmt.Errorf("%w (the %s allows %v)", failed.Err, of, limit)
	}
	return err
}

// do makes attempts until one counts.
func (t *tries) do(ctx context.Context, call func(context.Context, *Pick) error) error {
	s, svc, r := t.Selector, t.svc, t.request
	if err := t.rules.decide(r); err != nil {
		return err
	}
	if d := t.rules.attemptLimit(r); d != 0 {
		ctx = context.WithValue(ctx, attemptKey{}, attemptLimit{d, t.rules.overCode})
	}
	for {
		p, err := s.PickFor(ctx, *r)
		if errors.Is(err, ErrNoInstance) && t.again(ctx) {
			continue
		}
		if err != nil {
			if t.last != nil {
				return t.last
			}
			return err
		}
		if !t.more(&p) {
			p.flags |= pickLast
		}
		if t.attempts > 0 {
			svc.retries.Add(1)
		}
		if p, err = t.attempt(ctx, p, call); err == nil {
			return nil
		}
		outcome := s.classify(err)
		if outcome == Answer || outcome == Success {
			return answer(err)
		}
		t.tried(p, err)
		t.last = &CallError{Service: r.Service, Attempts: t.attempts, Instance: p.ID, Circle: p.Circle(), Err: err}
		if outcome == Canceled || t.final(outcome) || t.enough(ctx) {
			return t.last
		}
	}
}

// classify is what [Retry.Classify] makes of an error; what is no outcome is a Fault.
func (s *core) classify(err error) Outcome {
	if o := s.opts.Retry.Classify(err); o <= Local {
		return o
	}
	return Fault
}

// run makes one attempt.
func (p *Pick) run(ctx context.Context, call func(context.Context, *Pick) error) error {
	err := context.Canceled // stays so if call panics: the outcome is not known then
	defer func() { p.Done(err) }()
	err = call(ctx, p)
	return err
}

// tries is what was tried for one call.
type tries struct {
	*Selector
	svc      *service
	rules    *rules // when the call began
	request  *Request
	attempts int // made
	spent    int // of Retry.Attempts: refused connections of one round count as one
	refused  int // in this round
	rounds   int // how often all instances were tried
	last     *CallError
}

// more reports whether a further attempt, at another instance that works, may follow that
// of a pick. After an attempt that was given up as too slow it may not: that two instances
// hang is less likely than that the call takes long.
func (t *tries) more(p *Pick) bool {
	if t.spent+1 >= t.rules.retry.attempts || t.request.NonIdempotent || t.rules.retry.budget < 0 || !t.rules.retry.faults || t.last != nil && errors.Is(t.last.Err, ErrSlow) {
		return false
	}
	to := t.request.to
	for found := t.another(to, p); ; to = to.next {
		if found || to == nil || to.next == nil {
			return found
		}
		found = t.another(to.next, p)
	}
}

// another reports whether one of the instances of a target may take the call.
func (t *tries) another(to *target, p *Pick) bool {
	v, err := t.rules.vantage(t.request, to)
	if err != nil {
		return false
	}
	now := v.current()
	return now != nil && now.Another(&table.Query{Avoid: t.request.Avoid, Tried: t.request.tried}, p.node)
}

// final reports whether the policy says that calls are not tried again after such an
// outcome. One that was not sent is.
func (t *tries) final(o Outcome) bool {
	switch o {
	case Fault:
		return !t.rules.retry.faults && Sent(t.last.Err)
	case Backpressure:
		return !t.rules.retry.backpressed
	}
	return false
}

// tried notes an attempt that failed with err.
func (t *tries) tried(p Pick, err error) {
	t.request.tried = append(t.request.tried, p.node)
	t.attempts++
	if breaker.Refused(err) {
		if t.refused++; t.refused > 1 {
			return // it cost nothing, and a restart of all instances must not use up all attempts
		}
	}
	t.spent++
}

// again begins with all instances anew, after a wait, if those that were tried are the
// only ones there are.
func (t *tries) again(ctx context.Context) bool {
	if len(t.request.tried) == 0 || t.rounds == mostRounds || !restarts(t.last.Err) {
		return false
	}
	wait := roundWait << t.rounds
	t.rounds++
	t.request.tried, t.refused = nil, 0
	return t.wait(ctx, jitter(wait))
}

// restarts reports whether an error is one that calls end with while an instance restarts.
func restarts(err error) bool {
	if !Sent(err) {
		return true
	}
	for _, broken := range [...]error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, broken) {
			return true
		}
	}
	return false
}

// enough reports whether the failure of an attempt is the end. It waits when it is
// not.
func (t *tries) enough(ctx context.Context) bool {
	switch {
	case ctx.Err() != nil:
		return true
	case t.request.NonIdempotent && Sent(t.last.Err):
		return true
	case t.spent >= t.rules.retry.attempts && (t.refused < 2 || t.refused >= mostRefused):
		return true
	case breaker.Refused(t.last.Err):
		// No process listens, so a retry is no load for the service, which is what the
		// budget bounds.
	case !t.svc.budget.retry(t.now(), t.rules.retry.budget):
		if t.rules.retry.budget > 0 { // else there are never retries
			t.svc.refused.Add(1)
		}
		t.last.Err = fmt.Errorf("%w, so this is not tried again: %w", ErrBudget, t.last.Err)
		return true
	}
	if t.rounds > 0 && restarts(t.last.Err) && len(t.request.tried) < int(t.svc.Listed.Load()) {
		return !t.wait(ctx, jitter(roundWait)) // there are few attempts left for the restart
	}
	return !t.wait(ctx, rand.N(t.rules.retry.backoff<<min(t.attempts-1, 6)+1))
}

// jitter is a time, up to a fifth less or more, so that many callers do not come together.
func jitter(d time.Duration) time.Duration { return d*4/5 + rand.N(d*2/5) }

// wait returns false if ctx ends before.
func (t *tries) wait(ctx context.Context, wait time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= wait {
		return false
	}
	return sleep(ctx, wait) == nil
}

// ErrSlow is the end of an attempt at an instance that seems to hang.
var ErrSlow = errors.New("selector: no answer for much longer than usual")

// AfterSlow calls late when the instance seems to hang and another one may take the call.
// That is when all of this holds:
//
//   - the call has taken a second;
//   - it has taken 10 times what successes take on average;
//   - it has taken 1.5 times what the slowest success took in the last minutes, unless
//     the last call to the instance failed;
//   - the instance has answered no other call meanwhile;
//   - the time left before ctx ends is more than twice what a success takes;
//   - the attempt is not the last one, see [Pick.Last].
//
// While no success is known, 15 s stand for the first three, or 60 % of the time until ctx
// ends if that is less.
//
// When no success is known, or the call is the only one in flight to the instance and the
// last one to it did not fail, it may be one that takes long. Then the selector first asks
// whether the instance lives, by a probe over HTTP, HTTP/2 or NATS, once a second. As long
// as that is answered the call goes on, until 7/8 of the time until ctx ends, or for a
// minute if ctx has no deadline.
//
// Where attempts have a time limit ([AttemptTimeout]), late is called then, if another
// instance may take the call and that long is left for it.
//
// stop returns false if late was called.
func (p *Pick) AfterSlow(ctx context.Context, late func()) (stop func() bool) {
	if limit, _ := AttemptTimeout(ctx); p.Last() || limit < 0 {
		return func() bool { return true }
	} else if limit > 0 {
		if end, ends := ctx.Deadline(); ends && time.Until(end) < 2*limit {
			return func() bool { return true }
		}
		return time.AfterFunc(limit, late).Stop
	}
	s := &slowness{ctx: ctx, node: p.node, replies: p.node.Replies(), began: time.Now(), late: late}
	s.until, s.ends = ctx.Deadline()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(slowAtLeast, s.look)
	return s.stop
}

type attemptKey struct{}

// attemptLimit is how long one attempt may take.
type attemptLimit struct {
	time.Duration
	overCode bool
}

// AttemptTimeout returns how long the attempt whose context this is may take: what
// [Request.AttemptTimeout] or the policy of the service says, 0 if neither does, a negative
// time if there is no limit. overCode reports that the policy says that it holds over what
// a program states by itself. [Pick.AfterSlow] knows it.
func AttemptTimeout(ctx context.Context) (limit time.Duration, overCode bool) {
	l, _ := ctx.Value(attemptKey{}).(attemptLimit)
	return l.Duration, l.overCode
}

// Limits are the time limits of calls to a service. 0 stands for none.
type Limits struct {
	Timeout  time.Duration // of a call with all its attempts
	Attempt  time.Duration // of one attempt, while another instance may get the call
	Revision uint64        // of the policy of the service; 0: it has none of its own
	OverCode bool          // the policy says that it holds over what a program states
}

// Limits returns what the policy of a service says. It waits for the first snapshot as Pick
// does. It is for callers whose calls go on after [Selector.DoFor] has returned, so that
// they limit the time themselves: they call with a negative [Request.Timeout].
func (s *Selector) Limits(ctx context.Context, service string) (Limits, error) {
	svc, err := s.known(ctx, service)
	if err != nil {
		return Limits{}, err
	}
	r := svc.rules.Load()
	return Limits{r.timeout, r.attemptTimeout, r.current.Service.Revision, r.overCode}, nil
}

// Mirror has a copy of a call made to the instances that the policy of the service names for
// that, if the call is in the share that the policy states. It is for callers that can make
// a call twice, such as proximahttp; [Selector.Do] makes no copies.
//
// copyOf is called at once, if a copy is to be made, and returns the function that makes it;
// nil if it cannot be made. That function runs in a goroutine of the selector, which
// [Selector.Close] ends and waits for, within the time limit of calls to the service. What
// comes of it counts for the breaker of the instance, and for nothing else. At most 64
// copies are on their way at a time; others are not made, and counted.
func (s *Selector) Mirror(r Request, copyOf func() func(context.Context, *Pick) error) {
	svc := (*s.services.Load())[r.Service]
	if svc == nil || !svc.listed.Load() {
		return
	}
	ru := svc.rules.Load()
	m := ru.mirror
	if m == nil || !m.turn.Next(m.share) {
		return
	}
	if !s.mirrors.enter() {
		svc.mirrorsDropped.Add(1)
		return
	}
	call := s.copied(r.Service, copyOf)
	s.mu.Lock()
	defer s.mu.Unlock()
	if call == nil || s.shut.Load() {
		s.mirrors.leave()
		svc.mirrorsDropped.Add(1)
		return
	}
	limit := max(r.Timeout, 0)
	if limit == 0 {
		limit = ru.timeout
	}
	if limit == 0 {
		limit = mirrorFor
	}
	s.copies.Go(func() {
		defer s.mirrors.leave()
		ctx, cancel := context.WithTimeout(s.live, limit)
		defer cancel()
		ru.mirrorCall(ctx, &r, call)
	})
}

// Last reports whether no attempt at another instance follows: there is no other one that
// works and was not tried, or the call must not be repeated, or all attempts were made, or
// one was given up as too slow. A pick that is not of [Selector.DoFor] is the last one if
// the service lists no other instance.
func (p *Pick) Last() bool {
	return p.node == nil || p.flags&pickLast != 0 || p.node.Listed.Load() <= 1
}

// slowness waits for an instance to seem hung.
type slowness struct {
	ctx     context.Context
	node    *table.Node
	replies uint32 // that it had given when this call began, or when it was last looked at
	began   time.Time
	until   time.Time // when the call must end, if ends is set
	ends    bool
	late    func()

	mu     sync.Mutex
	timer  *time.Timer
	cancel context.CancelFunc // of the last question whether the instance lives; nil: none yet
	done   bool               // stopped, or late was called
	hangs  bool               // late was called
}

func (s *slowness) look() {
	hangs, ask := s.hanging(false)
	if ask {
		hangs, _ = s.hanging(!s.lives())
	}
	if hangs {
		s.late()
	}
}

// hanging reports whether late is to be called, or the instance is to be asked whether it
// lives; silent is that it did not answer. If neither, it sets the time of the next look.
func (s *slowness) hanging(silent bool) (hangs, ask bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return false, false
	}
	took := time.Since(s.began)
	limit, usual := s.node.TimeLimit(slowAtLeast, slowTypical, slowSlowest)
	all := float64(s.until.Sub(s.began))
	known := limit > 0
	if !known {
		if limit = slowUnknown; s.ends {
			limit = min(limit, time.Duration(slowOfTime*all))
		}
	}
	alive := time.Duration(0) // how long it may take if it lives
	if !known || s.node.InFlight() <= 1 && !s.node.Failed() {
		if alive = slowLiving; s.ends {
			alive = time.Duration(livingOfTime * all)
		}
	}
	lives := s.node.LivedWithin(livesEvery)
	switch replies := s.node.Replies(); {
	case int32(replies-s.replies) > 0: // it answers others, so it works
		s.replies = replies
		s.timer.Reset(max(limit, slowAtLeast))
	case took < limit:
		s.timer.Reset(min(limit-took, slowAtLeast))
	case s.ends && time.Until(s.until) <= 2*usual:
		s.done = true // another instance would not have the time either
	case took < alive && lives:
		s.timer.Reset(min(alive-took, livesEvery))
	case took < alive && !silent:
		return false, true
	default:
		s.done, s.hangs = true, true
	}
	return s.hangs, false
}

// lives asks the instance whether it lives.
func (s *slowness) lives() bool {
	wait := livesWithin
	if s.ends {
		wait = min(wait, time.Until(s.until)/4)
	}
	s.mu.Lock()
	ctx, cancel := context.WithTimeout(s.ctx, wait)
	s.cancel = cancel
	s.mu.Unlock()
	defer cancel()
	return s.node.Asks(ctx)
}

func (s *slowness) stop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
	s.done = true
	s.timer.Stop()
	return !s.hangs
}

// budget bounds the retries of one service to a share of its calls, so that retries do
// not overload a service in trouble. Each call adds share, each retry takes 1; a reserve
// flows in all the time for callers that call rarely. (As Finagle's RetryBudget.)
type budget struct {
	mu     sync.Mutex
	tokens float64
	filled time.Duration
}

func newBudget() budget { return budget{tokens: reserve} }

// call adds the share of one call.
func (b *budget) call(share float64) {
	if share <= 0 {
		return
	}
	b.mu.Lock()
	b.tokens = min(b.tokens+share, maxTokens)
	b.mu.Unlock()
}

// retry takes 1, and reports whether there was 1.
func (b *budget) retry(now time.Duration, share float64) bool {
	if share < 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if flow := (now - b.filled).Seconds() * reserve; flow > 0 && b.tokens < reserve {
		b.tokens = min(b.tokens+flow, reserve)
	}
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
