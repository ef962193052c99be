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
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/internal/router/forwarding"
	"github.com/proxima-discovery/proxima/internal/router/guard"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

// relay passes NATS messages on to instances.
type relay struct {
	nc        *nats.Conn
	id        string // of the router, for Via
	bucket    string
	lookup    *lookup
	selector  *selector.Selector
	transport *proximahttp.Transport
	keys      *keys
}

// route passes a message on to the nearest instance: by HTTP if the service has
// instances with such an endpoint, else on the subject of one. The answer has the
// id of the instance and its status in Proxima-Instance and Proxima-Status.
func (r *relay) route(ctx context.Context, c *call) (*nats.Msg, error) {
	path, err := parsePath(c.header.Get(headerPath))
	if err != nil {
		return nil, err
	}
	method, err := parseMethod(c.header.Get(headerMethod))
	if err != nil {
		return nil, err
	}
	from, err := parseFrom(headerFrom, c.header.Get(headerFrom))
	if err != nil {
		return nil, err
	}
	suffix, err := parseEndpoint(c.header.Get(headerEndpoint))
	if err != nil {
		return nil, err
	}
	have, err := r.lookup.endpoints(c.service, events.HTTP+suffix, events.HTTPS+suffix, events.NATS+suffix)
	if err != nil {
		return nil, err
	}
	err = &selector.NoInstanceError{Service: c.service}
	for _, endpoint := range have {
		asks := caller{from: from, where: c.header.Get(headerWhere), endpoint: endpoint, attempt: c.attempt.Duration}
		asks.key, asks.given = r.keys.of(http.Header(c.header))
		protocol, _ := events.CutEndpoint(endpoint)
		var reply *nats.Msg
		if protocol == events.NATS {
			reply, err = r.routeNATS(ctx, c, method, asks)
		} else {
			path.Scheme, path.Host = protocol, c.service
			reply, err = r.routeHTTP(withCaller(ctx, asks), c, &http.Request{Method: method, URL: path})
		}
		if err == nil {
			return reply, nil
		}
		if !errors.Is(err, selector.ErrNoInstance) { // instances with the next protocol may be usable
			break
		}
	}
	return nil, callFailed(ctx, c.limit, c.attempt, err)
}

// routeHTTP sends a message as an HTTP request.
func (r *relay) routeHTTP(ctx context.Context, c *call, req *http.Request) (*nats.Msg, error) {
	if end, ok := ctx.Deadline(); ok {
		ctx = context.WithValue(ctx, remainsKey{}, deadline(end))
	}
	req = req.WithContext(ctx)
	var err error
	if req.Header, err = toHTTP(c.header); err != nil {
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
	r.tell(ctx, func(left string) { req.Header.Set(headerTimeout, left) })
	resp, err := r.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := meaningful(resp, c.service); err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols { // its body is the connection, and does not end with ctx
		return nil, fmt.Errorf("router: an instance of %s changes the protocol, which was not asked for", c.service)
	}
	most := r.nc.MaxPayload()
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, fmt.Errorf("router: read the answer of %s: %w", c.service, err)
	}
	if int64(len(body)) > most {
		return nil, fmt.Errorf("router: the answer is larger than a NATS message may be (%d bytes), ask by HTTP", most)
	}
	(&forwarding.Site{Hosts: namesOf(c.service, proximahttp.Instance(resp))}).Rewrite(resp.Header)
	for name, values := range resp.Trailer { // a message has none
		if resp.Header[name] == nil {
			resp.Header[name] = values
		}
	}
	reply := &nats.Msg{Header: toNATS(resp.Header), Data: body}
	reply.Header.Set(headerStatus, strconv.Itoa(resp.StatusCode))
	if in := proximahttp.Instance(resp); in != nil {
		reply.Header.Set(headerInstance, in.ID)
	}
	return reply, nil
}

// routeNATS sends a message to the subject of an instance.
func (r *relay) routeNATS(ctx context.Context, c *call, method string, asks caller) (*nats.Msg, error) {
	ask := selector.Request{
		Service: c.service, Protocol: asks.endpoint, From: asks.from, Where: asks.where, Key: asks.key, DefaultKey: asks.given, Header: http.Header(c.header).Get,
		Timeout: -1, AttemptTimeout: asks.attempt, NonIdempotent: !proximahttp.Idempotent(method),
	}
	r.selector.Mirror(ask, func() func(context.Context, *selector.Pick) error {
		return func(ctx context.Context, p *selector.Pick) error {
			_, err := r.request(ctx, c, p.Instance, p.Endpoints[asks.endpoint])
			return err
		}
	})
	var reply *nats.Msg
	err := r.selector.DoFor(ctx, ask, func(ctx context.Context, p *selector.Pick) error {
		c.span.Picked(p.ID, p.Circle())
		return p.Try(ctx, func(ctx context.Context) error {
			answer, err := r.request(ctx, c, p.Instance, p.Endpoints[asks.endpoint])
			if answer != nil {
				reply = answer
			}
			return err
		})
	})
	if reply != nil {
		return reply, nil // also if it reports a failure of the instance
	}
	return nil, err
}

// request sends a message to a subject of one instance. It may return both an answer and an
// error: what the answer means for the breaker of the instance.
func (r *relay) request(ctx context.Context, c *call, in *events.Instance, subject string) (*nats.Msg, error) {
	if forbidden(r.bucket, subject) {
		return nil, selector.NotSent(fmt.Errorf("%w: subject %s", guard.ErrForbidden, subject))
	}
	header := passNATS(c.msg.Header)
	r.tell(ctx, func(left string) { header[headerTimeout] = []string{left} })
	answer, err := r.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Data: c.msg.Data, Header: telemetry.Inject(ctx, header)})
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		// The counterpart of a refused connection.
		return nil, selector.NotSent(fmt.Errorf("router: instance %s: no service listens on %s: %w", in.ID, subject, syscall.ECONNREFUSED))
	case err != nil:
		return nil, fmt.Errorf("router: instance %s: %w", in.ID, err)
	}
	return fromNATS(in, answer)
}

// tell tells what is left of the time for an answer.
func (r *relay) tell(ctx context.Context, set func(left string)) {
	if end, ok := ctx.Deadline(); ok {
		set(left(time.Until(end)))
	}
}

// forbidden reports whether a subject cannot be that of an instance: it belongs to
// the NATS server, to the inbox of a client, to the registry or to the routers.
// The router would publish there with its own permissions.
func forbidden(bucket, subject string) bool {
	return strings.HasPrefix(subject, "_") || reserved(bucket, subject)
}

// fromNATS makes the caller's answer from that of an instance. The error headers
// of a NATS service are passed on; the error is what they mean for the breaker of
// the instance.
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
	err := fmt.Errorf("router: instance %s: status %d", in.ID, status)
	switch proximahttp.ClassifyStatus(status, status == http.StatusServiceUnavailable) {
	case selector.Fault:
		return reply, err
	case selector.Backpressure:
		return reply, selector.Overloaded(err, 0)
	case selector.Answer:
		return reply, selector.Permanent(err)
	}
	return reply, nil
}
