package main

import (
	"context"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/kv"
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
	defaults := defaults{s.where, c.Drain}
	file := newFollower(c.File, c.Poll, s.log)
	defer file.close()
	data, _, err := file.read()
	if err != nil {
		return &daemon.UsageError{Err: err}
	}
	entries, err := parseEntries(data, defaults)
	if err != nil {
		return daemon.Usagef("%s: %w", c.File, err)
	}
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

	hurried, hurry := context.WithCancel(context.WithoutCancel(ctx))
	defer hurry()
	l := &lister{session: s, registry: registry, keepers: make(map[name]*keeper)}
	l.start = func(k *keeper) { l.running.Go(func() { k.run(ctx, hurried) }) }
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		l.apply(entries)
		l.follow(ctx, file, defaults)
		l.running.Wait()
	}()
	for {
		select {
		case <-done:
			return nil
		case <-p.Again:
			hurry()
		}
	}
}

// lister has a keeper for every instance of the file. One goroutine uses it.
type lister struct {
	session  *session
	registry *kv.Registry
	start    func(*keeper) // runs it

	keepers map[name]*keeper
	running sync.WaitGroup
}

// follow applies the file whenever it changes, until ctx ends.
func (l *lister) follow(ctx context.Context, file *follower, d defaults) {
	for {
		data, err := file.next(ctx)
		if ctx.Err() != nil {
			return
		}
		var entries []*entry
		if err == nil {
			entries, err = parseEntries(data, d)
		}
		if err != nil {
			l.session.log.Error("the file is not used, what was good before stays", "file", file.path, "error", err)
			continue
		}
		l.session.log.Info("the file has changed", "file", file.path, "instances", len(entries))
		l.apply(entries)
	}
}

// apply makes the keepers want what the file lists, and nothing else.
func (l *lister) apply(entries []*entry) {
	listed := make(map[name]bool, len(entries))
	for _, e := range entries {
		n := e.name()
		listed[n] = true
		if k := l.keepers[n]; k == nil || !k.want(e) {
			l.keep(n, e)
		}
	}
	for n, k := range l.keepers {
		if !listed[n] && !k.want(nil) {
			delete(l.keepers, n) // it has ended
		}
	}
}

func (l *lister) keep(n name, e *entry) {
	k := &keeper{session: l.session, registry: l.registry, changed: make(chan struct{}, 1)}
	k.want(e)
	l.keepers[n] = k
	l.start(k)
}
