package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/net/http/httpguts"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/daemon/embedded"
	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/router/forwarding"
	"github.com/proxima-discovery/proxima/internal/router/guard"
	"github.com/proxima-discovery/proxima/internal/router/identity"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

type serveCommand struct {
	HTTP         string               `group:"HTTP:" name:"http" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Serve HTTP here; port 0 takes a free one (${default})."`
	NATSListen   string               `group:"Embedded NATS server:" name:"nats-listen" default:"127.0.0.1:4222" placeholder:"HOST:PORT" help:"Without --nats-url: where the embedded NATS server listens; port 0 takes a free one (${default})."`
	StoreDir     string               `group:"Embedded NATS server:" placeholder:"DIR" help:"Without --nats-url: where the embedded NATS server stores its data. Default: a temporary directory, removed at exit."`
	AllowCIDR    []string             `group:"Calls:" name:"allow-cidr" placeholder:"NETWORK" help:"Call only instances in this network; may be repeated. Link-local, multicast and metadata addresses are never called."`
	Timeout      time.Duration        `group:"Calls:" default:"10s" placeholder:"DURATION" help:"How long an instance may take to answer (${default})."`
	Attempt      time.Duration        `group:"Calls:" name:"attempt-timeout" placeholder:"DURATION" help:"How long one instance may take to answer before another one gets the call. It applies to calls that may be repeated, while another instance and that much of --timeout are left. Default: until the instance seems to hang, which takes a second or more, 10 times the average duration of calls to the service, and 1.5 times the slowest."`
	Hedge        bool                 `group:"Calls:" help:"Send a call to a second instance too, if it may be repeated and has had no answer for longer than 95 % of the calls to its service take. The first good answer counts."`
	InstanceCA   string               `group:"Calls:" name:"instance-ca" placeholder:"FILE" help:"PEM file of the CA certificates that instances called by HTTPS are verified with. A certificate must name the host of the endpoint, or the host in the metadata proxima.server_name of the instance; with this flag it may also name the service (user, or user.internal). Default: the certificates of the system."`
	InstanceCert string               `group:"Calls:" placeholder:"FILE" help:"PEM file of the certificate that the router presents to instances that ask for one. The file may be replaced at any time."`
	InstanceKey  string               `group:"Calls:" placeholder:"FILE" help:"PEM file of the key of --instance-cert."`
	TrustCIDR    []string             `group:"HTTP:" name:"trust-cidr" placeholder:"CIDR" help:"Network of proxies in front of the router: their X-Forwarded-*, Forwarded and X-Real-Ip headers are kept, and the router adds itself. Repeat the flag for several. Default: such headers are removed."`
	HashHeader   string               `group:"Calls:" placeholder:"NAME" help:"Header with the key of a call, for consistent_hash. Calls without a key are spread."`
	HashCookie   string               `group:"Calls:" placeholder:"NAME" help:"Cookie with the key of a call, for consistent_hash."`
	StickyCookie string               `group:"Calls:" placeholder:"NAME" help:"As --hash-cookie. A caller without a key also gets such a cookie, so that its next calls go to the same instance."`
	Concurrency  int                  `group:"Calls:" default:"1024" placeholder:"NUMBER" help:"How many calls by NATS may run at the same time; further ones are refused (${default})."`
	Drain        time.Duration        `group:"Stopping:" default:"5s" placeholder:"DURATION" help:"After SIGTERM: how long to go on serving while /readyz says that the router is not ready, so that balancers notice (${default})."`
	Grace        time.Duration        `group:"Stopping:" default:"10s" placeholder:"DURATION" help:"After that: how long running calls may take (${default})."`
	Strategy     string               `group:"Calls:" default:"p2c" placeholder:"NAME" help:"How to choose among about equally near instances: p2c, nearest, round_robin, weighted_round_robin, random, least_request, consistent_hash, or load_aware, by the load they report (${default})."`
	Loopback     bool                 `group:"Registry:" name:"allow-loopback" help:"Let clients register loopback endpoints, such as 127.0.0.1:8080, from any machine, even if --nats-url names another machine. Only callers on the machine of the instance can reach them."`
	SnapshotDir  string               `group:"Registry:" placeholder:"DIR" help:"Directory for the last list of each service. A router that cannot reach NATS at its start begins with these lists. Default: none, it waits for NATS."`
	NoSuspects   bool                 `group:"Registry:" help:"Remove an instance as soon as its lease ends, even when many leases end together. Without it, those are kept as suspects: used last, and probed."`
	Location     daemon.LocationFlags `group:"Location:" embed:""`
	NATS         daemon.NATSFlags     `group:"NATS:" embed:""`
	Registry     daemon.RegistryFlags `group:"NATS:" embed:""`
	Log          daemon.LogFlags      `group:"Logging:" embed:""`
}

// Help is shown by -h.
func (c *serveCommand) Help() string {
	return `Without --nats-url the router runs a NATS server with JetStream in its own process, on --nats-listen: enough for a first try or a small fleet.

On SIGTERM or SIGINT the router says that it is not ready, and goes on serving for --drain. Then it takes no more calls, waits for the running ones for at most --grace, and cuts off the rest. A second signal ends both waits, a third ends the router at once. SIGHUP changes nothing: flags are read at the start only, files with credentials and certificates whenever a connection is opened.

Under systemd the router reports when it is ready and what it does, and takes the socket of --http from a socket unit, if there is one (Type=notify, WatchdogSec=).`
}

// embeddedURL is the default of --nats-url: the router runs a server itself.
const embeddedURL = "embedded"

// plan holds the flags after validation.
type plan struct {
	log   *slog.Logger
	guard *guard.Guard
	trust forwarding.Trust
	tls   *tls.Config
	pick  selector.Options
	away  bool         // NATS is on another machine
	store func() error // of the embedded server, nil: there is none
}

func (c *serveCommand) plan(ctx context.Context, p *daemon.Process) (*plan, error) {
	log := c.Log.Logger(p.Stderr)
	if err := c.Registry.Validate(); err != nil {
		return nil, err
	}
	for flag, ok := range map[string]bool{
		"timeout": c.Timeout > 0, "grace": c.Grace > 0, "concurrency": c.Concurrency > 0,
	} {
		if !ok {
			return nil, daemon.Usagef("--%s: want more than 0", flag)
		}
	}
	if c.Attempt < 0 || c.Attempt > c.Timeout {
		return nil, daemon.Usagef("--attempt-timeout %v: want at most --timeout, %v", c.Attempt, c.Timeout)
	}
	if c.Drain < 0 {
		return nil, daemon.Usagef("--drain %v: want 0 or more", c.Drain)
	}
	strategy, err := selector.ParseStrategy(c.Strategy)
	if err != nil {
		return nil, daemon.Usagef("--strategy: %w", err)
	}
	allow, err := networks("--allow-cidr", c.AllowCIDR)
	if err != nil {
		return nil, err
	}
	trust, err := networks("--trust-cidr", c.TrustCIDR)
	if err != nil {
		return nil, err
	}
	if err := c.validateKeys(strategy); err != nil {
		return nil, err
	}
	files := identity.Files{CA: c.InstanceCA, Cert: c.InstanceCert, Key: c.InstanceKey}
	secure, err := files.Config()
	if err != nil {
		return nil, daemon.Usagef("--instance-ca, --instance-cert, --instance-key: %w", err)
	}
	if strategy == selector.P2C {
		strategy = "" // the default, so that the policy of a service may say another one
	}
	where, err := c.Location.Detect(ctx, p.Getenv, log)
	if err != nil {
		return nil, err
	}
	return &plan{
		log: log, guard: guard.New(allow...), trust: trust, tls: secure,
		pick: selector.Options{Location: where.Location, Strategy: strategy},
		away: c.NATS.URL != embeddedURL && c.NATS.Elsewhere(),
	}, nil
}

// networks reads the networks of a flag.
func networks(flag string, values []string) (list []netip.Prefix, err error) {
	for _, s := range values {
		p, err := forwarding.ParseNetwork(s)
		if err != nil {
			return nil, daemon.Usagef("%s: %w", flag, err)
		}
		list = append(list, p)
	}
	return list, nil
}

// validateKeys checks the names of what has the key of a call.
func (c *serveCommand) validateKeys(strategy selector.Strategy) error {
	for flag, name := range map[string]string{"--hash-header": c.HashHeader, "--hash-cookie": c.HashCookie, "--sticky-cookie": c.StickyCookie} {
		switch {
		case name == "":
		case !httpguts.ValidHeaderFieldName(name): // the names of cookies have the same letters
			return daemon.Usagef("%s %q: want a name of letters, digits and '-'", flag, name)
		case strategy != selector.ConsistentHash:
			return daemon.Usagef("%s needs --strategy consistent_hash: %s has no use for a key", flag, strategy)
		}
	}
	return nil
}

// Run runs a router until ctx ends.
func (c *serveCommand) Run(ctx context.Context, p *daemon.Process) error {
	pl, err := c.plan(ctx, p)
	if err != nil {
		return err
	}
	defer daemon.IgnoreHangups(pl.log)()
	l, err := daemon.Listen("--http", c.HTTP)
	if err != nil {
		return err
	}
	defer l.Close()
	nc, end, err := c.connect(ctx, p, pl)
	if err != nil {
		return err
	}
	err = c.serve(ctx, p, pl, nc, l)
	return errors.Join(err, end())
}

// connect connects to the NATS server of the flags, or starts one. end closes
// the connection and the server.
func (c *serveCommand) connect(ctx context.Context, p *daemon.Process, pl *plan) (nc *nats.Conn, end func() error, err error) {
	log := pl.log
	if c.NATS.URL != embeddedURL {
		connect := c.NATS.Connect
		if c.SnapshotDir != "" { // the router can start without NATS
			connect = c.NATS.TryConnect
		}
		if nc, err = connect(ctx, "proxima-router", log); err != nil {
			return nil, nil, err
		}
		return nc, func() error { nc.Close(); return nil }, nil
	}
	server, err := embedded.Start(ctx, embedded.Options{
		Listen: c.NATSListen, StoreDir: c.StoreDir, Domain: c.Registry.Domain, Logger: log,
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w (is NATS running there? --nats-url nats://%s uses it, --nats-listen chooses another address)", err, c.NATSListen)
	}
	if err != nil {
		return nil, nil, unwritable("--store-dir", err)
	}
	pl.store = server.Err
	fmt.Fprintf(p.Stdout, "NATS: an embedded server at %s (no --nats-url was given)\n", server.URL())
	c.NATS.URL = server.URL()
	if nc, err = c.NATS.Connect(ctx, "proxima-router", log, server.InProcess()); err != nil {
		return nil, nil, errors.Join(err, server.Close())
	}
	return nc, func() error { nc.Close(); return server.Close() }, nil
}

func (c *serveCommand) serve(ctx context.Context, p *daemon.Process, pl *plan, nc *nats.Conn, l net.Listener) (err error) {
	sdk, err := daemon.NewTelemetry(ctx, "router", p.Getenv, pl.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sdk.Shutdown(ctx)) }()
	metrics, err := telemetry.New(sdk.Meter("router"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, metrics.Close()) }()
	options := c.Registry.Options(pl.log)
	options.SnapshotDir, options.NoSuspects = c.SnapshotDir, c.NoSuspects
	registry, err := kv.Open(ctx, nc, options)
	if err != nil {
		return unwritable("--snapshot-dir", err)
	}
	r, err := router.New(ctx, nc, registry, router.Options{
		Selector: pl.pick, Bucket: c.Registry.Name(), Guard: pl.guard,
		Timeout: c.Timeout, AttemptTimeout: c.Attempt, Hedge: c.Hedge, Trust: pl.trust, TLS: pl.tls,
		NATSElsewhere: pl.away, AllowLoopback: c.Loopback,
		HashHeader: c.HashHeader, HashCookie: c.HashCookie, StickyCookie: c.StickyCookie, Concurrency: c.Concurrency, Drain: c.Drain, Grace: c.Grace, Hurry: p.Hurried().Done(),
		Store: pl.store, Metrics: metrics, MetricsHandler: sdk.Handler(), Logger: pl.log,
	})
	if err != nil {
		return err
	}
	defer r.Close()
	run, stop := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() { _ = registry.KeepSources(run) }) // until the router has ended
	defer keeping.Wait()
	defer stop()
	if region := pl.pick.Location.Region; len(c.Registry.Regions) > 0 && region != "" && region != c.Registry.Domain {
		pl.log.Warn("the region of this router is not that of its registry, so no instance there is near (--region and --nats-domain of one region are the same)",
			"region", region, "domain", c.Registry.Domain)
	}
	if pl.pick.Location.Zone == "" {
		pl.log.Warn("the zone is unknown: callers that do not say where they are get instances from anywhere (set --zone)")
	}
	defer p.Manager(pl.log).Watch(ctx, func() error {
		r.Alive()
		return r.Ready()
	})()
	fmt.Fprintf(p.Stdout, "HTTP: %s\n", urlOf(l))
	return r.Serve(ctx, l)
}

// unwritable says what to do about an error of a file in the directory of a flag.
func unwritable(flag string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%w: %s wants a directory that this user can write to", err, flag)
	}
	return err
}

// urlOf is where a listener is reached.
func urlOf(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return "http://" + l.Addr().String()
}
