package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/announcing"
	"github.com/proxima-discovery/proxima/internal/announcing/check"
	"github.com/proxima-discovery/proxima/internal/announcing/load"
	"github.com/proxima-discovery/proxima/internal/announcing/supervisor"
	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// connectGrace is how long the end waits for a connection that is being made.
const connectGrace = 2 * time.Second

type runCommand struct {
	Service        string        `required:"" placeholder:"NAME" help:"Service that the instance belongs to."`
	Endpoint       daemon.Pairs  `required:"" placeholder:"PROTOCOL=ADDRESS" help:"Where it is called: http, https, grpc or tcp=host:port, or nats=subject. Once for each."`
	ID             string        `name:"id" placeholder:"ID" help:"Its name within the service. Default: the service and 8 random characters."`
	TTL            time.Duration `name:"ttl" default:"15s" placeholder:"DURATION" help:"Lease: so long after its announcer died it is taken out; whole seconds (${default})."`
	Check          string        `placeholder:"URL" help:"What must pass before it is announced, and keeps it ready: http://…, https://…, tcp://host:port, grpc://host:port[/service], or none. Default: none; with a command, it is announced when its first host:port accepts a connection, after 3s at the latest."`
	Drain          time.Duration `default:"5s" placeholder:"DURATION" help:"When told to stop: how long it is announced as draining before it leaves (${default})."`
	Metadata       daemon.Pairs  `placeholder:"KEY=VALUE" help:"Metadata, once for each."`
	Weight         int           `default:"100" placeholder:"NUMBER" help:"Share of calls relative to the others', 1 to 10000 (${default})."`
	Load           string        `placeholder:"URL" help:"What tells how loaded it is: http://… or https://… that answers with a beat as JSON, or none. Default: none; with a command on Linux, what the system says of it."`
	BeatInterval   time.Duration `default:"5s" placeholder:"DURATION" help:"Time between two beats (${default})."`
	ServiceVersion string        `placeholder:"VERSION" help:"Version of the service that it runs."`

	Command []string `arg:"" optional:"" passthrough:"partial" help:"Command that is the instance, after --. It is started, gets the signals that the announcer gets, and gives it its exit code."`
}

// Help is shown by -h.
func (c *runCommand) Help() string {
	return `The instance is announced when its check has passed for the first time. While the check fails later it stays listed as not_ready.

Told to stop (SIGTERM, SIGINT), the announcer says that the instance is draining, waits for --drain, deregisters it, and then passes the signal on to the command; a second signal hurries. When the command ends by itself the instance is deregistered at once. (A systemd unit needs KillMode=mixed, or the command hears of the stop first.)

Beats tell callers how loaded the instance is: {"cpu":0.42,"mem":0.5,"in_flight":12,"queue":0}, the first two as shares of what it may use. --load asks the instance itself. Of a command, the processor time and memory of its cgroup are taken if that has limits (v2), else those of its processes; in_flight is the number of connections to the ports of its endpoints, queue the number of those that it has not accepted yet. An instance that knows NATS may also publish beats itself, on proxima.beat.<service>.<region>.<zone>.<id>.

An announcer that is killed (SIGKILL) leaves its command, and whatever it announced, running: the instance is called until its lease ends, within --ttl, and then taken out although it lives. Started again, beside it and with the same --id, the announcer lists it again: within a second if the lease has ended, else before it does.

NATS never keeps the command from starting, running or ending. Without a command, NATS must be reachable at the start (--connect-timeout).`
}

// Run announces the instance until it is told to stop, or its command ends.
func (c *runCommand) Run(ctx context.Context, p *daemon.Process, app *cli) error {
	s, err := app.prepare(ctx, p)
	if err != nil {
		return err
	}
	argv, err := c.argv()
	if err != nil {
		return err
	}
	e, o, err := c.entry(s)
	if err != nil {
		return err
	}
	if err := s.start(ctx, p.Getenv); err != nil {
		return err
	}
	defer s.end(ctx)
	s.announcer.List(e)

	sup := &supervisor.Supervisor{Log: s.log, Again: p.Again}
	if len(argv) > 0 {
		other := make(chan os.Signal, 8)
		signal.Notify(other, supervisor.PassedOn()...)
		defer signal.Stop(other)
		sup.Other = other
		if sup.Command, err = supervisor.Start(argv, p); err != nil {
			return err
		}
		s.begun()
		if o.Load == nil && c.Load != load.None {
			o.Load = c.measure(s, e.Instance.Endpoints, sup.Command.PID())
		}
		sup.Leave = announceAtLast(ctx, s, e, o)
	} else {
		conn, registry, err := s.connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		s.begun()
		a, err := s.announcer.Announce(registry, e, o)
		if err != nil {
			return err
		}
		sup.Leave = a.Leave
	}
	return sup.Run(ctx)
}

// announceAtLast announces as soon as the registry can be opened, and returns
// what takes the instance out again.
func announceAtLast(ctx context.Context, s *session, e *announcing.Entry, o kv.AnnounceOptions) func(context.Context) error {
	var a *kv.Announcement
	var conn *nats.Conn
	announced := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() { // waited for by leave
		var registry *kv.Registry
		var err error
		if conn, registry, err = s.connectAtLast(ctx); err == nil {
			a, err = s.announcer.Announce(registry, e, o)
		}
		if err != nil && ctx.Err() == nil {
			s.announcer.Board.Fail(err)
			s.log.Error("cannot announce", "error", err)
		}
		announced <- err
	}()
	return func(leaving context.Context) error {
		cancel()
		select {
		case err := <-announced:
			if conn != nil {
				defer conn.Close()
			}
			if err != nil {
				return err
			}
			return a.Leave(leaving)
		case <-time.After(connectGrace):
			// Looking up the server takes its time, and cannot be interrupted.
			return errors.New("never connected to NATS")
		}
	}
}

// argv is the command without the -- before it, nil for none.
func (c *runCommand) argv() ([]string, error) {
	argv := c.Command
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if len(c.Command) > 0 && (len(argv) == 0 || argv[0] == "") {
		return nil, daemon.Usagef("want a command after --")
	}
	return argv, nil
}

// measure measures the command, if this system lets us.
func (c *runCommand) measure(s *session, endpoints map[string]string, pid int) load.Func {
	// A measurement over a longer time, while there were no beats, would tell
	// the past.
	measured, err := load.Measure(pid, load.Ports(endpoints), 2*c.BeatInterval)
	if err != nil {
		s.log.Info("the load of the command is not measured", "reason", err)
	}
	return measured
}

// entry is what the flags describe, and how it is announced.
func (c *runCommand) entry(s *session) (*announcing.Entry, kv.AnnounceOptions, error) {
	none := kv.AnnounceOptions{}
	// Zero in a record means the default. A flag of zero is refused.
	switch {
	case c.TTL == 0:
		return nil, none, daemon.Usagef("--ttl 0s: want whole seconds from 1s to 1h")
	case c.Weight == 0:
		return nil, none, daemon.Usagef("--weight 0: want 1 to 10000")
	}
	e := &announcing.Entry{Won: s.where.Won, Instance: events.Instance{
		ID: cmp.Or(c.ID, randomID(c.Service)), Service: c.Service,
		Endpoints: c.Endpoint, Location: s.where.Location,
		Version: c.ServiceVersion, Weight: c.Weight, Metadata: c.Metadata,
		Started: time.Now(), TTL: c.TTL,
	}}
	if err := e.Prepare(); err != nil {
		return nil, none, flagError(err)
	}
	switch {
	case c.Drain < 0:
		return nil, none, daemon.Usagef("--drain %s: want 0 or more", c.Drain)
	case c.BeatInterval < load.ShortestInterval:
		return nil, none, daemon.Usagef("--beat-interval %s: want %s or more", c.BeatInterval, load.ShortestInterval)
	}
	var err error
	if e.Ask, err = check.ParseOptional(c.Check); err != nil {
		return nil, none, daemon.Usagef("--%w", err) // it begins with "check"
	}
	if c.Check == "" && len(c.Command) > 0 {
		e.Ask = check.Listening(c.Endpoint)
	}
	u, err := load.Parse(c.Load)
	if err != nil {
		return nil, none, daemon.Usagef("--%w", err) // it begins with "load"
	}
	o := kv.AnnounceOptions{Drain: c.Drain, BeatInterval: c.BeatInterval}
	if u != nil {
		o.Load = load.Ask(u, s.log.With("service", c.Service, "instance", e.Instance.ID))
	}
	return e, o, nil
}

// randomID is the service and 8 random characters, short enough for an id.
func randomID(service string) string {
	const most = 63 - 1 - 8
	return service[:min(len(service), most)] + "-" + strings.ToLower(rand.Text()[:8])
}

// flagError says which flag is to blame for a field of an instance.
func flagError(err error) error {
	e, ok := errors.AsType[*events.FieldError](err)
	if !ok {
		return &daemon.UsageError{Err: err}
	}
	field, rest, _ := strings.Cut(e.Field, ".")
	flag := map[string]string{
		"endpoints": "endpoint", "version": "service-version", "location": rest,
	}[field]
	if flag == "" {
		flag = field
	}
	value := e.Value
	if rest != "" && field != "location" {
		value = rest + "=" + value
	}
	return daemon.Usagef("--%s %.100q: %s", flag, value, e.Rule)
}
