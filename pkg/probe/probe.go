package probe

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"time"
)

// Func measures one round trip to an instance. The clock runs from before the
// first thing that is sent until the first that shows that the instance, or its
// kernel, has answered. Errors are failures, never samples; those that are
// [ErrNotProbed] are not even failures. It ends with ctx, and after 10 s.
type Func func(ctx context.Context) (time.Duration, error)

// ErrNotProbed says that the instance was not asked, for a reason that is not
// its own: nothing is known of it, neither good nor bad.
var ErrNotProbed = errors.New("probe: not probed")

// Dial opens a connection, as [net.Dialer.DialContext] does. It must end with
// its context.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// MaxRTT is the longest round trip that is believed, and the longest time that a
// probe takes.
const MaxRTT = 10 * time.Second

// keepIdle is how long a connection is kept that nobody measures.
const keepIdle = 2 * time.Minute

// Session measures round trips over a connection that it keeps: the first probe
// opens it, and so does one that finds it broken, before the clock starts. A
// connection that is not used for 2 minutes is closed. It must be closed with
// [Session.Close]. All methods are safe for concurrent use; probes take turns.
type Session struct {
	address string
	open    func(context.Context) (circuit, error)
	life    context.Context // ends with Close
	end     context.CancelFunc

	turn chan struct{} // full while somebody uses what follows
	kept circuit
	idle *time.Timer
}

// circuit is an open way to an instance. Only one trip at a time is made.
type circuit interface {
	// trip measures one round trip. After an error that is not an answer the
	// circuit is broken.
	trip(ctx context.Context) (time.Duration, error)
	Close() error
}

// answer is the error of an instance that has answered, though not well.
type answer string

func (a answer) Error() string { return string(a) }

func newSession(address string, open func(context.Context) (circuit, error)) *Session {
	p := &Session{address: address, open: open, turn: make(chan struct{}, 1)}
	p.life, p.end = context.WithCancel(context.Background())
	p.idle = time.AfterFunc(math.MaxInt64, p.rest)
	p.idle.Stop()
	return p
}

// Probe is a [Func].
func (p *Session) Probe(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, MaxRTT)
	defer cancel()
	defer context.AfterFunc(p.life, cancel)()
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %s: another probe is under way: %w", ErrNotProbed, p.address, ctx.Err())
	}
	rtt, err := p.measure(ctx)
	switch {
	case err == nil:
		return rtt, nil
	case p.life.Err() != nil:
		return 0, fmt.Errorf("%w: %s: closed", ErrNotProbed, p.address)
	case ctx.Err() != nil:
		return 0, fmt.Errorf("probe: %s: %w", p.address, ctx.Err()) // says more than that the connection was closed
	default:
		return 0, fmt.Errorf("probe: %s: %w", p.address, err)
	}
}

// measure uses the connection that is kept, or another one when that turns out
// to be broken.
func (p *Session) measure(ctx context.Context) (time.Duration, error) {
	if p.kept != nil {
		rtt, err := p.trip(ctx)
		if p.kept != nil || ctx.Err() != nil {
			return rtt, err
		}
	}
	c, err := p.open(ctx)
	if err != nil {
		return 0, err
	}
	p.kept = c
	return p.trip(ctx)
}

// trip makes a trip over the connection that is kept, and keeps it if it can be
// used again.
func (p *Session) trip(ctx context.Context) (time.Duration, error) {
	p.idle.Stop()
	rtt, err := p.kept.trip(ctx)
	if _, ok := errors.AsType[answer](err); err != nil && !ok {
		p.drop()
		return 0, err
	}
	p.idle.Reset(keepIdle)
	return rtt, err
}

func (p *Session) drop() {
	p.idle.Stop()
	if p.kept != nil {
		_ = p.kept.Close() // nobody waits for anything on it
		p.kept = nil
	}
}

// rest closes a connection that nobody uses.
func (p *Session) rest() {
	select {
	case p.turn <- struct{}{}:
		p.drop()
		<-p.turn
	default: // it is in use
	}
}

// Close ends a probe that is under way and waits for it, and closes the
// connection. Later probes are [ErrNotProbed]. It may be called twice and
// always returns nil.
func (p *Session) Close() error {
	p.end()
	p.turn <- struct{}{}
	p.drop()
	<-p.turn
	return nil
}
