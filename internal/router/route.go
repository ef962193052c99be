package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/internal/router/guard"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// relay passes messages on to instances.
type relay struct {
	nc        *nats.Conn
	id        string // of the router, for Via
	bucket    string
	lookup    *lookup
	selector  *selector.Selector
	transport *proximahttp.Transport
}

// route passes a message on to the nearest instance: by HTTP to those that
// have such an endpoint, else on their subject. The answer has the instance
// and its status in Proxima-Instance and Proxima-Status.
func (r *relay) route(ctx context.Context, c *call) (*nats.Msg, error) {
	path, err := parsePath(c.msg.Header.Get(headerPath))
	if err != nil {
		return nil, err
	}
	method, err := parseMethod(c.msg.Header.Get(headerMethod))
	if err != nil {
		return nil, err
	}
	from, err := parseFrom(headerFrom, c.msg.Header.Get(headerFrom))
	if err != nil {
		return nil, err
	}
	have, err := r.lookup.protocols(c.service, events.HTTP, events.HTTPS, events.NATS)
	if err != nil {
		return nil, err
	}
	err = &selector.NoInstanceError{Service: c.service}
	for _, protocol := range have {
		var reply *nats.Msg
		if protocol == events.NATS {
			reply, err = r.routeNATS(ctx, c, method, from)
		} else {
			path.Scheme, path.Host = protocol, c.service
			reply, err = r.routeHTTP(withFrom(ctx, from), c, &http.Request{Method: method, URL: path})
		}
		if err == nil {
			return reply, nil
		}
		if !errors.Is(err, selector.ErrNoInstance) { // perhaps others speak the next protocol
			break
		}
	}
	return nil, called(ctx, err)
}

// routeHTTP sends a message as an HTTP request.
func (r *relay) routeHTTP(ctx context.Context, c *call, req *http.Request) (*nats.Msg, error) {
	req = req.WithContext(ctx)
	var err error
	if req.Header, err = toHTTP(c.msg.Header); err != nil {
		return nil, err
	}
	if len(c.msg.Data) > 0 {
		req.ContentLength = int64(len(c.msg.Data))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.msg.Data)), nil }
		req.Body, _ = req.GetBody()
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "proxima-router")
	}
	req.Header.Add("Via", "1.1 "+r.id)
	resp, err := r.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	most := r.nc.MaxPayload()
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, fmt.Errorf("router: read the answer of %s: %w", c.service, err)
	}
	if int64(len(body)) > most {
		return nil, fmt.Errorf("router: the answer is larger than a NATS message may be (%d bytes), ask by HTTP", most)
	}
	reply := &nats.Msg{Header: toNATS(resp.Header), Data: body}
	reply.Header.Set(headerStatus, strconv.Itoa(resp.StatusCode))
	if in := proximahttp.Instance(resp); in != nil {
		reply.Header.Set(headerInstance, in.ID)
	}
	return reply, nil
}

// routeNATS sends a message to an instance's own subject.
func (r *relay) routeNATS(ctx context.Context, c *call, method string, from *topology.Location) (*nats.Msg, error) {
	ask := selector.Request{Service: c.service, Protocol: events.NATS, From: from, NonIdempotent: !proximahttp.Idempotent(method)}
	var reply *nats.Msg
	err := r.selector.DoFor(ctx, ask, func(ctx context.Context, p *selector.Pick) error {
		c.span.Picked(p.ID, p.Circle())
		answer, err := r.request(ctx, c, p.Instance)
		if answer != nil {
			reply = answer
		}
		p.Done(err)
		return err
	})
	if reply != nil {
		return reply, nil // though it may say that the instance failed
	}
	return nil, err
}

// request asks one instance. It may return both an answer and what it means to
// the instance.
func (r *relay) request(ctx context.Context, c *call, in *events.Instance) (*nats.Msg, error) {
	subject := in.Endpoints[events.NATS]
	if forbidden(r.bucket, subject) {
		return nil, selector.NotSent(fmt.Errorf("%w: subject %s", guard.ErrForbidden, subject))
	}
	answer, err := r.nc.RequestMsgWithContext(ctx, &nats.Msg{
		Subject: subject, Data: c.msg.Data, Header: telemetry.Inject(ctx, passNATS(c.msg.Header)),
	})
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		// What a refused connection is to other protocols.
		return nil, selector.NotSent(fmt.Errorf("router: instance %s: nobody listens on %s: %w", in.ID, subject, syscall.ECONNREFUSED))
	case err != nil:
		return nil, fmt.Errorf("router: instance %s: %w", in.ID, err)
	}
	return fromNATS(in, answer)
}

// forbidden says whether an instance's subject leads where no service is: to
// the server itself, to somebody's inbox, or to the registry and the routers.
// Calls go out with the router's rights.
func forbidden(bucket, subject string) bool {
	return strings.HasPrefix(subject, "_") || reserved(bucket, subject)
}

// fromNATS makes the answer of an instance. What a NATS service says of its
// own failure is passed on; the error tells what it means to the instance.
func fromNATS(in *events.Instance, answer *nats.Msg) (*nats.Msg, error) {
	reply := &nats.Msg{Header: passNATS(answer.Header), Data: answer.Data}
	status := http.StatusOK
	code, said := answer.Header.Get(micro.ErrorCodeHeader), answer.Header.Get(micro.ErrorHeader)
	if code != "" || said != "" {
		reply.Header.Set(micro.ErrorCodeHeader, code)
		reply.Header.Set(micro.ErrorHeader, said)
		status = http.StatusInternalServerError
		if n, err := strconv.Atoi(code); err == nil && n >= 100 && n <= 999 {
			status = n
		}
	}
	reply.Header.Set(headerStatus, strconv.Itoa(status))
	reply.Header.Set(headerInstance, in.ID)
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return reply, fmt.Errorf("router: instance %s: status %d", in.ID, status)
	}
	if status >= 500 {
		return reply, selector.Permanent(fmt.Errorf("router: instance %s: status %d", in.ID, status))
	}
	return reply, nil
}
