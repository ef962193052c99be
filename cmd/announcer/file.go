package main

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/file"
	"github.com/proxima-discovery/proxima/internal/daemon"
)

type fileCommand struct {
	File        string        `arg:"" help:"JSON array of instances, each with the fields of a record in the registry, \"check\" and \"drain\"."`
	Drain       time.Duration `group:"Instances:" default:"5s" placeholder:"DURATION" help:"How long an instance that leaves is announced as draining, unless its entry has a \"drain\" (${default})."`
	AllowEmpty  bool          `group:"Instances:" help:"Accept a file at once that loses all of its instances, or more than half of them. Without this flag they stay announced until the file is written once more."`
	LeaveListed bool          `group:"Instances:" help:"On SIGTERM leave the instances listed until their leases end. An announcer that is started before that takes them over, and no call fails."`
	Poll        time.Duration `group:"Instances:" default:"10s" placeholder:"DURATION" help:"How often the file is read although the system has reported no change of it (${default})."`
}

// Help is shown by -h.
func (c *fileCommand) Help() string {
	return `The file is a JSON array:

  [{"service":"user", "id":"user-1", "endpoints":{"http":"10.0.0.5:8080"}, "check":"http://10.0.0.5:8080/healthz", "drain":"5s"}]

An entry has the fields of a record in the registry (docs/doors.md, Register), "check" and "drain". An entry without a location gets that of the announcer. An instance without a check is always ready.

When the file changes, instances are announced, updated and deregistered. An invalid file is logged and changes nothing. A file that loses all of its instances, or more than half of them, must be written twice, a second or more apart. SIGHUP has the file read at once.

On SIGTERM or SIGINT all instances are announced as draining, for their drain, and deregistered. A second signal skips the wait, a third ends the announcer at once, and leaves the rest to the leases.`
}

// Run announces the instances of the file until ctx ends.
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
	source, err := file.Open(c.File, file.Options{
		Poll: c.Poll, Drain: c.Drain, AllowEmpty: c.AllowEmpty, OnState: s.onSource, Where: s.where, Reachable: s.reachable, Logger: s.log,
	})
	if err != nil {
		return err
	}
	defer source.Close()
	defer daemon.OnHangup(func() {
		s.log.Info("SIGHUP: reading the file", "file", c.File)
		s.manager.Reload(source.Reload)
	})()
	s.announcer.LeaveListed = c.LeaveListed
	if err := s.start(ctx, p); err != nil {
		return err
	}
	defer s.end(ctx)
	conn, registry, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer s.begun(ctx)()

	s.announcer.Keep(ctx, p.Hurried(), registry, source)
	return nil
}
