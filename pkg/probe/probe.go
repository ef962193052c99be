package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"time"
)

// Func measures one round trip to an instance. The clock starts before anything is
// sent, and stops at the first answer of the instance or its kernel. An error is a
// failure of the instance, unless it is [ErrNotProbed]. A Func ends with ctx, and
// after MaxRTT.
type Func func(ctx context.Context) (time.Duration, error)

// ErrNotProbed is the error when the instance could not be asked, for a reason that
// is not the instance's. It is neither a round trip nor a failure.
var ErrNotProbed = errors.New("probe: not probed")

// Dial opens a connection, as [net.Dialer.DialContext] does. It must end with
// its context.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// MaxRTT is the longest round trip that is accepted, and the longest time that a
// probe takes.
const MaxRTT = 10 * time.Second

// keepIdle is how long a connection is kept without a probe.
const keepIdle = 2 * time.Minute

// Session measures round trips over a connection that it keeps. The first probe
// opens the connection, and so does a probe that finds it broken, before the clock
// starts. A connection that is not used for 2 minutes is closed. End a session with
// [Session.Close]. All methods are safe for concurrent use; probes take turns.
type Session struct {
	address string
	open    func(context.Context) (circuit, error)
	life    context.Context // ends with Close
	end     context.CancelFunc

	turn chan struct{} // full while a goroutine uses what follows
	kept circuit
	idle *time.Timer
}

// circuit is an open connection to an instance. It makes one trip at a time.
type circuit interface {
	// trip measures one round trip. After an error that is not a badAnswer the
	// circuit is broken.
	trip(ctx context.Context) (time.Duration, error)
	Close() error
}

// badAnswer is the error when the instance answered, but reported a failure. The
// connection can be used again.
type badAnswer string

func (a badAnswer) Error() string { return string(a) }

// Answered reports whether an instance whose probe ended with err has answered, if only to
// say that it failed, or with a certificate that the caller does not accept.
func Answered(err error) bool {
	_, bad := errors.AsType[badAnswer](err)
	_, unknown := errors.AsType[*tls.CertificateVerificationError](err)
	return err == nil || bad || unknown
}

func newSession(address string, open func(context.Context) (circuit, error)) *Session {
	p := &Session{address: address, open: open, turn: make(chan struct{}, 1)}
	p.life, p.end = context.WithCancel(context.Background())
	p.idle = time.AfterFunc(math.MaxInt64, p.closeIdle)
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
		return 0, fmt.Errorf("probe: %s: %w", p.address, ctx.Err()) // clearer than "connection closed"
	default:
		return 0, fmt.Errorf("probe: %s: %w", p.address, err)
	}
}

// measure makes a trip over the open connection, or over a new one when there is
// none or it is broken.
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

// trip makes a trip over the open connection, and drops it if it is broken.
func (p *Session) trip(ctx context.Context) (time.Duration, error) {
	p.idle.Stop()
	rtt, err := p.kept.trip(ctx)
	if _, ok := errors.AsType[badAnswer](err); err != nil && !ok {
		p.drop()
		return 0, err
	}
	p.idle.Reset(keepIdle)
	return rtt, err
}

func (p *Session) drop() {
	p.idle.Stop()
	if p.kept != nil {
		_ = p.kept.Close() // nothing is under way on it
		p.kept = nil
	}
}

// closeIdle closes the connection, unless it is in use.
func (p *Session) closeIdle() {
	select {
	case p.turn <- struct{}{}:
		p.drop()
		<-p.turn
	default:
	}
}

// Close ends a probe in flight, waits for it, and closes the connection. Later
// probes return [ErrNotProbed]. Close may be called twice and always returns nil.
func (p *Session) Close() error {
	p.end()
	p.turn <- struct{}{}
	p.drop()
	<-p.turn
	return nil
}
