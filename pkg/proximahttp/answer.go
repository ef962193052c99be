package proximahttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// answer is the body of a response. Its end is the end of the pick.
type answer struct {
	io.ReadCloser
	req     *http.Request // the caller's
	pick    selector.Pick
	result  error // when nothing goes wrong from now on
	latency time.Duration
	ended   atomic.Bool
}

// report ends the pick when the body of resp has ended.
func report(resp *http.Response, req *http.Request, pick *selector.Pick, result error, latency time.Duration) {
	if resp.Body == http.NoBody {
		pick.DoneAfter(result, latency)
		return
	}
	a := &answer{ReadCloser: resp.Body, req: req, pick: pick.Keep(), result: result, latency: latency}
	resp.Body = a
	if w, ok := a.ReadCloser.(io.Writer); ok {
		resp.Body = &connection{a, w}
	}
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	switch {
	case err == nil:
	case err == io.EOF:
		a.end(a.result)
	case interrupted(a.req) != nil:
		// Also a deadline: the instance answered, and only the caller knows how long
		// its body may take.
		a.end(context.Canceled)
	default:
		a.end(fmt.Errorf("read the response's body: %w", err))
	}
	return n, err
}

func (a *answer) Close() error {
	a.end(a.result) // first, because Close makes a Read of another goroutine fail
	return a.ReadCloser.Close()
}

func (a *answer) end(result error) {
	if a.ended.CompareAndSwap(false, true) {
		a.pick.DoneAfter(result, a.latency)
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

// verdict is how a status counts for the instance. A nil result is a success.
func verdict(status int) (failed bool, result error) {
	switch {
	case status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return true, errFailed
	case status >= 500, status == http.StatusTooManyRequests:
		return false, errAnswer
	default:
		return false, nil
	}
}

var (
	errFailed = errors.New("status 502, 503 or 504")
	// errAnswer counts neither as success nor as failure: an error that came quickly
	// must not attract more requests.
	errAnswer = fmt.Errorf("status 429 or 5xx: %w", context.Canceled)
)

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
