package proximahttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// answer is the body of a response. Its end is the end of the pick, if that goes on
// until then, and of the attempt's context.
type answer struct {
	io.ReadCloser
	req    *http.Request // the caller's
	pick   selector.Pick
	giveUp context.CancelCauseFunc
	rest   func() // the connection has nothing to do any more
	ended  atomic.Bool
}

// follow ends the pick, and the context of the attempt, when the body of resp has ended.
// The pick of a call that has ended before stays as it is.
func follow(resp *http.Response, req *http.Request, pick *selector.Pick, giveUp context.CancelCauseFunc, rest func()) {
	if resp.Body == http.NoBody {
		pick.Done(nil)
		giveUp(nil)
		rest()
		return
	}
	a := &answer{ReadCloser: resp.Body, req: req, pick: pick.Keep(), giveUp: giveUp, rest: rest}
	resp.Body = a
	if w, ok := a.ReadCloser.(io.Writer); ok {
		resp.Body = &connection{a, w}
	}
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		a.end(nil)
	case interrupted(a.req) != nil:
		// Also a deadline: the instance answered, and only the caller knows how long
		// its body may take.
		a.end(context.Canceled)
	default:
		a.end(fmt.Errorf("read the response's body: %w", err))
	}
	a.giveUp(nil) // now that the connection is free, or lost
	return n, err
}

func (a *answer) Close() error {
	a.end(nil) // first, because Close makes a Read of another goroutine fail
	err := a.ReadCloser.Close()
	a.giveUp(nil)
	return err
}

func (a *answer) end(result error) {
	if a.ended.CompareAndSwap(false, true) {
		a.pick.Done(result)
		a.rest()
	}
}

// connection is the body of a response 101, the connection itself.
type connection struct {
	*answer
	io.Writer
}

// CloseWrite is called by [net/http/httputil.ReverseProxy].
func (c *connection) CloseWrite() error {
	if w, ok := c.Writer.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return fmt.Errorf("proximahttp: close the writing side: %w", http.ErrNotSupported)
}

// ClassifyResponse is the default of [Options.Classify]: 429, and 503 with a
// Retry-After, are [selector.Backpressure]; other 5xx but 501 and 505 are a
// [selector.Fault]; 4xx, 501 and 505 are an [selector.Answer]; what is left is a
// [selector.Success].
func ClassifyResponse(resp *http.Response) selector.Outcome {
	return ClassifyStatus(resp.StatusCode, resp.Header.Get("Retry-After") != "")
}

// ClassifyStatus is [ClassifyResponse] for a status alone; retryAfter is whether it came
// with a time after which to try again.
func ClassifyStatus(status int, retryAfter bool) selector.Outcome {
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable && retryAfter:
		return selector.Backpressure
	case status == http.StatusNotImplemented, status == http.StatusHTTPVersionNotSupported:
		return selector.Answer
	case status >= http.StatusInternalServerError, status < http.StatusContinue:
		return selector.Fault
	case status >= http.StatusBadRequest:
		return selector.Answer
	}
	return selector.Success
}

// outcome is a status as the error of a call, marked with what it means. It is nil for a
// success.
func outcome(o selector.Outcome, resp *http.Response) error {
	switch o {
	case selector.Success:
		return nil
	case selector.Answer:
		return errAnswer
	case selector.Backpressure:
		return selector.Overloaded(statusError(resp.StatusCode), retryAfter(resp.Header.Get("Retry-After"), time.Now()))
	case selector.Fault:
		return statusError(resp.StatusCode)
	}
	return errIgnored
}

var (
	errAnswer = selector.Permanent(errors.New("an error that the instance answered"))
	// errIgnored is for outcomes that a response cannot have.
	errIgnored = fmt.Errorf("not counted: %w", context.Canceled)
)

// statusError is the status of a response that failed.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

// retryAfter reads the value of the header of that name: seconds, or a date.
func retryAfter(value string, now time.Time) time.Duration {
	switch seconds, err := strconv.ParseUint(value, 10, 31); {
	case err == nil:
		return time.Duration(seconds) * time.Second
	case errors.Is(err, strconv.ErrRange):
		return math.MaxInt32 * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// interrupted returns how the caller ended the request, if it did:
// [context.Canceled] or [context.DeadlineExceeded].
func interrupted(req *http.Request) error {
	ctx := req.Context()
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-req.Cancel: //nolint:staticcheck // http.Client.Timeout uses it, and may be ahead of the context
		if t, ok := ctx.Deadline(); ok && !time.Now().Before(t) {
			return context.DeadlineExceeded
		}
		return context.Canceled
	default:
		return nil
	}
}
