// Package file lists the instances of a JSON file, again whenever it changes.
package file

import (
	"context"
	"log/slog"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing"
	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Options configure [Open].
type Options struct {
	// Poll is the time between two looks at the file, besides those after a
	// notice of the system.
	Poll time.Duration
	// Drain is that of the entries which do not say theirs.
	Drain time.Duration
	// Where the announcer runs: so do the instances whose entries do not say
	// where they run.
	Where  topology.Detection
	Logger *slog.Logger
}

// Source is a file that lists instances. One goroutine uses it.
type Source struct {
	*follower
	defaults defaults
	first    []*announcing.Entry // what Open has read, nil once it was given
}

// Open reads the file, and begins to watch it. An error is a
// [daemon.UsageError].
func Open(path string, o Options) (*Source, error) {
	s := &Source{follower: newFollower(path, o.Poll, o.Logger), defaults: defaults{o.Where, o.Drain}}
	data, _, err := s.read()
	if err != nil {
		s.Close()
		return nil, &daemon.UsageError{Err: err}
	}
	if s.first, err = parseEntries(data, s.defaults); err != nil {
		s.Close()
		return nil, daemon.Usagef("%s: %w", path, err)
	}
	return s, nil
}

// Next returns what Open has read, and later waits until the file has changed
// and can be used. It returns an error only when ctx ends.
func (s *Source) Next(ctx context.Context) ([]*announcing.Entry, error) {
	if first := s.first; first != nil {
		s.first = nil
		return first, nil
	}
	for {
		data, err := s.next(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var entries []*announcing.Entry
		if err == nil {
			entries, err = parseEntries(data, s.defaults)
		}
		if err != nil {
			s.log.Error("the file is not used, what was good before stays", "file", s.path, "error", err)
			continue
		}
		s.log.Info("the file has changed", "file", s.path, "instances", len(entries))
		return entries, nil
	}
}

// Close ends the watching.
func (s *Source) Close() { s.close() }
