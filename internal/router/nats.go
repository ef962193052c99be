package router

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/pkg/telemetry"
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

// flushPatience is how long the server may take to know of the doors.
const flushPatience = 2 * time.Second

// openDoors answers by NATS as soon as the registry has been read: until then
// calls are for the other routers.
func (r *Router) openDoors() {
	select {
	case <-r.directory.Whole():
	case <-r.run.Done():
		return
	}
	r.doorsMu.Lock()
	if !r.shut {
		if err := r.offer(); err != nil {
			r.log.Error("calls by NATS are not answered", "error", err)
		}
	}
	r.doorsMu.Unlock()
	_ = r.nc.FlushTimeout(flushPatience) // without a server, nats.go offers it to the next
	close(r.opened)
}

// offer makes the NATS service. All routers of a bucket are one queue group: with
// a group per zone each zone would get, and execute, every call.
func (r *Router) offer() error {
	endpoints := map[string]func(context.Context, *call) (*nats.Msg, error){
		"route":   r.route,
		"resolve": r.resolve,
		"explain": r.explainNATS,
	}
	r.counts = make(map[string]*doorCounts, len(endpoints))
	for name := range endpoints {
		r.counts[name] = &doorCounts{}
	}
	at := r.selector.Location()
	svc, err := micro.AddService(r.nc, micro.Config{
		Name: serviceName, Version: serviceVersion,
		Description: "Passes calls to the nearest instance of a service",
		Metadata:    map[string]string{"location": at.String(), "bucket": r.opts.Bucket},
		QueueGroup:  r.opts.Bucket + "-routers",
		StatsHandler: func(e *micro.Endpoint) any {
			return r.counts[e.Name]
		},
	})
	if err != nil {
		return fmt.Errorf("router: offer the NATS service: %w", err)
	}
	r.doors = svc
	group := svc.AddGroup(r.opts.Bucket)
	for name, answer := range endpoints {
		if err := group.AddEndpoint(name, r.endpoint(name, answer), micro.WithEndpointSubject(name+".*")); err != nil {
			return fmt.Errorf("router: offer %s.%s.*: %w", r.opts.Bucket, name, err)
		}
	}
	return nil
}

// closeDoors takes no more requests by NATS and waits for those that run.
func (r *Router) closeDoors() { r.doorsOnce.Do(r.drainDoors) }

func (r *Router) drainDoors() {
	r.announceStop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.run), r.opts.Grace)
	defer cancel()
	r.doorsMu.Lock()
	r.shut = true
	doors := r.doors
	r.doorsMu.Unlock()
	if doors != nil {
		if err := doors.Stop(); err != nil {
			r.log.Warn("the NATS service was not stopped in order", "error", err)
		}
		// What the server has sent until now is in our queues after a flush,
		// and with its handlers after a barrier.
		handled := make(chan struct{})
		if r.nc.IsConnected() && r.nc.FlushWithContext(ctx) == nil && r.nc.Barrier(func() { close(handled) }) == nil {
			select {
			case <-handled:
			case <-ctx.Done():
			}
		}
	}
	r.calls.close()
	if r.calls.wait(ctx) != nil {
		r.log.Warn("calls did not end in time, giving them up", "calls", r.calls.count())
		r.stop()
		<-r.calls.empty
	}
}

// endpoint makes a handler that passes requests to goroutines: micro calls the
// handlers of an endpoint one after the other, and a slow instance must not
// hold up the calls to others.
func (r *Router) endpoint(door string, answer func(context.Context, *call) (*nats.Msg, error)) micro.HandlerFunc {
	counts := r.counts[door]
	return func(req micro.Request) {
		began := time.Now()
		subject := req.Subject()
		c := &call{door: door, service: subject[strings.LastIndexByte(subject, '.')+1:], msg: &nats.Msg{
			Subject: subject, Reply: req.Reply(), Header: nats.Header(req.Headers()), Data: req.Data(),
		}}
		if r.forbiddenReply(c.msg.Reply) {
			counts.errors.Add(1)
			r.count("nats_"+door, c.service, "400", began)
			return
		}
		if err := r.calls.enter(); err != nil {
			r.finish(c, counts, nil, err, began)
			return
		}
		counts.inFlight.Add(1)
		go func() { // closeDoors waits for it
			defer r.calls.leave()
			defer counts.inFlight.Add(-1)
			r.serve(c, counts, answer, began)
		}()
	}
}

func (r *Router) serve(c *call, counts *doorCounts, answer func(context.Context, *call) (*nats.Msg, error), began time.Time) {
	ctx, cancel := context.WithTimeout(r.run, r.opts.Timeout)
	defer cancel()
	ctx, c.span = telemetry.Start(telemetry.Extract(ctx, c.msg.Header), r.opts.Bucket+"."+c.door, r.label(c.service))
	reply, err := answer(ctx, c)
	if err != nil && r.run.Err() != nil {
		err = errStopping
	}
	c.span.End(err)
	r.finish(c, counts, reply, err, began)
}

// finish sends the answer or the error, and counts it.
func (r *Router) finish(c *call, counts *doorCounts, reply *nats.Msg, err error, began time.Time) {
	code := "200"
	if err == nil {
		if s := reply.Header.Get(headerStatus); s != "" {
			code = s
		}
		if err = r.send(c, reply); err != nil {
			err = &callError{fmt.Errorf("router: the answer cannot be sent by NATS, ask by HTTP: %w", err)}
		}
	}
	counts.answers.Add(1)
	if err != nil {
		counts.errors.Add(1)
		code = strconv.Itoa(codeOf(err))
		header := nats.Header{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {printable(err.Error())}}
		if err := r.send(c, &nats.Msg{Header: header}); err != nil {
			r.log.Warn("a call could not be answered", "service", c.service, "error", err)
		}
	}
	r.count("nats_"+c.door, c.service, code, began)
}

// send answers, unless nobody waits for an answer.
func (r *Router) send(c *call, reply *nats.Msg) error {
	if c.msg.Reply == "" {
		return nil
	}
	reply.Subject = c.msg.Reply
	return r.nc.PublishMsg(reply)
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

func (r *Router) resolve(ctx context.Context, c *call) (*nats.Msg, error) {
	from, err := parseFrom(headerFrom, c.msg.Header.Get(headerFrom))
	if err != nil {
		return nil, err
	}
	e, err := r.explanation(ctx, c.service, from)
	if err != nil {
		return nil, err
	}
	list := List(e)
	all := len(list.Instances)
	return r.fit(all, func(n int) any {
		list.Instances, list.Truncated = list.Instances[:n], n < all
		return list
	})
}

func (r *Router) explainNATS(ctx context.Context, c *call) (*nats.Msg, error) {
	from, err := parseFrom(headerFrom, c.msg.Header.Get(headerFrom))
	if err != nil {
		return nil, err
	}
	e, err := r.explanation(ctx, c.service, from)
	if err != nil {
		return nil, err
	}
	return r.fit(len(e.Instances), func(n int) any {
		e.Instances = e.Instances[:n]
		return e
	})
}

// fit makes an answer of as many of n instances, nearest first, as a message
// can hold.
func (r *Router) fit(n int, body func(n int) any) (*nats.Msg, error) {
	most := int(r.nc.MaxPayload()) - headerRoom
	for {
		data, err := json.Marshal(body(n))
		if err != nil {
			return nil, fmt.Errorf("router: write the answer: %w", err)
		}
		if len(data) <= most || n == 0 {
			return &nats.Msg{Data: data, Header: nats.Header{"Content-Type": {"application/json"}}}, nil
		}
		n = min(n-1, n*most/len(data))
	}
}

// forbiddenSubject says whether an instance's subject leads where no service
// is: to the server itself, to somebody's inbox, or to the registry and the
// routers. Calls go out with the router's rights.
func (r *Router) forbiddenSubject(subject string) bool {
	return strings.HasPrefix(subject, "_") || r.forbiddenReply(subject)
}

// forbiddenReply says whether a caller wants the answer to go where it might
// be taken for a command, or for a record. NATS does not check that callers
// may write there themselves.
func (r *Router) forbiddenReply(subject string) bool {
	first, _, _ := strings.Cut(subject, ".")
	return strings.HasPrefix(first, "$") || first == r.opts.Bucket || first == serviceName
}
