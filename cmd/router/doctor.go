package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

type doctorCommand struct {
	Fix bool `help:"Give the streams the replicas and settings that they should have. Nothing else is changed."`

	operatorFlags
}

// Help is shown by -h.
func (c *doctorCommand) Help() string {
	return `One line for each check: ok, warning or error, what was found, and what to do. The doctor looks at the servers (connection, version, clock, limits, JetStream domain, other regions), the bucket (settings, replicas), what this user is allowed to do, and at what is listed: records and policies that cannot be read, instances without a place or lease, and the suspects of a router. It changes nothing without --fix. Run it with the credentials of an announcer, caller or router to see what those are allowed to do.

The exit code is 1 if there is an error, and 0 if there are only warnings.`
}

// examineWait bounds all checks together.
const examineWait = 30 * time.Second

// diagnosis is what is printed as JSON.
type diagnosis struct {
	Findings []kv.Finding `json:"findings"`
	Errors   int          `json:"errors"`
	Warnings int          `json:"warnings"`
	Fixed    []string     `json:"fixed,omitempty"`
}

// Run makes the checks.
func (c *doctorCommand) Run(ctx context.Context, p *daemon.Process) error {
	if err := c.Registry.Validate(); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler) // what is wrong is found
	nc, err := c.NATS.Connect(ctx, "proxima-doctor", log)
	if _, wrong := errors.AsType[*daemon.UsageError](err); wrong {
		return err
	}
	var d diagnosis
	if err != nil {
		d.Findings = []kv.Finding{{Check: "connection", Level: kv.FindingError, Text: err.Error(), Advice: "start NATS, or correct --nats-url and the credentials"}}
		return c.report(p, &d)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, examineWait)
	defer cancel()
	o := c.Registry.Options(log)
	o.NoCreate = true
	if c.Fix {
		if d.Fixed, err = kv.Repair(ctx, nc, o); err != nil {
			d.Findings = append(d.Findings, kv.Finding{Check: "fix", Level: kv.FindingError, Text: err.Error(), Advice: "use a user that may update the stream"})
		}
	}
	found, err := kv.Diagnose(ctx, nc, o)
	if err != nil {
		return err
	}
	d.Findings = append(d.Findings, found...)
	d.Findings = append(d.Findings, c.suspects(ctx, nc))
	return c.report(p, &d)
}

// report prints the findings and returns the exit code.
func (c *doctorCommand) report(p *daemon.Process, d *diagnosis) error {
	for _, f := range d.Findings {
		switch f.Level {
		case kv.FindingError:
			d.Errors++
		case kv.FindingWarning:
			d.Warnings++
		}
	}
	err := c.print(p, d)
	if err == nil && d.Errors > 0 {
		err = &daemon.ExitError{Code: 1} // it has been printed
	}
	return err
}

func (c *doctorCommand) print(p *daemon.Process, d *diagnosis) error {
	if c.JSON {
		return printJSON(p.Stdout, d)
	}
	for _, fixed := range d.Fixed {
		fmt.Fprintf(p.Stdout, "fixed: %s\n", fixed)
	}
	for _, f := range d.Findings {
		line := fmt.Sprintf("%-7s  %-11s  %s", f.Level, f.Check, f.Text)
		if f.Advice != "" {
			line += ". Do: " + f.Advice
		}
		if _, err := fmt.Fprintln(p.Stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// suspects asks a router which instances it takes for suspects: it has heard what has
// happened, and this command has not.
func (c *doctorCommand) suspects(ctx context.Context, nc *nats.Conn) kv.Finding {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	f := kv.Finding{Check: "suspects", Level: kv.FindingOK}
	services, err := c.services(ctx, nc)
	total, dead, unsure := 0, 0, ""
	for _, service := range services {
		var list router.Instances
		var answer *nats.Msg
		if answer, err = nc.RequestWithContext(ctx, c.Registry.Name()+".resolve."+service, nil); err != nil {
			break
		}
		if json.Unmarshal(answer.Data, &list) != nil {
			continue
		}
		for _, in := range list.Instances {
			if in.Suspect {
				total++
				unsure = cmp.Or(unsure, service+"/"+in.ID)
			}
			if in.Suspect && in.Breaker != "closed" {
				dead++
			}
		}
	}
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		f.Text = "no router answers, which would know"
	case err != nil:
		f.Text = "not known: " + err.Error()
	case total > 0:
		f.Level, f.Text = kv.FindingWarning, fmt.Sprintf("%d, as %s: their leases have ended, and no probe proves them dead; %d with an open breaker", total, unsure, dead)
		f.Advice = "start their announcers again; those that are gone leave by themselves within ten minutes"
	default:
		f.Text = "none, as a router sees it"
	}
	return f
}

// services are those that are listed.
func (c *doctorCommand) services(ctx context.Context, nc *nats.Conn) ([]string, error) {
	o := c.Registry.Options(slog.New(slog.DiscardHandler))
	o.NoCreate = true
	registry, err := kv.Open(ctx, nc, o)
	if err != nil {
		return nil, err
	}
	var snapshots []events.Snapshot
	if snapshots, err = registry.Snapshot(ctx, ""); err != nil {
		return nil, err
	}
	var names []string
	for _, s := range snapshots {
		names = append(names, s.Service)
	}
	return names, nil
}
