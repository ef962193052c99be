package router

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/pkg/telemetry"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	// serviceName is what `nats micro ls` shows.
	serviceName    = "proxima"
	serviceVersion = "0.1.0"

	// headerRoom is what an answer's headers may take of a message.
	headerRoom = 4 << 10
)

// doorCounts are shown by `nats micro stats` besides what it counts itself,
// which is only the handing over to a goroutine.
type doorCounts struct {
	inFlight, answers, errors atomic.Int64
}

// MarshalJSON is what [micro.Config.StatsHandler] shows.
func (c *doorCounts) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]int64{
		"in_flight": c.inFlight.Load(), "answers": c.answers.Load(), "errors": c.errors.Load(),
	})
}

// call is one request by NATS.
type call struct {
	door    string
	service string
	msg     *nats.Msg
	span    telemetry.Span
}

// natsDoors are the endpoints of the NATS service "proxima".
type natsDoors struct {
	nc        *nats.Conn
	bucket    string
	location  topology.Location
	timeout   time.Duration // of a call
	grace     time.Duration // of the calls that run when the router stops
	log       *slog.Logger
	endpoints map[string]answerNATS
	counts    map[string]*doorCounts // by endpoint
	requests  requestCounts
	calls     *gate
	run       context.Context    // of the router, and so of calls
	stop      context.CancelFunc // ends it

	mu      sync.Mutex // guards what follows
	service micro.Service
	shut    bool // not to be opened any more

	opened    chan struct{} // closed when they are open, or never will be
	closeOnce sync.Once
}

// answerNATS answers one request.
type answerNATS func(context.Context, *call) (*nats.Msg, error)

// flushPatience is how long the server may take to know of the doors.
const flushPatience = 2 * time.Second

// open answers by NATS as soon as the registry has been read: until then
// calls are for the other routers.
func (d *natsDoors) open(read <-chan struct{}) {
	select {
	case <-read:
	case <-d.run.Done():
		return
	}
	d.mu.Lock()
	if !d.shut {
		if err := d.offer(); err != nil {
			d.log.Error("calls by NATS are not answered", "error", err)
		}
	}
	d.mu.Unlock()
	_ = d.nc.FlushTimeout(flushPatience) // without a server, nats.go offers it to the next
	close(d.opened)
}

// offer makes the NATS service. All routers of a bucket are one queue group: with
// a group per zone each zone would get, and execute, every call.
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
		if err := group.AddEndpoint(name, d.endpoint(name, answer), micro.WithEndpointSubject(name+".*")); err != nil {
			return fmt.Errorf("router: offer %s.%s.*: %w", d.bucket, name, err)
		}
	}
	return nil
}

// close takes no more requests and waits for those that run.
func (d *natsDoors) close() { d.closeOnce.Do(d.drain) }

func (d *natsDoors) drain() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.run), d.grace)
	defer cancel()
	d.mu.Lock()
	d.shut = true
	service := d.service
	d.mu.Unlock()
	if service != nil {
		if err := service.Stop(); err != nil {
			d.log.Warn("the NATS service was not stopped in order", "error", err)
		}
		// What the server has sent until now is in our queues after a flush,
		// and with its handlers after a barrier.
		handled := make(chan struct{})
		if d.nc.IsConnected() && d.nc.FlushWithContext(ctx) == nil && d.nc.Barrier(func() { close(handled) }) == nil {
			select {
			case <-handled:
			case <-ctx.Done():
			}
		}
	}
	d.calls.close()
	if d.calls.wait(ctx) != nil {
		d.log.Warn("calls did not end in time, giving them up", "calls", d.calls.count())
		d.stop()
		<-d.calls.empty
	}
}

// endpoint makes a handler that passes requests to goroutines: micro calls the
// handlers of an endpoint one after the other, and a slow instance must not
// hold up the calls to others.
func (d *natsDoors) endpoint(door string, answer answerNATS) micro.HandlerFunc {
	counts := d.counts[door]
	return func(req micro.Request) {
		began := time.Now()
		subject := req.Subject()
		c := &call{door: door, service: subject[strings.LastIndexByte(subject, '.')+1:], msg: &nats.Msg{
			Subject: subject, Reply: req.Reply(), Header: nats.Header(req.Headers()), Data: req.Data(),
		}}
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
	ctx, cancel := context.WithTimeout(d.run, d.timeout)
	defer cancel()
	ctx, c.span = telemetry.Start(telemetry.Extract(ctx, c.msg.Header), d.bucket+"."+c.door, d.requests.label(c.service))
	reply, err := answer(ctx, c)
	if err != nil && d.run.Err() != nil {
		err = errStopping
	}
	c.span.End(err)
	d.finish(c, counts, reply, err, began)
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
		code = strconv.Itoa(codeOf(err))
		header := nats.Header{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {printable(err.Error())}}
		if err := d.send(c, &nats.Msg{Header: header}); err != nil {
			d.log.Warn("a call could not be answered", "service", c.service, "error", err)
		}
	}
	d.requests.add("nats_"+c.door, c.service, code, began)
}

// send answers, unless nobody waits for an answer.
func (d *natsDoors) send(c *call, reply *nats.Msg) error {
	if c.msg.Reply == "" {
		return nil
	}
	reply.Subject = c.msg.Reply
	return d.nc.PublishMsg(reply)
}

// printable makes one line of a text for a header.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

// reserved says whether a subject leads to the server itself, to the registry
// or to the routers. A caller may not want its answer there, where it might be
// taken for a command or a record: NATS does not check that callers may write
// there themselves.
func reserved(bucket, subject string) bool {
	first, _, _ := strings.Cut(subject, ".")
	return strings.HasPrefix(first, "$") || first == bucket || first == serviceName
}
