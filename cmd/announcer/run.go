package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
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

// connectGrace is how long the end waits for an attempt to connect.
const connectGrace = 2 * time.Second

type runCommand struct {
	Service        string        `group:"Instance:" required:"" placeholder:"NAME" help:"Service of the instance."`
	Endpoint       daemon.Pairs  `group:"Instance:" required:"" placeholder:"PROTOCOL=ADDRESS" help:"Address of the instance: http, https, grpc or tcp=host:port, or nats=subject. Repeat the flag for each protocol."`
	ID             string        `group:"Instance:" name:"id" placeholder:"ID" help:"Id of the instance, unique within the service; the registry enforces that per zone. Default: the service and 8 random characters."`
	TTL            time.Duration `group:"Instance:" name:"ttl" default:"15s" placeholder:"DURATION" help:"Lease: when the announcer dies, the instance is removed after this time; whole seconds (${default})."`
	Check          []string      `group:"Checks:" sep:"none" placeholder:"URL" help:"Check: the instance is announced when it passes, and not_ready while it fails later: http://…, https://…, tcp://host:port, grpc://host:port[/service], exec:COMMAND LINE (by sh; exit code 0 passes), or none. Repeat the flag for several, all of which must pass. Default: none; with a command, the instance is announced when its first host:port accepts a connection, after --start-period at the latest."`
	CheckRise      int           `group:"Checks:" default:"1" placeholder:"NUMBER" help:"How many checks in a row must pass until the instance is ready (${default})."`
	CheckFall      int           `group:"Checks:" default:"2" placeholder:"NUMBER" help:"How many checks in a row must fail until it is not_ready (${default})."`
	StartPeriod    time.Duration `group:"Checks:" default:"3s" placeholder:"DURATION" help:"How long the instance may take to start. Until then a failing check is not reported as an error (${default})."`
	Drain          time.Duration `group:"Instance:" default:"5s" placeholder:"DURATION" help:"After a signal to stop: how long the instance is announced as draining, at most, before it is deregistered (${default})."`
	Metadata       daemon.Pairs  `group:"Instance:" placeholder:"KEY=VALUE" help:"Metadata of the instance. Repeat the flag for each key."`
	Weight         int           `group:"Instance:" default:"100" placeholder:"NUMBER" help:"Share of calls relative to the other instances, 1 to 10000; 0: called only when no other instance can be (${default})."`
	Load           string        `group:"Load:" placeholder:"URL" help:"URL that answers with the load of the instance, a beat as JSON: http://… or https://…, or none. Default: none; with a command on Linux, its load is measured."`
	BeatInterval   time.Duration `group:"Load:" default:"5s" placeholder:"DURATION" help:"Time between two beats, which are reports of the load (${default})."`
	ServiceVersion string        `group:"Instance:" placeholder:"VERSION" help:"Version of the service that the instance runs."`

	Command []string `arg:"" optional:"" passthrough:"partial" help:"Command that is the instance, after --. The announcer starts it, passes signals to it, and ends with its exit code."`
}

// Help is shown by -h.
func (c *runCommand) Help() string {
	return `The instance is announced when its check has passed for the first time. While the check fails later it stays listed as not_ready.

On SIGTERM or SIGINT the announcer announces the instance as draining, waits until its calls have ended, at most for --drain, deregisters it, and then passes the signal to the command. A second signal skips the wait; the command gets it and all further ones at once. The announcer also passes SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 on. Without a command, a third signal ends the announcer at once, and SIGHUP changes nothing. When the command ends by itself the instance is deregistered at once.

Calls have ended when no connection to the ports of the endpoints is left. The announcer can see that only of a command whose load it measures; else the wait takes all of --drain. A systemd unit needs KillMode=mixed: otherwise systemd sends the signal to the command too, before the instance is deregistered.

Beats report the load of the instance to callers, which the strategy load_aware uses: {"cpu":0.42,"mem":0.5,"in_flight":12,"queue":0}. cpu and mem are shares of what the instance may use. With --load the announcer asks the instance. Without it the announcer measures its command: cpu and mem are those of its cgroup if that has limits (v2), else those of its processes; in_flight is the number of connections to the ports of its endpoints; queue is the number of connections that it has not accepted yet. An instance that uses NATS may also publish beats itself, on proxima.beat.<service>.<region>.<zone>.<id>.

When the announcer is killed (SIGKILL), its command and the instance go on running. Callers use the instance until its lease ends, within --ttl; then it is removed although it lives. An announcer that is started again beside it, with the same --id, registers it again: within a second if the lease has ended, else before it ends.

A command is started, runs and ends also without NATS; the instance is announced when NATS can be reached. Without a command, NATS must be reachable at the start (--connect-timeout).`
}

// Run announces the instance until ctx ends or the command does.
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
	if err := s.start(ctx, p); err != nil {
		return err
	}
	defer s.end(ctx)
	s.announcer.List(e)
	if len(argv) == 0 {
		return c.announce(ctx, p, s, e, o)
	}

	sup := &supervisor.Supervisor{Log: s.log, Again: p.Again}
	other := make(chan os.Signal, 8)
	signal.Notify(other, supervisor.PassedOn()...)
	defer signal.Stop(other)
	sup.Other = other
	if sup.Command, err = supervisor.Start(argv, p); err != nil {
		return err
	}
	defer s.begun(ctx)()
	if o.Load == nil && c.Load != load.None {
		if o.Load = c.measure(s, e.Instance.Endpoints, sup.Command.PID()); o.Load != nil {
			o.InFlight = load.InFlight(sup.Command.PID(), e.Instance.Endpoints)
		}
	}
	sup.Leave = announceInBackground(ctx, s, e, o)
	return sup.Run(ctx)
}

// announce announces an instance that another program runs, until ctx ends.
func (c *runCommand) announce(ctx context.Context, p *daemon.Process, s *session, e *announcing.Entry, o kv.AnnounceOptions) error {
	defer daemon.IgnoreHangups(s.log)()
	conn, registry, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer s.begun(ctx)()
	a, err := s.announcer.Announce(registry, e, o)
	if err != nil {
		return err
	}
	<-ctx.Done()
	_ = a.Leave(p.Hurried()) // the board logs errors; the lease ends by itself
	return nil
}

// announceInBackground announces as soon as the registry can be opened. It returns
// the function that deregisters the instance.
func announceInBackground(ctx context.Context, s *session, e *announcing.Entry, o kv.AnnounceOptions) func(context.Context) error {
	var a *kv.Announcement
	var conn *nats.Conn
	announced := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() { // the returned function waits for it
		var registry *kv.Registry
		var err error
		if conn, registry, err = s.connectInBackground(ctx); err == nil {
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
			// The look-up of the server's name cannot be interrupted.
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

// measure measures the command. It returns nil when the system does not allow it.
func (c *runCommand) measure(s *session, endpoints map[string]string, pid int) load.Func {
	// Without a connection there are no beats. The first load after a longer pause
	// would be an average over the pause.
	measured, err := load.Measure(pid, load.Ports(endpoints), 2*c.BeatInterval)
	if err != nil {
		s.log.Info("the load of the command is not measured", "reason", err)
	}
	return measured
}

// entry is the instance of the flags, with how it is announced.
func (c *runCommand) entry(s *session) (*announcing.Entry, kv.AnnounceOptions, error) {
	none := kv.AnnounceOptions{}
	// Zero in an instance means the default: a flag of zero is something else.
	weight := c.Weight
	switch {
	case c.TTL == 0:
		return nil, none, daemon.Usagef("--ttl 0s: want whole seconds from 1s to 1h")
	case weight == 0:
		weight = events.LastResort
	case weight < 0:
		return nil, none, daemon.Usagef("--weight %d: want 0 to 10000", weight)
	}
	e := &announcing.Entry{Won: s.where.Won, Instance: events.Instance{
		ID: cmp.Or(c.ID, randomID(c.Service)), Service: c.Service,
		Endpoints: c.Endpoint, Location: s.where.Location,
		Version: c.ServiceVersion, Weight: weight, Metadata: c.Metadata,
		Started: time.Now(), TTL: c.TTL,
	}}
	err := e.Prepare()
	if err == nil {
		err = s.reachable(&e.Instance)
	}
	if err != nil {
		return nil, none, flagError(err)
	}
	switch {
	case c.Drain < 0:
		return nil, none, daemon.Usagef("--drain %s: want 0 or more", c.Drain)
	case c.CheckRise < 1, c.CheckFall < 1:
		return nil, none, daemon.Usagef("--check-rise %d, --check-fall %d: want 1 or more", c.CheckRise, c.CheckFall)
	case c.StartPeriod < 0:
		return nil, none, daemon.Usagef("--start-period %s: want 0 or more", c.StartPeriod)
	case c.BeatInterval < load.ShortestInterval:
		return nil, none, daemon.Usagef("--beat-interval %s: want %s or more", c.BeatInterval, load.ShortestInterval)
	case c.BeatInterval > load.LongestInterval:
		return nil, none, daemon.Usagef("--beat-interval %s: want %s or less, as a beat counts for no longer than that", c.BeatInterval, load.LongestInterval)
	}
	var checks []check.Func
	for _, text := range c.Check {
		ask, err := parseCheck(text)
		if err != nil {
			return nil, none, daemon.Usagef("--%w", err) // it begins with "check"
		}
		checks = append(checks, ask)
	}
	e.Check = strings.Join(c.Check, " ")
	e.Ask = check.All(checks...)
	if len(c.Check) == 0 && len(c.Command) > 0 {
		e.Ask = check.Listening(c.Endpoint, c.StartPeriod)
	}
	u, err := load.Parse(c.Load)
	if err != nil {
		return nil, none, daemon.Usagef("--%w", err) // it begins with "load"
	}
	o := kv.AnnounceOptions{
		Drain: c.Drain, BeatInterval: c.BeatInterval, CheckRise: c.CheckRise, CheckFall: c.CheckFall,
	}
	if len(c.Check) > 0 {
		o.StartPeriod = c.StartPeriod
	}
	if u != nil {
		o.Load = load.Ask(u, s.log.With("service", c.Service, "instance", e.Instance.ID))
	}
	return e, o, nil
}

// parseCheck is [check.ParseOptional], for commands too.
func parseCheck(text string) (check.Func, error) {
	if line, ok := strings.CutPrefix(text, "exec:"); ok {
		return check.Exec(line)
	}
	ask, err := check.ParseOptional(text)
	if err != nil {
		err = fmt.Errorf("%w, exec:COMMAND LINE or none", err)
	}
	return ask, err
}

// randomID is the service and 8 random characters, short enough for an id.
func randomID(service string) string {
	const most = 63 - 1 - 8
	return service[:min(len(service), most)] + "-" + strings.ToLower(rand.Text()[:8])
}

// flagError names the flag instead of the field of the instance.
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
