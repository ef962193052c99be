package router

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/internal/router/forwarding"
	"github.com/proxima-discovery/proxima/internal/router/guard"
	"github.com/proxima-discovery/proxima/internal/router/identity"
	"github.com/proxima-discovery/proxima/internal/router/registrar"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

const (
	maxHeaderBytes = 32 << 10
	maxBody        = 64 << 10 // of a request to a JSON door
)

// Registry is the part of the registry that a router needs. *kv.Registry is one.
type Registry interface {
	directory.Lister
	registrar.Registry
	telemetry.RegistryCounts
	Now() time.Time // by the server's clock
	Bus() *kv.Bus
	Check(ctx context.Context) kv.Health
}

// Options configure [New]. The zero value is ready to use.
type Options struct {
	// Selector options. The router sets the source, the dialler of probes and the
	// hook of the breakers.
	Selector selector.Options
	// Bucket of the registry, and first token of the router's NATS subjects.
	// Default [kv.DefaultBucket].
	Bucket string
	// TLS of connections to instances by HTTPS, see [identity.Files]. Default: the
	// authorities of the system.
	TLS *tls.Config
	// Guard decides which addresses may be called. Default: guard.New().
	Guard *guard.Guard
	// Timeout of a call: by HTTP until the head of the answer, by NATS until its
	// end. Default 10s.
	Timeout time.Duration
	// AttemptTimeout is how long one instance may take for the head of its answer
	// before another gets the call, if the call may be repeated and that long is left
	// for it. Default: until the instance seems to hang. The policy of a service may say
	// another one, as for Timeout.
	AttemptTimeout time.Duration
	// Hedge sends a call by HTTP to a second instance too when the first one takes long,
	// see [proximahttp.Options]. Default: off.
	Hedge bool
	// Trust is the networks of proxies in front of this router, whose headers about the
	// caller are kept. Default: none.
	Trust forwarding.Trust
	// NATSElsewhere says that NATS is on another machine, so that callers are, too. Then, and
	// for clients on other machines, a registration with a loopback endpoint is refused,
	// unless AllowLoopback is set.
	NATSElsewhere, AllowLoopback bool
	// HashHeader and HashCookie name where a call has the key that consistent_hash hashes.
	// The header counts first. Calls without a key are spread. Default: none.
	HashHeader, HashCookie string
	// StickyCookie is as HashCookie, and callers by HTTP without a key are given a cookie.
	// Default: none.
	StickyCookie string
	// Concurrency bounds the calls by NATS that run at once; more are refused.
	// Default 1024.
	Concurrency int
	// Drain is how long the router goes on serving when it is to stop, and says that it is
	// not ready: balancers must have the time to see that. Default: it stops at once.
	Drain time.Duration
	// Grace is how long running calls may take after that. Default 10s.
	Grace time.Duration
	// Hurry ends what is left of Drain and Grace when it is closed. Nil: nothing does.
	Hurry <-chan struct{}
	// Store returns why the store of the registry, if the program has it, cannot be written
	// to. Default: none is asked.
	Store func() error
	// Metrics count requests, breakers and picks. Default: none.
	Metrics *telemetry.Metrics
	// MetricsHandler answers GET /metrics. Default: there is no such path.
	MetricsHandler http.Handler
	// Logger. Default [slog.Default].
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Bucket == "" {
		o.Bucket = kv.DefaultBucket
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if o.Guard == nil {
		o.Guard = guard.New()
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 1024
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Router answers at all doors. It is safe for concurrent use.
type Router struct {
	opts      Options
	nc        *nats.Conn
	log       *slog.Logger
	directory *directory.Directory
	selector  *selector.Selector
	registrar *registrar.Registrar
	lookup    *lookup
	counts    requestCounts
	base      *identity.Base
	proxy     *proxy
	handler   http.Handler
	requests  *gate // HTTP
	nats      *natsDoors
	health    health
	began     time.Time

	run      context.Context // ends with Close
	stop     context.CancelFunc
	work     sync.WaitGroup
	stopping chan struct{} // closed when a stop begins
	closing  chan struct{} // closed when no new calls are taken any more

	stopOnce, closingOnce, closeOnce sync.Once
}

// New starts a router: it follows the registry and answers by NATS. HTTP is
// answered by [Router.Serve], or by [Router.ServeHTTP] in a server of the caller.
// ctx bounds the start only. The connection stays the caller's.
func New(ctx context.Context, nc *nats.Conn, registry Registry, o Options) (*Router, error) {
	o = o.withDefaults()
	r := &Router{
		opts: o, nc: nc, log: o.Logger, began: time.Now(),
		directory: directory.New(registry, ""),
		requests:  newGate(0),
		stopping:  make(chan struct{}),
		closing:   make(chan struct{}),
	}
	var err error
	if r.selector, err = selector.New(ctx, nc, r.selectorOptions(registry)); err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	r.registrar = registrar.New(registry, r.directory)
	r.health = health{registry: registry, store: o.Store, log: r.log}
	r.run, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.makeDoors()
	r.work.Go(func() {
		if err := r.directory.Run(r.run); err != nil && r.run.Err() == nil {
			r.log.Error("the registry cannot be watched any more, the last lists are used from now on", "error", err)
		}
	})
	r.observe(registry)
	r.work.Go(func() { r.health.watch(r.run) })
	r.work.Go(func() { r.nats.open(r.directory.Complete()) })
	return r, nil
}

// selectorOptions makes the selector read from the directory, and probe only
// addresses that the guard allows.
func (r *Router) selectorOptions(registry Registry) selector.Options {
	o := r.opts.Selector
	o.Source, o.Registry.Bucket = r.directory, r.opts.Bucket
	if policies, ok := registry.(selector.PolicySource); ok {
		o.Source = source{r.directory, policies}
	}
	o.Ramp.Now, o.Probe.Bus = registry.Now, registry.Bus()
	o.Latency.Dial = r.opts.Guard.DialContext
	// A probe sends nothing that is worth to be protected, and need not know the name.
	o.Probe.TLS = r.opts.TLS.Clone()
	o.Probe.TLS.InsecureSkipVerify = true
	if o.Logger == nil {
		o.Logger = r.log
	}
	if r.opts.Metrics != nil {
		o.Breaker.OnChange = r.opts.Metrics.OnBreaker
	}
	return o
}

// source lists instances as the directory does, and tells policies.
type source struct {
	*directory.Directory
	selector.PolicySource
}

func (r *Router) makeDoors() {
	base := proximahttp.NewBase()
	base.DialContext = proximahttp.Keep(r.opts.Guard.DialContext)
	base.DisableCompression = true // bodies are passed on unchanged
	r.base = identity.NewBase(base, r.opts.TLS)
	transport := proximahttp.New(r.selector, proximahttp.Options{
		Base: telemetry.Transport(teller{r.base}), Ask: ask, Hedge: r.opts.Hedge,
	})
	id := "proxima-" + rand.Text()[:12] // in the header Via: it reveals a loop
	r.counts = requestCounts{r.opts.Metrics, r.directory, &endings{log: r.log}}
	r.lookup = &lookup{r.directory, r.selector, r.nc.MaxPayload}
	keys := &keys{header: http.CanonicalHeaderKey(r.opts.HashHeader), cookie: r.opts.HashCookie, sticky: r.opts.StickyCookie}
	r.proxy = &proxy{id: id, timeout: r.opts.Timeout, attempt: r.opts.AttemptTimeout, trust: r.opts.Trust, keys: keys, lookup: r.lookup, requests: r.counts}
	r.proxy.start(transport, r.log)
	r.handler = r.newHandler()
	relay := &relay{r.nc, id, r.opts.Bucket, r.lookup, r.selector, transport, keys}
	r.nats = &natsDoors{
		nc: r.nc, bucket: r.opts.Bucket, location: r.selector.Location(),
		timeout: r.opts.Timeout, attempt: r.opts.AttemptTimeout, selector: r.selector, lookup: r.lookup, log: r.log,
		endpoints: map[string]answerNATS{
			"route": relay.route, "resolve": r.lookup.resolveNATS, "explain": r.lookup.explainNATS,
		},
		requests: r.counts, calls: newGate(r.opts.Concurrency),
		run: r.run, stop: r.stop, opened: make(chan struct{}),
	}
}

// observe lets the metrics read the selector and the registry until the router is
// closed.
func (r *Router) observe(registry Registry) {
	m := r.opts.Metrics
	if m == nil {
		return
	}
	ends := []func(){m.Selector(r.selector), m.Registry(registry)}
	r.work.Go(func() {
		<-r.run.Done()
		for _, end := range ends {
			end()
		}
	})
}

// Registrar returns the registrar of the HTTP doors.
func (r *Router) Registrar() *registrar.Registrar { return r.registrar }

// Wait waits until the registry has been read and the router answers by NATS, or
// until ctx ends.
func (r *Router) Wait(ctx context.Context) error {
	select {
	case <-r.nats.opened:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", directory.ErrIncomplete, ctx.Err())
	}
}

// Serve answers HTTP on l until ctx ends. Then the router stops, in this order: it is not
// ready any more; for [Options.Drain] it goes on at all doors, by HTTP and NATS, and asks
// clients to open no further request on their connections; it takes no more calls, ends
// the streams of changes, and waits for running calls, at most for [Options.Grace]; it
// cuts off those that are left.
func (r *Router) Serve(ctx context.Context, l net.Listener) error {
	end := daemon.End{Drain: r.opts.Drain, Grace: r.opts.Grace, Hurry: r.opts.Hurry}
	closing, cutting, release := end.Phases(ctx)
	defer release()
	run, cut := context.WithCancel(context.WithoutCancel(ctx)) // of the calls
	defer cut()
	defer context.AfterFunc(cutting, func() {
		r.log.Warn("cutting off what has not ended", r.running()...)
		cut()
	})()
	srv := r.newServer()
	srv.BaseContext = func(net.Listener) context.Context { return run }
	served := make(chan struct{})
	var doors sync.WaitGroup
	doors.Go(func() {
		select {
		case <-ctx.Done():
			r.log.Info("stopping: not ready any more, going on for a while so that balancers notice", "drain", end.Drain)
			r.beginStop()
		case <-served:
			return
		}
		select {
		case <-closing.Done():
			r.beginClosing()
			r.log.Info("taking no more calls, waiting for those that run", append(r.running(), "grace", end.Grace)...)
			r.nats.leave(run)
		case <-served:
		}
	})
	err := daemon.Serve(closing, run, srv, l)
	close(served)
	doors.Wait()
	// The server does not know of connections that were taken over, such as
	// WebSockets: their handlers end with their callers, or with their context.
	r.requests.close()
	if err == nil {
		_ = r.requests.wait(run)
	}
	cut()
	<-r.requests.empty
	if err == nil {
		r.log.Info("stopped")
	}
	return err
}

// running is for the log: how many calls wait for their answer, by HTTP and by NATS,
// and how many answers by HTTP have begun and not ended.
func (r *Router) running() []any {
	return []any{"calls", r.proxy.waiting.Load(), "streams", r.proxy.streams.Load(), "nats_calls", r.nats.calls.count()}
}

// Alive returns unless the router hangs, for a watchdog.
func (r *Router) Alive() {
	r.requests.count()
	r.directory.IsComplete()
}

// newServer makes the server of the doors by HTTP.
func (r *Router) newServer() *http.Server {
	srv := daemon.NewHTTPServer(r, r.log)
	srv.MaxHeaderBytes = maxHeaderBytes
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv
}

// beginStop makes /readyz fail.
func (r *Router) beginStop() { r.stopOnce.Do(func() { close(r.stopping) }) }

// beginClosing ends the streams of changes too.
func (r *Router) beginClosing() {
	r.beginStop()
	r.closingOnce.Do(func() { close(r.closing) })
}

// Close ends the router: it takes no more calls by NATS, waits for the running
// ones, at most for [Options.Grace], and stops following the registry.
// [Router.Serve] must have ended before. Close may be called twice.
func (r *Router) Close() error {
	r.closeOnce.Do(func() {
		r.beginClosing()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.run), r.opts.Grace)
		defer cancel()
		r.nats.leave(ctx)
		r.stop()
		_ = r.selector.Close() // always nil
		r.work.Wait()
		r.base.CloseIdleConnections()
	})
	return nil
}
