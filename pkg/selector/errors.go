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
	// ErrUnknownService says that the registry lists no instance of the service.
	ErrUnknownService = errors.New("selector: unknown service")
	// ErrNoInstance is what every [NoInstanceError] is.
	ErrNoInstance = errors.New("selector: no usable instance")
	// ErrNoSnapshot says that nothing is known of the service yet, because
	// the registry has not answered.
	ErrNoSnapshot = errors.New("selector: the registry has not answered yet")
	// ErrBudget says that a call was not retried because too many calls to
	// the service are retries already.
	ErrBudget = errors.New("selector: the retry budget is used up")
	// ErrClosed says that the selector was closed.
	ErrClosed = errors.New("selector: closed")
)

// CircleCount says how many instances of a circle can be used, and why the
// others cannot. Each instance is in one of the counts beside Total.
type CircleCount struct {
	Circle    string `json:"circle"`
	Total     int    `json:"total"`
	Usable    int    `json:"usable"`
	Open      int    `json:"open"` // breakers
	Draining  int    `json:"draining"`
	NotReady  int    `json:"not_ready"`
	Suspect   int    `json:"suspect"`
	Evacuated int    `json:"evacuated"`
	Dead      int    `json:"dead"`  // see [Standing]
	Other     int    `json:"other"` // no endpoint of the wanted protocol
}

// NoInstanceError says that the service is listed and none of its instances
// can be picked. It is [ErrNoInstance].
type NoInstanceError struct {
	Service string
	Circles []CircleCount // of circles that have instances, nearest first
	Avoided int           // instances that could have been picked and were not wanted
}

// nothing is the error when a table had nothing to pick.
func (v *view) nothing(t *table.Table) error {
	if t.Size == 0 {
		v.svc.asked.Store(int64(v.svc.Now()))
		return fmt.Errorf("%w %q", ErrUnknownService, v.svc.name)
	}
	// What can be picked and was not: that is what the request avoids.
	e := &NoInstanceError{Service: v.svc.name, Avoided: t.Pickable()}
	for i := range uint8(len(v.svc.Assumed)) {
		if c := circleCount(t, i); c.Total > 0 {
			e.Circles = append(e.Circles, c)
		}
	}
	return e
}

func circleCount(t *table.Table, circle uint8) CircleCount {
	return CircleCount{
		Circle: t.Name(circle), Total: t.Instances(circle),
		Usable: t.Count(circle, table.Usable), Open: t.Count(circle, table.Open), Draining: t.Count(circle, table.Draining, table.Leaving), NotReady: t.Count(circle, table.NotReady),
		Suspect: t.Count(circle, table.Suspect), Dead: t.Count(circle, table.Dead), Evacuated: t.Count(circle, table.Evacuated, table.Abandoned), Other: t.Count(circle, table.Foreign),
	}
}

func (e *NoInstanceError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "selector: no usable instance of %s", e.Service)
	for i, c := range e.Circles {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s has %d", sep, c.Circle, c.Total)
		for _, part := range []struct {
			n    int
			what string
		}{
			{c.Usable, "usable"},
			{c.Open, "with an open breaker"},
			{c.Draining, "draining"},
			{c.NotReady, "not ready"},
			{c.Suspect, "suspect"},
			{c.Evacuated, "evacuated"},
			{c.Dead, "dead"},
			{c.Other, "without the protocol"},
		} {
			if part.n > 0 {
				fmt.Fprintf(&b, ", %d %s", part.n, part.what)
			}
		}
	}
	if e.Avoided > 0 {
		fmt.Fprintf(&b, "; %d not wanted or tried already", e.Avoided)
	}
	return b.String()
}

// Is makes every NoInstanceError an [ErrNoInstance].
func (e *NoInstanceError) Is(target error) bool { return target == ErrNoInstance }

// What callers say about an error by wrapping it.
type (
	permanentError struct{ error }
	notSentError   struct{ error }
)

func (e *permanentError) Unwrap() error { return e.error }
func (e *notSentError) Unwrap() error   { return e.error }

// Permanent marks an error that no other instance would answer differently,
// such as "no such user". It is not retried and not the instance's fault. Do
// returns err itself. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// NotSent marks an error that came before anything was sent, so that the call
// may be retried whatever it does. Errors of dialling are known without it.
// NotSent(nil) is nil.
func NotSent(err error) error {
	if err == nil {
		return nil
	}
	return &notSentError{err}
}

// Sent says whether a call that ended with err may have reached the instance.
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

func isPermanent(err error) bool {
	_, ok := errors.AsType[*permanentError](err)
	return ok
}

// fault is err as the instance's breaker shall see it: nil when the instance
// did nothing wrong.
func fault(err error) error {
	if isPermanent(err) {
		return nil
	}
	return err
}

func isCanceled(err error) bool { return errors.Is(err, context.Canceled) }
