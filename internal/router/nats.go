package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	// serviceName is shown by `nats micro ls`.
	serviceName    = "proxima"
	serviceVersion = "0.1.0"

	// flushTimeout is how long the server may take to confirm the subscriptions.
	flushTimeout = 2 * time.Second
)

// doorCounts are shown by `nats micro stats`, whose own figures only measure the
// start of a goroutine.
type doorCounts struct {
	inFlight, answers, errors atomic.Int64
}

// MarshalJSON writes what [micro.Config.StatsHandler] shows.
func (c *doorCounts) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]int64{
		"in_flight": c.inFlight.Load(), "answers": c.answers.Load(), "errors": c.errors.Load(),
	})
}

// call is one request by NATS.
type call struct {
	door    string
	service string
	msg     *nats.Msg   // with the headers as they came
	header  nats.Header // the same in the spelling of HTTP
	limit   limit
	attempt limit
	span    telemetry.Span
}

// natsDoors answers at the endpoints of the NATS service "proxima".
type natsDoors struct {
	nc        *nats.Conn
	bucket    string
	location  topology.Location
	timeout   time.Duration // of a call
	attempt   time.Duration // of one attempt; 0: until the instance seems to hang
	selector  *selector.Selector
	lookup    *lookup
	log       *slog.Logger
	endpoints map[string]answerNATS
	counts    map[string]*doorCounts // by endpoint
	requests  requestCounts
	calls     *gate
	run       context.Context    // of the router; calls end with it
	stop      context.CancelFunc // ends run

	mu      sync.Mutex // guards what follows
	service micro.Service
	closed  bool // do not open any more

	opened    chan struct{} // closed after open
	closeOnce sync.Once
}

// answerNATS answers one request.
type answerNATS func(context.Context, *call) (*nats.Msg, error)

// open begins to answer when the registry has been read: until then other
// routers get the calls.
func (d *natsDoors) open(read <-chan struct{}) {
	select {
	case <-read:
	case <-d.run.Done():
		return
	}
	d.mu.Lock()
	if !d.closed {
		if err := d.offer(); err != nil {
			d.log.Error("calls by NATS are not answered", "error", err)
		}
	}
	d.mu.Unlock()
	_ = d.nc.FlushTimeout(flushTimeout) // without a server: nats.go subscribes at the next one
	close(d.opened)
}

// offer makes the NATS service. All routers of a bucket are one queue group: with
// a group per zone, a router in each zone would get and execute every call.
func (d *natsDoors) offer() error {
	d.counts = make(map[string]*doorCounts, len(d.endpoints))
	for name := range d.endpoints {
		d.counts[name] = &doorCounts{}
	}
	svc, err := micro.AddService(d.nc, micro.Config{
		Name: serviceName, Version: serviceVersion,
		Description: "Passes calls to the nearest instance of a service",
		Metadata:    map[string]string{"location": d.location.String(), "bucket": d.bucket},
		QueueGroup:  d.bucket + "-routers",
		StatsHandler: func(e *micro.Endpoint) any {
			return d.counts[e.Name]
		},
	})
	if err != nil {
		return fmt.Errorf("router: offer the NATS service: %w", err)
	}
	d.service = svc
	group := svc.AddGroup(d.bucket)
	for name, answer := range d.endpoints {
		if err := group.AddEndpoint(name, d.endpoint(name, answer), micro.WithEndpointSubject(name+".>")); err != nil {
			return fmt.Errorf("router: offer %s.%s.>: %w", d.bucket, name, err)
		}
	}
	return nil
}

// leave takes no more requests and waits for the running ones, until ctx ends at
// most; then it gives them up.
func (d *natsDoors) leave(ctx context.Context) { d.closeOnce.Do(func() { d.drain(ctx) }) }

func (d *natsDoors) drain(ctx context.Context) {
	d.mu.Lock()
	d.closed = true
	service := d.service
	d.mu.Unlock()
	if service != nil {
		if err := service.Stop(); err != nil {
			d.log.Warn("the NATS service was not stopped in order", "error", err)
		}
		d.handOver(ctx)
	}
	d.calls.close()
	if d.calls.wait(ctx) != nil {
		d.stop()
		<-d.calls.empty
	}
}

// handOver waits until the requests that the server has sent have been given to the
// handlers: after a flush they are in the queues of nats.go, after a barrier they
// were handled.
func (d *natsDoors) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	handled := make(chan struct{})
	if d.nc.IsConnected() && d.nc.FlushWithContext(ctx) == nil && d.nc.Barrier(func() { close(handled) }) == nil {
		select {
		case <-handled:
		case <-ctx.Done():
		}
	}
}

// endpoint makes a handler that starts a goroutine for each request: micro calls
// the handler of an endpoint for one request at a time, and a slow instance must
// not delay calls to others.
func (d *natsDoors) endpoint(door string, answer answerNATS) micro.HandlerFunc {
	counts := d.counts[door]
	return func(req micro.Request) {
		began := time.Now()
		subject := req.Subject()
		c := &call{door: door, service: strings.TrimPrefix(subject, d.bucket+"."+door+"."), msg: &nats.Msg{
			Subject: subject, Reply: req.Reply(), Header: nats.Header(req.Headers()), Data: req.Data(),
		}}
		c.header = canonical(c.msg.Header)
		var err error
		if c.limit, err = limitOf(d.timeout, 0, c.header.Get(headerTimeout)); err != nil {
			d.finish(c, counts, nil, err, began)
			return
		}
		if reserved(d.bucket, c.msg.Reply) {
			counts.errors.Add(1)
			d.requests.add("nats_"+door, c.service, "400", began)
			return
		}
		if err := d.calls.enter(); err != nil {
			d.finish(c, counts, nil, err, began)
			return
		}
		counts.inFlight.Add(1)
		go func() { // close waits for it
			defer d.calls.leave()
			defer counts.inFlight.Add(-1)
			d.serve(c, counts, answer, began)
		}()
	}
}

func (d *natsDoors) serve(c *call, counts *doorCounts, answer answerNATS, began time.Time) {
	d.limitByPolicy(c)
	ctx, cancel := context.WithTimeout(d.run, c.limit.Duration)
	defer cancel()
	ctx, c.span = telemetry.Start(telemetry.Extract(ctx, c.msg.Header), d.bucket+"."+c.door, d.requests.label(c.service))
	reply, err := answer(ctx, c)
	if err != nil && d.run.Err() != nil {
		err = errStopping
	}
	if late, ok := errors.AsType[*timeoutError](err); ok {
		d.requests.late(c.service, late)
	}
	c.span.End(err)
	d.finish(c, counts, reply, err, began)
}

// limitByPolicy has a call take as long as the policy of its service allows.
func (d *natsDoors) limitByPolicy(c *call) {
	c.attempt = limit{attemptLimit, d.attempt}
	if _, err := d.lookup.endpoints(c.service); c.door != "route" || err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(d.run, c.limit.Duration)
	defer cancel()
	of, err := d.selector.Limits(ctx, c.service)
	if err != nil {
		return // the pick has the same error
	}
	c.attempt = attempts(d.attempt, of)
	if l, err := limitOf(d.timeout, of.Timeout, c.header.Get(headerTimeout)); err == nil { // it was read before
		c.limit = l
	}
}

// finish sends the answer or the error, and counts it.
func (d *natsDoors) finish(c *call, counts *doorCounts, reply *nats.Msg, err error, began time.Time) {
	code := "200"
	if err == nil {
		if s := reply.Header.Get(headerStatus); s != "" {
			code = s
		}
		if err = d.send(c, reply); err != nil {
			err = &callError{fmt.Errorf("router: the answer cannot be sent by NATS, ask by HTTP: %w", err)}
		}
	}
	counts.answers.Add(1)
	if err != nil {
		counts.errors.Add(1)
		status := codeOf(err)
		code = strconv.Itoa(status)
		header := nats.Header{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {printable(err.Error())}}
		if status == http.StatusTooManyRequests {
			header.Set("Retry-After", strconv.Itoa(retryAfter(status, err)))
		}
		if err := d.send(c, &nats.Msg{Header: header}); err != nil {
			d.log.Warn("a call could not be answered", "service", c.service, "error", err)
		}
	}
	d.requests.add("nats_"+c.door, c.service, code, began)
}

// send sends an answer, if the caller wants one.
func (d *natsDoors) send(c *call, reply *nats.Msg) error {
	if c.msg.Reply == "" {
		return nil
	}
	reply.Subject = c.msg.Reply
	return d.nc.PublishMsg(reply)
}

// printable makes a text fit for a header: one line.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

// reserved reports whether a subject belongs to the NATS server, to the registry
// or to the routers. As the reply subject of a caller it is refused: the server
// does not check that the caller may publish there, and would take the answer for
// a command or a record.
func reserved(bucket, subject string) bool {
	first, _, _ := strings.Cut(subject, ".")
	return strings.HasPrefix(first, "$") || first == bucket || first == serviceName
}
