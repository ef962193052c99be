package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/pkg/events"
)

type watchCommand struct {
	Service string `arg:"" optional:"" help:"Service to watch. Default: all."`

	operatorFlags
}

// Run prints what is listed, and then every change until it is stopped.
func (c *watchCommand) Run(ctx context.Context, p *daemon.Process) error {
	if c.Service != "" {
		if err := events.ValidateService(c.Service); err != nil {
			return &daemon.UsageError{Err: err}
		}
	}
	s, err := c.open(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.reachable(ctx, c.Service); err != nil {
		return err
	}
	show := printChange
	if c.JSON {
		show = func(w io.Writer, c directory.Change) error { return json.NewEncoder(w).Encode(c) }
	}
	err = directory.Follow(ctx, s.nc, s.registry, c.Registry.Name(), c.Service, func(c directory.Change) error {
		return show(p.Stdout, c)
	})
	if ctx.Err() != nil {
		return nil // told to stop
	}
	return err
}

// reachable says so at once when there is nothing to watch; once it has begun,
// a watch waits for ever.
func (s *session) reachable(ctx context.Context, service string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	_, err := s.registry.Snapshot(ctx, service)
	return err
}

// printChange prints one line.
func printChange(w io.Writer, c directory.Change) error {
	in := c.Instance
	_, err := fmt.Fprintf(w, "%s  %-12s  %-16s  %-24s  %s\n",
		c.Time.Format("15:04:05.000"), c.Kind, c.Service, in.ID, details(c))
	return err
}

// details is what is worth knowing of a change of that kind.
func details(c directory.Change) string {
	in := c.Instance
	switch c.Kind {
	case directory.Listed, directory.Registered:
		text := where(in.Location) + "  " + endpoints(in)
		if in.Status != events.Up {
			text += "  " + string(in.Status)
		}
		return text
	case directory.Updated:
		var all []string
		for _, f := range c.Fields {
			all = append(all, f+value(f, in))
		}
		return strings.Join(all, ", ")
	default:
		return where(in.Location)
	}
}

// value is what a field is now, where that is short.
func value(field string, in *events.Instance) string {
	switch field {
	case "status":
		return "=" + string(in.Status)
	case "version":
		return "=" + in.Version
	case "weight":
		return fmt.Sprint("=", in.Weight)
	case "endpoints":
		return "=" + endpoints(in)
	case "location":
		return "=" + where(in.Location)
	case "ttl":
		return "=" + in.TTL.String()
	}
	return ""
}
