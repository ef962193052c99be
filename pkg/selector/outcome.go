package selector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// Outcome is what the end of a call says of the instance that was called:
//
//	outcome       the breaker         balancing                          tried again
//	Success       success, or slow    the duration is learned            no
//	Answer        success             no faster than others              no
//	Backpressure  opens, if asked to  as 4 times the usual duration      yes
//	Fault         failure             as 4 times the usual duration      yes
//	Canceled      failure if late     at least that long, if late        no
//	Local         nothing             nothing                            yes
//
// Calls that end sooner than usual with another outcome than Success hold their slot for
// the usual time, so that an instance does not attract calls by failing quickly. Usual is
// what the successes of the same circle take lately. A call is late when it was given up
// after 4 times the usual duration, 5 ms, and all that a success took in the last minutes, or
// as the fifth one in a row without a success. A Fault by [context.DeadlineExceeded] that
// is not late is Canceled: the caller had less time than calls take. A success is slow when
// it took more than a second and 10 times the usual duration: many of them open the
// breaker. docs/outcomes.md says how the statuses of protocols map onto outcomes.
type Outcome uint8

// The outcomes.
const (
	Success      = Outcome(table.Success)
	Answer       = Outcome(table.Answer)       // the instance works, and the call is at fault: no other instance would do better
	Backpressure = Outcome(table.Backpressure) // the instance works, and asks for fewer calls
	Fault        = Outcome(table.Fault)        // the instance failed
	Canceled     = Outcome(table.Canceled)     // the caller gave up
	Local        = Outcome(table.Local)        // the caller could not call: it has no file descriptors, no route, or no name server that answers
)

var outcomeNames = [...]string{Success: "success", Answer: "answer", Backpressure: "backpressure", Fault: "fault", Canceled: "canceled", Local: "local"}

// String is the name in metrics, such as "success".
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// Classify is the default of [Retry.Classify]: nil is a Success, an error marked
// [Permanent] an Answer, one marked [Overloaded] is Backpressure, [context.Canceled] is
// Canceled, an error of the caller's own system or name resolution is Local, and any
// other error is a Fault, also [context.DeadlineExceeded] when the deadline is that of the
// caller's own context: a hung instance looks like that.
func Classify(err error) Outcome {
	switch {
	case err == nil:
		return Success
	case isPermanent(err):
		return Answer
	case errors.Is(err, context.Canceled):
		return Canceled
	case isLocal(err):
		return Local
	}
	if _, ok := errors.AsType[*overloadedError](err); ok {
		return Backpressure
	}
	return Fault
}

// isLocal reports whether the caller itself could not call any instance.
func isLocal(err error) bool {
	for _, local := range [...]syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.ENETDOWN, syscall.ENETUNREACH,
	} {
		if errors.Is(err, local) {
			return true
		}
	}
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && !dns.IsNotFound // that there is no such name is the instance's
}

type overloadedError struct {
	error
	after time.Duration
}

func (e *overloadedError) Unwrap() error { return e.error }

// Overloaded marks an error by which an instance asks for fewer calls, such as status
// 429: the call is tried at another instance, and this one gets fewer calls, without being
// faulty. If after is above 0 it gets none for that time, at most a minute, unless there is
// no other. Overloaded(nil, after) is nil.
func Overloaded(err error, after time.Duration) error {
	if err == nil {
		return nil
	}
	return &overloadedError{err, after}
}

// retryAfter is how long an instance asked to be left alone.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*overloadedError](err); ok {
		return e.after
	}
	return 0
}
