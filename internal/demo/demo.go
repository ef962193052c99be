package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/internal/daemon/embedded"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	perSecond  = 40                     // calls
	perCall    = 5 * time.Second        // limit of a call with all attempts
	perAttempt = 600 * time.Millisecond // limit of an attempt until the head of the answer
	actLength  = 20 * time.Second       // one performance of the script
	// MinDuration is the shortest demo that has time for the whole script.
	MinDuration = 8 * time.Second
)

// Options of a demo.
type Options struct {
	// Duration of the calls. Default: until the context ends.
	Duration time.Duration
	// Command starts the program of one instance. The job is appended to it.
	Command []string
	// NATS is where the embedded NATS server listens. Default: a free port.
	NATS string
	// Out gets the output.
	Out io.Writer
	// Live redraws one screen instead of printing lines.
	Live bool
}

// demo is a running demo.
type demo struct {
	o         Options
	url       string // of NATS
	matrix    matrix
	processes []*process
	selector  *selector.Selector
	client    *http.Client
	tally     *tally

	mu        sync.Mutex // guards what follows
	addresses map[string]topology.Location
}

// Run runs the demo until the duration is over or ctx ends.
func Run(ctx context.Context, o Options) (result Result, err error) {
	d := &demo{o: o, addresses: map[string]topology.Location{}}
	if d.matrix, err = readMatrix(roundTrips); err != nil {
		return result, err
	}
	quiet := slog.New(slog.DiscardHandler)
	server, err := embedded.Start(ctx, embedded.Options{Listen: cmp.Or(o.NATS, "127.0.0.1:0"), Logger: quiet})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	d.url = server.URL()
	nc, err := kv.Connect(d.url, nats.Name("demo"))
	if err != nil {
		return result, fmt.Errorf("demo: connect to %s: %w", d.url, err)
	}
	defer nc.Close()

	registry, err := kv.Open(ctx, nc, kv.Options{Logger: quiet})
	if err != nil {
		return result, err
	}
	d.selector, err = selector.New(ctx, nc, selector.Options{
		Location: caller, Logger: quiet, Source: &surveyor{registry, d},
		Latency: latency.Options{Interval: 2 * time.Second, Budget: -1, Dial: d.dial},
	})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, d.selector.Close()) }()
	base := proximahttp.NewBase()
	base.DialContext = d.dial
	base.ResponseHeaderTimeout = perAttempt
	defer base.CloseIdleConnections()
	d.client = &http.Client{Transport: proximahttp.New(d.selector, proximahttp.Options{Base: &counting{d, base}}), Timeout: perCall}

	for _, m := range members {
		d.processes = append(d.processes, &process{member: m, command: o.Command, nats: d.url})
	}
	defer d.endAll()
	for _, p := range d.processes {
		if err := p.start(); err != nil {
			return result, err
		}
	}
	if err := d.gather(ctx); err != nil {
		return result, err
	}
	d.tally = newTally()
	err = d.perform(ctx)
	result = d.tally.result()
	fmt.Fprint(o.Out, summary(result))
	return result, err
}

// delay is the round trip from the caller to an address.
func (d *demo) delay(address string) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.matrix.between(caller, d.addresses[address])
}

// surveyor is a source that records the location of each address before the
// selector dials it.
type surveyor struct {
	selector.Source
	d *demo
}

func (s *surveyor) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	return s.Source.Watch(ctx, service, func(list events.Snapshot) {
		s.d.mu.Lock()
		for _, e := range list.Entries {
			s.d.addresses[e.Endpoints[events.HTTP]] = e.Location
		}
		s.d.mu.Unlock()
		apply(list)
	})
}

// gather waits until all instances are listed and their distance is measured.
func (d *demo) gather(ctx context.Context) error {
	fmt.Fprintf(d.o.Out, "Starting a NATS server (%s) and %d instances of %q as processes …\n", d.url, len(members), service)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		e, err := d.selector.Explain(ctx, selector.Request{Service: service})
		if err == nil {
			measured := 0
			for _, c := range e.Instances {
				if c.DistanceSource == string(latency.SourceMeasured) {
					measured++
				}
			}
			if measured == len(members) {
				return nil
			}
		}
		if !wait(ctx, 50*time.Millisecond) {
			return errors.New("demo: the instances did not all come up within 30s")
		}
	}
}

// perform runs the calls, the script and the display until the demo ends.
func (d *demo) perform(ctx context.Context) error {
	length := actLength
	if d.o.Duration > 0 {
		length = min(length, d.o.Duration)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.o.Duration)
		defer cancel()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.play(ctx, length) })
	g.Go(func() error { return d.show(ctx) })
	g.Go(func() error { d.callAll(ctx); return nil })
	return g.Wait()
}

// callAll calls at a steady rate, also while answers are missing.
func (d *demo) callAll(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	ticker := time.NewTicker(time.Second / perSecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			calls.Go(func() { d.call(context.WithoutCancel(ctx)) })
		}
	}
}

func (d *demo) call(ctx context.Context) {
	began := time.Now()
	err := func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+service+"/", nil)
		if err != nil {
			return err
		}
		resp, err := d.client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("demo: status %s", resp.Status)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}()
	d.tally.call(time.Since(began), err)
}

// counting counts every attempt in the tally.
type counting struct {
	d    *demo
	base http.RoundTripper
}

func (c *counting) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.base.RoundTrip(req)
	if a, ok := proximahttp.AttemptFrom(req.Context()); ok {
		c.d.tally.attempt(a.ID, a.Circle, err)
	}
	return resp, err
}

func (d *demo) endAll() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var ends sync.WaitGroup
	for _, p := range d.processes {
		ends.Go(func() { p.end(ctx) })
	}
	ends.Wait()
}
