package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/pkg/events"
)

type watchCommand struct {
	Service string `arg:"" optional:"" help:"Service to watch. Default: all."`

	operatorFlags
}

// Run prints what is listed, then every change until ctx ends.
func (c *watchCommand) Run(ctx context.Context, p *daemon.Process) error {
	if c.Service != "" {
		if err := validService(c.Service); err != nil {
			return err
		}
	}
	log := slog.New(slog.NewTextHandler(p.Stderr, nil))
	if !daemon.IsTerminal(p.Stdout) { // else SIGHUP says that the terminal is gone
		defer daemon.IgnoreHangups(log)()
	}
	s, err := c.open(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.readable(ctx, c.Service); err != nil {
		return err
	}
	show := printChange
	if c.JSON {
		show = func(w io.Writer, c directory.Change) error { return json.NewEncoder(w).Encode(c) }
	}
	connected := s.nc.StatusChanged(nats.CONNECTED)
	defer s.nc.RemoveStatusListener(connected)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return directory.Follow(ctx, s.registry, c.Service, func(c directory.Change) error {
			return show(p.Stdout, c)
		})
	})
	g.Go(func() error { // the loss of the connection is logged as a warning
		for {
			select {
			case <-connected:
				log.Info("connected to NATS again", "url", s.nc.ConnectedUrlRedacted())
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// readable returns an error at once if the registry cannot be read. The watch
// itself would wait for it.
func (s *session) readable(ctx context.Context, service string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	_, err := s.registry.Snapshot(ctx, service)
	return err
}

// printChange prints a change as one line.
func printChange(w io.Writer, c directory.Change) error {
	_, err := fmt.Fprintf(w, "%s  %-12s  %-16s  %-24s  %s\n",
		c.Time.Format("15:04:05.000"), c.Kind, c.Service, c.Instance.ID, details(c))
	return err
}

// details are the facts that matter for a change of that kind.
func details(c directory.Change) string {
	in := c.Instance
	switch c.Kind {
	case directory.Listed, directory.Registered:
		text := place(in.Location) + "  " + pairs(in.Endpoints)
		if in.Status != events.Up {
			text += "  " + string(in.Status)
		}
		return text
	case directory.Updated:
		var all []string
		for _, f := range c.Fields {
			all = append(all, f+value(f, &c))
		}
		return strings.Join(all, ", ")
	default:
		return place(in.Location)
	}
}

// value is the new value of a changed field, if it is short.
func value(field string, c *directory.Change) string {
	in := c.Instance
	switch field {
	case "status":
		return "=" + string(in.Status)
	case "version":
		return "=" + in.Version
	case "weight":
		return fmt.Sprint("=", max(0, in.Weight))
	case "endpoints":
		return "=" + pairs(in.Endpoints)
	case "location":
		return "=" + place(in.Location)
	case "ttl":
		return "=" + in.TTL.String()
	case "suspect":
		return fmt.Sprint("=", c.Suspect)
	case "evacuated":
		return fmt.Sprint("=", c.Evacuated)
	}
	return ""
}
