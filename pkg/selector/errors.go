package selector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

var (
	// ErrUnknownService means that the registry lists no instance of the service. When
	// picks ask for very many unknown services, the answer may be up to a second old.
	ErrUnknownService = errors.New("selector: unknown service")
	// ErrNoInstance is matched by every [NoInstanceError].
	ErrNoInstance = errors.New("selector: no usable instance")
	// ErrNoSnapshot means that nothing is known of the service yet, because the
	// registry has not answered. The error of ctx is in it too only if ctx has ended,
	// not when [Options.FirstSnapshot] has passed.
	ErrNoSnapshot = errors.New("selector: the registry has not answered yet")
	// ErrBudget is in the error of a call that failed and was not retried, because
	// too many calls to the service are retries already, see [Retry.Budget]. The
	// error of the last attempt is in it too: errors.Is finds both.
	ErrBudget = errors.New("selector: the retry budget is used up")
	// ErrClosed means that the selector was closed.
	ErrClosed = errors.New("selector: closed")
)

// NoInstanceError means that the service is listed and none of its instances can be
// picked. It matches [ErrNoInstance].
type NoInstanceError struct {
	Service  string
	Protocol string   // that the request wants; empty: any
	Where    string   // the subset that the request is for; empty: all instances
	Listed   int      // instances of the service
	Matching int      // of them, those in the subset
	Usable   int      // of those
	Circles  []Circle // those that have instances, nearest first; only counts of instances are set
	Avoided  int      // instances that could have been picked, and were excluded or tried before
}

// noInstance is the error when no instance of a table was picked.
func (v *vantage) noInstance(t *table.Table, r *Request) error {
	svc := v.rules.svc
	listed := svc.Listed.Load()
	if t.Size == 0 && (v.subset == nil || listed == 0) {
		svc.lastAsked.Store(int64(svc.Now()))
		return unknownService(svc.name)
	}
	// What can be picked and was not is what the request excludes.
	e := &NoInstanceError{
		Service: svc.name, Protocol: r.Protocol, Avoided: t.Pickable(),
		Listed: int(listed), Matching: t.Size, Usable: t.Usable(),
	}
	if v.subset != nil {
		e.Where = v.subset.expr.String()
	}
	for i := range uint8(len(t.Assumed)) {
		if c := circleOf(t, i); c.Instances > 0 {
			e.Circles = append(e.Circles, c)
		}
	}
	return e
}

func unknownService(name string) error { return fmt.Errorf("%w %q", ErrUnknownService, name) }

func (e *NoInstanceError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "selector: no usable instance of %s", e.Service)
	if e.Where != "" {
		fmt.Fprintf(&b, " where %s (%d listed, %d match, %d usable)", e.Where, e.Listed, e.Matching, e.Usable)
	}
	for i, c := range e.Circles {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s has %d", sep, c.Name, c.Instances)
		for _, part := range []struct {
			n    int
			what string
		}{
			{c.Usable, "usable"},
			{c.Open, "with an open breaker"},
			{c.LastResort, "of weight 0"},
			{c.Unreachable, "that do not answer probes"},
			{c.Draining, "draining"},
			{c.NotReady, "not ready"},
			{c.Suspect, "suspect"},
			{c.Evacuated, "evacuated"},
			{c.Dead, "dead"},
			{c.Outside, "where calls must not go"},
			{c.OtherProtocol, "with no " + e.Protocol + " endpoint"},
		} {
			if part.n > 0 {
				fmt.Fprintf(&b, ", %d %s", part.n, part.what)
			}
		}
	}
	if e.Avoided > 0 {
		fmt.Fprintf(&b, "; %d excluded or tried before", e.Avoided)
	}
	return b.String()
}

// Is reports whether target is [ErrNoInstance].
func (e *NoInstanceError) Is(target error) bool { return target == ErrNoInstance }

// CallError is the error of a call that an instance could not answer. Its text is
//
//	catalog: 4 attempts, last at catalog-1 (zone): connection reset by peer
type CallError struct {
	Service  string
	Attempts int    // 0: there was none
	Instance string // ID of the last one that was tried, unique in its zone
	Circle   string // where that one is
	Err      error  // of the last attempt
}

func (e *CallError) Error() string {
	switch e.Attempts {
	case 0:
		return fmt.Sprintf("%s: %v", e.Service, e.Err)
	case 1:
		return fmt.Sprintf("%s: 1 attempt, at %s (%s): %v", e.Service, e.Instance, e.Circle, e.Err)
	}
	return fmt.Sprintf("%s: %d attempts, last at %s (%s): %v", e.Service, e.Attempts, e.Instance, e.Circle, e.Err)
}

// Unwrap returns the error of the last attempt.
func (e *CallError) Unwrap() error { return e.Err }

// Timeout is what [net.Error] and [net/url.Error] look for.
func (e *CallError) Timeout() bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.Err)
	return ok && t.Timeout()
}

// Marks that a call puts on its error.
type (
	permanentError struct{ error }
	notSentError   struct{ error }
)

func (e *permanentError) Unwrap() error { return e.error }
func (e *notSentError) Unwrap() error   { return e.error }

// Permanent marks an error that any other instance would return too, such as "no such
// user". The call is not retried, and counts as a success of the instance. Do returns
// err itself, without the mark. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// NotSent marks an error that came before anything was sent, so that the call may be
// retried even if it is not idempotent. Errors of dialling need no mark. NotSent(nil) is
// nil.
func NotSent(err error) error {
	if err == nil {
		return nil
	}
	return &notSentError{err}
}

// Sent reports whether a call that ended with err may have reached the instance.
func Sent(err error) bool {
	if err == nil {
		return true
	}
	if _, ok := errors.AsType[*notSentError](err); ok || breaker.Refused(err) {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	return !ok || op.Op != "dial"
}

// answer is the error that Permanent marked, or err as it is if that was wrapped
// again.
func answer(err error) error {
	if p, ok := err.(*permanentError); ok { //nolint:errorlint // unwraps exactly what Permanent wrapped
		return p.error
	}
	return err
}

func isPermanent(err error) bool {
	_, ok := errors.AsType[*permanentError](err)
	return ok
}

// fault is an error that is a failure of the instance as its breaker gets it: the breaker
// must not take it for something else.
func fault(err error) error {
	if errors.Is(err, context.Canceled) {
		return errFault
	}
	return err
}

var errFault = errors.New("a failure of the instance")
