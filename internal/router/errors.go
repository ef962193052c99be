package router

import (
	"context"
	"errors"
	"net/http"

	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/internal/router/registrar"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/subset"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var (
	errNoPath   = errors.New("router: there is nothing at this path")
	errMethod   = errors.New("router: the method is not allowed here")
	errBusy     = errors.New("router: too many calls at once, try again or add routers")
	errStopping = errors.New("router: this router is stopping")
	errDeadline = errors.New("router: no answer in time")
	errLoop     = errors.New("router: the call comes from this router: the instance's endpoint leads back here")
)

// statusCanceled is counted when the caller went away. It is never sent.
const statusCanceled = 499

// foreignError is the error of a browser that acts for a page of another site.
type foreignError struct{ error }

func (e *foreignError) Unwrap() error { return e.error }

// callError is the failure of an instance that may have got the call.
type callError struct{ error }

func (e *callError) Unwrap() error { return e.error }

// codeOf chooses the status of an error, for all doors alike.
func codeOf(err error) int {
	switch {
	case is[*badRequest](err), is[*events.FieldError](err), is[*topology.FieldError](err), is[*subset.Error](err):
		return http.StatusBadRequest
	case is[*foreignError](err):
		return http.StatusForbidden
	case errors.Is(err, errMethod):
		return http.StatusMethodNotAllowed
	case errors.Is(err, registrar.ErrConflict):
		return http.StatusConflict
	case is[*http.MaxBytesError](err):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errLoop):
		return http.StatusLoopDetected
	case errors.Is(err, errDeadline):
		return http.StatusGatewayTimeout
	case errors.Is(err, selector.ErrFull):
		return http.StatusTooManyRequests
	case errors.Is(err, selector.ErrNoInstance), errors.Is(err, selector.ErrNoSnapshot), errors.Is(err, selector.ErrClosed),
		errors.Is(err, kv.ErrUnavailable), errors.Is(err, kv.ErrFenced),
		errors.Is(err, errBusy), errors.Is(err, errStopping), errors.Is(err, directory.ErrIncomplete):
		return http.StatusServiceUnavailable
	case errors.Is(err, registrar.ErrNotListed), errors.Is(err, errNoPath), errors.Is(err, selector.ErrUnknownService), errors.Is(err, kv.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, context.Canceled):
		return statusCanceled
	case is[*callError](err):
		if !selector.Sent(err) {
			return http.StatusServiceUnavailable // no instance got it: as if there were none
		}
		return http.StatusBadGateway
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// callFailed makes the error of a call to an instance that failed with err. Its limit is
// that of ctx, and attempt that of one attempt.
func callFailed(ctx context.Context, l, attempt limit, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &timeoutError{l, err}
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded) && selector.Sent(err): // of the last attempt
		return &timeoutError{attempt, err}
	case errors.Is(err, selector.ErrUnknownService), errors.Is(err, selector.ErrNoInstance), errors.Is(err, selector.ErrFull), is[*subset.Error](err):
		return err
	}
	return &callError{err}
}
