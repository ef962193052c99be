package proximahttp

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// mirrorer has copies of requests sent. *[selector.Selector] is one.
type mirrorer interface {
	Mirror(r selector.Request, copyOf func() func(context.Context, *selector.Pick) error)
}

// mostMirrored is how much of the answer to a copy is read, so that its connection can be
// used again.
const mostMirrored = 256 << 10

// mirror has a copy of the request sent, if the policy of the service wants that.
func (c *call) mirror() {
	m, ok := c.transport.selector.(mirrorer)
	if !ok || c.req.Header.Get("Upgrade") != "" {
		return
	}
	m.Mirror(c.ask, c.copyOf)
}

// copyOf returns a function that sends a copy of the request, nil if its body cannot be had
// again. The request may be changed by its caller as soon as its answer was read, so
// nothing of it is read later.
func (c *call) copyOf() func(context.Context, *selector.Pick) error {
	body, ok := c.body.again()
	if !ok {
		return nil
	}
	out := c.req.Clone(context.Background())
	out.Body, out.GetBody, out.Cancel = body, nil, nil //nolint:staticcheck // the caller's Cancel is not for the copy
	return func(ctx context.Context, p *selector.Pick) error { return c.send(ctx, out, p) }
}

// send sends a copy, and reads the answer.
func (c *call) send(ctx context.Context, out *http.Request, p *selector.Pick) error {
	out = c.to(out.WithContext(context.WithValue(ctx, attemptKey{}, &Attempt{Instance: p.Instance, Circle: p.Circle(), Number: 1})), p)
	resp, err := c.transport.base.RoundTrip(out)
	switch {
	case err != nil:
		return err
	case resp == nil:
		return errNoResponse
	case resp.Body == nil:
		resp.Body = http.NoBody
	}
	defer resp.Body.Close()
	if result := outcome(c.classify(resp, func(error) {}), resp); result != nil {
		return result
	}
	if _, err := io.CopyN(io.Discard, resp.Body, mostMirrored); err != nil && err != io.EOF { //nolint:errorlint // CopyN returns EOF itself
		return fmt.Errorf("read the answer to a copy: %w", err)
	}
	return nil
}
