package main

import (
	"context"
	"slices"
	"sync"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// source lists the instances of a world, as a registry does. A watcher that is
// slow skips snapshots, but not the last.
type source struct {
	mu       sync.Mutex
	services map[string]*listing
}

type listing struct {
	snapshot events.Snapshot
	changed  chan struct{} // closed when there is another
}

func newSource() *source { return &source{services: make(map[string]*listing)} }

// Watch calls apply with every snapshot until ctx ends.
func (s *source) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	for {
		s.mu.Lock()
		l := s.listingLocked(service)
		snapshot, changed := l.snapshot, l.changed
		s.mu.Unlock()
		apply(snapshot)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// put lists an instance, in place of the one with its key if there is one.
func (s *source) put(in *events.Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.listingLocked(in.Service)
	entries := slices.Clone(l.snapshot.Entries)
	at, found := slices.BinarySearchFunc(entries, in, func(e events.Entry, in *events.Instance) int { return e.Compare(in) })
	if !found {
		entries = slices.Insert(entries, at, events.Entry{})
	}
	entries[at] = events.Entry{Instance: in, Revision: entries[at].Revision + 1}
	l.snapshot.Entries = entries
	close(l.changed)
	l.changed = make(chan struct{})
}

func (s *source) listingLocked(service string) *listing {
	l := s.services[service]
	if l == nil {
		l = &listing{events.Snapshot{Service: service}, make(chan struct{})}
		s.services[service] = l
	}
	return l
}
