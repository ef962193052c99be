package main

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/file"
	"github.com/proxima-discovery/proxima/internal/daemon"
)

type fileCommand struct {
	File  string        `arg:"" help:"JSON array of instances, each as in the registry's record, and perhaps with \"check\" and \"drain\"."`
	Drain time.Duration `default:"5s" placeholder:"DURATION" help:"How long an instance that leaves is announced as draining, unless its entry says so (${default})."`
	Poll  time.Duration `default:"10s" placeholder:"DURATION" help:"Time between two looks at the file, besides those after a notice of the system (${default})."`
}

// Help is shown by -h.
func (c *fileCommand) Help() string {
	return `The file is a JSON array:

  [{"service":"user", "id":"user-1", "endpoints":{"http":"10.0.0.5:8080"}, "check":"http://10.0.0.5:8080/healthz", "drain":"5s"}]

Entries may have all fields of the registry's record. Where an entry does not say where its instance runs, it is taken to run where the announcer does. Without a check, an instance is taken to work.

When the file changes, instances are added, changed and taken out. A file with a fault is reported and changes nothing.`
}

// Run announces the instances of the file until it is told to stop.
func (c *fileCommand) Run(ctx context.Context, p *daemon.Process, app *cli) error {
	s, err := app.prepare(ctx, p)
	switch {
	case err != nil:
		return err
	case c.Drain < 0:
		return daemon.Usagef("--drain %s: want 0 or more", c.Drain)
	case c.Poll <= 0:
		return daemon.Usagef("--poll %s: want more than 0", c.Poll)
	}
	source, err := file.Open(c.File, file.Options{Poll: c.Poll, Drain: c.Drain, Where: s.where, Logger: s.log})
	if err != nil {
		return err
	}
	defer source.Close()
	if err := s.start(ctx, p.Getenv); err != nil {
		return err
	}
	defer s.end(ctx)
	conn, registry, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	s.begun()

	s.announcer.Keep(ctx, registry, source, p.Again)
	return nil
}
