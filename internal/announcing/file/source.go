// Package file reads the instances to announce from a JSON file.
package file

import (
	"context"
	"log/slog"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing"
	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Options configure [Open].
type Options struct {
	// Poll is how often the file is read although the system has reported no
	// change of it.
	Poll time.Duration
	// Drain is for entries without one.
	Drain time.Duration
	// AllowEmpty believes a file that loses all of its instances, or more than half of
	// them, at once; see [announcing.Doubt].
	AllowEmpty bool
	// OnState is called when the file was read. Nil: not.
	OnState func(announcing.SourceState)
	// Where the announcer runs. Entries without a location get this one.
	Where topology.Detection
	// Reachable refuses instances that callers cannot reach. Nil: none are refused.
	Reachable func(*events.Instance) error
	Logger    *slog.Logger
}

// Source is a watched file. It must be used by one goroutine.
type Source struct {
	*watcher
	options Options
	first   []*announcing.Entry // as Open has read them, for the first Next
	doubt   announcing.Doubt
	state   announcing.SourceState
}

// Open reads the file and begins to watch it. Its errors are of the type
// [daemon.UsageError].
func Open(path string, o Options) (*Source, error) {
	s := &Source{watcher: newWatcher(path, o.Poll, o.Logger), options: o, doubt: announcing.Doubt{Off: o.AllowEmpty}}
	s.state.Source = "file"
	data, _, err := s.read()
	if err != nil {
		s.Close()
		return nil, &daemon.UsageError{Err: err}
	}
	if s.first, err = parseEntries(data, s.options); err != nil {
		s.Close()
		return nil, daemon.Usagef("%s: %w", path, err)
	}
	s.take(s.first)
	return s, nil
}

// take doubts what the file says, and tells what has become of it.
func (s *Source) take(stated []*announcing.Entry) []*announcing.Entry {
	apply, held := s.doubt.Take(stated, time.Now())
	s.state.Instances, s.state.Held, s.state.At, s.state.Err = len(apply), held, time.Now(), nil
	s.tell()
	return apply
}

func (s *Source) tell() {
	if s.options.OnState != nil {
		s.options.OnState(s.state)
	}
}

// Next returns at first the entries that Open has read. Later it waits until the
// file has changed and is valid. It returns an error only when ctx ends.
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
			entries, err = parseEntries(data, s.options)
		}
		if err != nil {
			s.log.Error("the file is invalid, the instances stay as they are", "file", s.path, "error", err)
			s.state.Err = err
			s.state.Refused++
			s.tell()
			continue
		}
		before := s.state.Held
		apply := s.take(entries)
		switch held := s.state.Held; {
		case held > 0:
			s.log.Warn("the file has lost most of its instances at once: they stay announced until the file is written once more (or with --allow-empty)",
				"file", s.path, "listed", len(entries), "held", held)
		case before > 0:
			s.log.Info("the file has confirmed its list", "file", s.path, "instances", len(entries))
		default:
			s.log.Info("the file has changed", "file", s.path, "instances", len(entries))
		}
		return apply, nil
	}
}

// Reload has the file read now, and calls done then. It may be called by any goroutine.
func (s *Source) Reload(done func()) {
	select {
	case s.reload <- done:
	default: // it is about to be read anyway
		done()
	}
}

// Close ends the watch.
func (s *Source) Close() { s.close() }
