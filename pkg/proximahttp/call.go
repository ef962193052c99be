package proximahttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/probe"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// call is one request on its way, in one or more attempts.
type call struct {
	transport *Transport
	req       *http.Request // the caller's
	service   string
	ask       selector.Request
	body      outgoing
	limit     *limit // nil: there is none

	mu      sync.Mutex     // two attempts may run at a time
	attempt *Attempt       // the last one
	resp    *http.Response // the one that counts, the last one so far
	good    bool           // it is no failure
}

func newCall(t *Transport, req *http.Request, service, protocol string) *call {
	c := &call{transport: t, req: req, service: service}
	c.ask = selector.Request{Service: service, NonIdempotent: !idempotent(req)}
	if t.options.Ask != nil {
		t.options.Ask(req, &c.ask)
	}
	if p, name := events.CutEndpoint(c.ask.Protocol); p != protocol || name == "" {
		c.ask.Protocol = protocol
	}
	// A body without GetBody can be read by one attempt at a time.
	again := req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
	c.ask.Hedge, c.ask.MayHedge = again && (c.ask.Hedge || t.options.Hedge), again
	if c.ask.Header == nil {
		c.ask.Header = req.Header.Get
	}
	c.body = newOutgoing(req, t.options.MaxBody)
	return c
}

func (c *call) run() (*http.Response, error) {
	ctx := c.req.Context()
	if c.limit = newLimit(c.req, c.transport.selector, &c.ask); c.limit != nil { // it knows the policy then
		ctx = c.limit
	}
	_, once := c.body.(*kept)
	if !once {
		c.mirror()
	}
	err := c.transport.selector.DoFor(ctx, c.ask, c.try)
	if once {
		c.mirror() // what the body is was not known before
	}
	c.body.finish()
	if err != nil && c.resp != nil && c.ended() != nil {
		_ = c.resp.Body.Close() // of an earlier attempt: it cannot be read any more
		c.resp = nil
	}
	c.stopLimit()
	if c.resp != nil {
		return c.resp, nil
	}
	return nil, c.error(err)
}

// try makes one attempt. It ends the pick itself, except for errors that it returns
// without a mark.
func (c *call) try(ctx context.Context, p *selector.Pick) error {
	attempt := c.begin(p)
	ctx = context.WithValue(ctx, attemptKey{}, attempt)
	w := &wire{nonIdempotent: c.ask.NonIdempotent}
	bounded, giveUp := context.WithCancelCause(ctx) // ends with the body of the response
	out := c.to(c.req.WithContext(httptrace.WithClientTrace(bounded, w.trace())), p)
	if err := c.attach(out); err != nil {
		giveUp(nil)
		p.Done(context.Canceled)
		return selector.Permanent(err)
	}

	w.begin()
	selector.OnHedged(ctx, func() { giveUp(context.Canceled) })
	stop := c.afterSlow(ctx, p, func() { giveUp(errSlow) })
	resp, err := c.transport.base.RoundTrip(out)
	for range mostKept {
		if err == nil || c.ask.NonIdempotent || !w.stale(err) || bounded.Err() != nil || !c.body.replayable() || c.attach(out) != nil {
			break
		}
		// The connection was used before, and ended without a byte of an answer: its
		// server had closed it. net/http tries other ones for GET and the like only.
		w.begin()
		resp, err = c.transport.base.RoundTrip(out)
	}
	latency := w.latency()
	if resp == nil && err == nil {
		err = errNoResponse
	}
	if !stop() && err == nil { // its body cannot be read any more
		_ = resp.Body.Close()
		err = errSlow
	}
	if err != nil {
		if errors.Is(context.Cause(bounded), errSlow) {
			err = errSlow
		}
		giveUp(nil)
		return c.failed(p, out, w, err)
	}
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	resp.Request = c.req.WithContext(ctx)
	o := c.classify(resp, giveUp)
	result := outcome(o, resp)
	if o == selector.Success {
		p.Answered(latency)
		if rtt, ok := w.conn.Load().RTT(); ok {
			p.Observe(rtt)
		}
	} else {
		p.DoneAfter(result, latency) // now, so that the next pick knows
	}
	follow(resp, c.req, p, giveUp, w.kept(resp))
	c.keep(resp, o == selector.Success || o == selector.Answer)
	if result != nil && !c.body.replayable() {
		return selector.Permanent(result)
	}
	return result
}

// to makes a copy of the request one to the instance of a pick.
func (c *call) to(out *http.Request, p *selector.Pick) *http.Request {
	u := *out.URL
	if u.Host = hostOf(p.Endpoints[c.ask.Protocol]); out.Host == "" || out.Host == out.URL.Host {
		out.Host = c.service
	}
	out.URL = &u
	return out
}

// errNoResponse is the error of a base that breaks the rules of http.RoundTripper.
var errNoResponse = errors.New("proximahttp: the base returned neither a response nor an error")

// classify says what a response means. What is no outcome of an instance is a Fault. If the
// user's function panics, the response is closed.
func (c *call) classify(resp *http.Response, giveUp context.CancelCauseFunc) selector.Outcome {
	done := false
	defer func() {
		if !done {
			_ = resp.Body.Close()
			giveUp(nil)
		}
	}()
	o := c.transport.options.Classify(resp)
	done = true
	if o > selector.Local {
		return selector.Fault
	}
	return o
}

// begin notes an attempt.
func (c *call) begin(p *selector.Pick) *Attempt {
	c.mu.Lock()
	defer c.mu.Unlock()
	number := 1
	if c.attempt != nil {
		number = c.attempt.Number + 1
	}
	c.attempt = &Attempt{Instance: p.Instance, Circle: p.Circle(), Number: number}
	return c.attempt
}

func (c *call) attach(out *http.Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.attach(out)
}

// keep keeps a response for the caller, unless there is one that counts more, and closes
// the other one.
func (c *call) keep(resp *http.Response, good bool) {
	c.mu.Lock()
	superseded := c.resp
	if c.good {
		superseded = resp
	} else {
		c.resp, c.good = resp, good
	}
	c.mu.Unlock()
	if superseded != nil {
		_ = superseded.Body.Close()
	}
}

// errSlow is the end of an attempt, not of the request: another instance may be faster.
var errSlow = error(slowError{fmt.Errorf("no answer in the time of an attempt: %w", context.DeadlineExceeded)})

// slowError is matched by [selector.ErrSlow].
type slowError struct{ error }

func (slowError) Is(target error) bool { return target == selector.ErrSlow }
func (e slowError) Unwrap() error      { return e.error }

// afterSlow calls late when the instance takes too long, if another instance may get the
// request and has the time for it. stop returns false if late was called.
func (c *call) afterSlow(ctx context.Context, p *selector.Pick, late func()) (stop func() bool) {
	limit := c.transport.options.AttemptTimeout
	if of, overCode := selector.AttemptTimeout(ctx); of != 0 && (limit == 0 || overCode || c.ask.AttemptTimeout != 0) {
		limit = of
	}
	end, ends := ctx.Deadline()
	switch {
	case limit < 0, p.Last(), !c.body.replayable(), ends && time.Until(end) < 2*limit:
		return func() bool { return true }
	case limit == 0:
		return p.AfterSlow(ctx, late)
	}
	return time.AfterFunc(limit, late).Stop
}

// failed returns the error of an attempt that got no response, marked with what follows.
func (c *call) failed(p *selector.Pick, out *http.Request, w *wire, err error) error {
	switch end := c.ended(); {
	case end != nil:
		p.Done(end)
		return selector.Permanent(err)
	case c.body.faulty() || malformed(out):
		p.Done(context.Canceled) // no instance can get that
		return selector.Permanent(err)
	case !c.body.replayable():
		p.Done(err)
		return selector.Permanent(err)
	case w.untouched():
		return selector.NotSent(err)
	default:
		return err
	}
}

// mostKept is on how many connections that were used before a request may fail before the
// instance is blamed.
const mostKept = 3

// wire observes whether anything of a request may have been sent, on which connection,
// and how long the instance took to answer. The time to open a connection is left out: it
// is distance, and it would make every new instance look slow.
type wire struct {
	nonIdempotent bool
	asked, wrote  atomic.Bool
	answered      atomic.Bool // a byte of an answer came
	reused        atomic.Bool // the connection was used before
	start         time.Time
	connected     atomic.Int64 // nanoseconds after start
	conn          atomic.Pointer[probe.Conn]
	keeps         atomic.Pointer[keptConn]
	uses          atomic.Int64 // of keeps, with this request
}

func (w *wire) begin() {
	w.start = time.Now()
	w.connected.Store(0)
	w.reused.Store(false)
}

func (w *wire) latency() time.Duration {
	return time.Since(w.start) - time.Duration(w.connected.Load())
}

func (w *wire) trace() *httptrace.ClientTrace {
	t := &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			w.connected.Store(int64(time.Since(w.start)))
			w.reused.Store(got.Reused)
			w.conn.Store(probe.Observed(got.Conn))
			if k := keptOf(got.Conn); k != nil {
				w.uses.Store(int64(k.use()))
				w.keeps.Store(k)
			}
		},
		GotFirstResponseByte: func() { w.answered.Store(true) },
	}
	if w.nonIdempotent {
		t.GetConn = func(string) { w.asked.Store(true) }
		// Called before the field is written. WroteHeaders comes after, when
		// the answer may be here already.
		t.WroteHeaderField = func(string, []string) { w.wrote.Store(true) }
	}
	return t
}

// untouched reports whether nothing was sent. It can be true only if the base calls
// traces, as http.Transport does.
func (w *wire) untouched() bool { return w.asked.Load() && !w.wrote.Load() }

// stale reports whether an error says that the server had closed a connection that was
// used before: it ended without a byte of an answer.
func (w *wire) stale(err error) bool {
	return w.reused.Load() && !w.answered.Load() &&
		(errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
			strings.Contains(err.Error(), "server closed idle connection")) // net/http has no name for that one
}

// kept returns what is to be called when an answer has been read, so that its connection
// does not stay for too long.
func (w *wire) kept(resp *http.Response) (rest func()) {
	k := w.keeps.Load()
	if k == nil || resp.ProtoMajor != 1 {
		return func() {}
	}
	k.answered(resp.Header.Get("Keep-Alive"))
	return func() { k.rest(int(w.uses.Load())) }
}

// error is err as a *[selector.CallError], also for what was not to be tried again.
func (c *call) error(err error) error {
	if c.limit != nil && c.limit.passed.Load() && interrupted(c.req) == nil {
		if failed, ok := err.(*selector.CallError); ok { //nolint:errorlint // only what DoFor itself returns
			failed.Err = &limitError{failed.Err, c.limit.by, c.limit.of}
			return failed
		}
		err = &limitError{err, c.limit.by, c.limit.of}
	}
	if _, ok := err.(*selector.CallError); ok || c.attempt == nil { //nolint:errorlint // only what DoFor itself returns
		return err
	}
	return &selector.CallError{Service: c.service, Attempts: c.attempt.Number, Instance: c.attempt.ID, Circle: c.attempt.Circle, Err: err}
}
