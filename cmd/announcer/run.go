package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/daemon/check"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// noCheck is the --check that always passes.
const noCheck = "none"

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
	ServiceVersion string        `placeholder:"VERSION" help:"Version of the service that it runs."`

	Command []string `arg:"" optional:"" passthrough:"partial" help:"Command that is the instance, after --. It is started, gets the signals that the announcer gets, and gives it its exit code."`
}

// Help is shown by -h.
func (c *runCommand) Help() string {
	return `The instance is announced when its check has passed for the first time. While the check fails later it stays listed as not_ready.

Told to stop (SIGTERM, SIGINT), the announcer says that the instance is draining, waits for --drain, deregisters it, and then passes the signal on to the command; a second signal hurries. When the command ends by itself the instance is deregistered at once. (A systemd unit needs KillMode=mixed, or the command hears of the stop first.)

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
	in, ask, err := c.instance(s)
	if err != nil {
		return err
	}
	if err := s.start(ctx, p.Getenv); err != nil {
		return err
	}
	defer s.end(ctx)
	s.list(in, s.where.Won)

	sup := &supervisor{log: s.log, again: p.Again}
	if len(argv) > 0 {
		other := make(chan os.Signal, 8)
		signal.Notify(other, passedOn()...)
		defer signal.Stop(other)
		sup.other = other
		if sup.command, err = startCommand(argv, p); err != nil {
			return err
		}
		s.begun()
		sup.leave = c.announceAtLast(ctx, s, in, ask)
	} else {
		conn, registry, err := s.connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		s.begun()
		a, err := s.announce(registry, in, ask, c.Drain)
		if err != nil {
			return err
		}
		sup.leave = a.Leave
	}
	return sup.run(ctx)
}

// announceAtLast announces as soon as the registry can be opened, and returns
// what takes the instance out again.
func (c *runCommand) announceAtLast(ctx context.Context, s *session, in events.Instance, ask check.Func) func(context.Context) error {
	var a *kv.Announcement
	var conn *nats.Conn
	announced := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() { // waited for by leave
		var registry *kv.Registry
		var err error
		if conn, registry, err = s.connectAtLast(ctx); err == nil {
			a, err = s.announce(registry, in, ask, c.Drain)
		}
		if err != nil && ctx.Err() == nil {
			s.board.fail(err)
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

// instance is what the flags describe, and its check.
func (c *runCommand) instance(s *session) (events.Instance, check.Func, error) {
	in := events.Instance{
		ID: c.ID, Service: c.Service,
		Endpoints: c.Endpoint, Location: s.where.Location,
		Version: c.ServiceVersion, Weight: c.Weight, Metadata: c.Metadata,
		Started: time.Now(), TTL: c.TTL,
	}
	if in.ID == "" {
		in.ID = randomID(c.Service)
	}
	// Zero means the default to a record; who writes it means something else.
	switch {
	case c.TTL == 0:
		return in, nil, daemon.Usagef("--ttl 0s: want whole seconds from 1s to 1h")
	case c.Weight == 0:
		return in, nil, daemon.Usagef("--weight 0: want 1 to 10000")
	}
	if _, err := events.Encode(in); err != nil {
		return in, nil, flagError(err)
	}
	if c.Drain < 0 {
		return in, nil, daemon.Usagef("--drain %s: want 0 or more", c.Drain)
	}
	ask, err := checkFor(c.Check, in.Endpoints, len(c.Command) > 0)
	if err != nil {
		return in, nil, daemon.Usagef("--%w", err) // it begins with "check"
	}
	return in, ask, nil
}

// startPatience is how long a command without a --check may take to listen.
const startPatience = 3 * time.Second

// checkFor reads a check. The default is none: whoever announces what runs
// already knows that it does. A command that was just started does not listen
// yet, so its default waits for that, though not for ever: it says nothing about
// what the command is like later.
func checkFor(text string, endpoints map[string]string, starts bool) (check.Func, error) {
	switch {
	case text == noCheck, text == "" && !starts:
		return nil, nil
	case text != "":
		return check.Parse(text)
	}
	for _, protocol := range []string{events.HTTP, events.HTTPS, events.GRPC, events.TCP} {
		if address, ok := endpoints[protocol]; ok {
			return listening(check.TCP(address)), nil
		}
	}
	return nil, nil
}

// listening passes for good when ask has passed once, or has failed for too long.
func listening(ask check.Func) check.Func {
	var since time.Time
	passed := false
	return func(ctx context.Context) error {
		if passed {
			return nil
		}
		if since.IsZero() {
			since = time.Now()
		}
		err := ask(ctx)
		if passed = err == nil || time.Since(since) >= startPatience; passed {
			return nil
		}
		return err
	}
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
