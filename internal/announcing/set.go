package announcing

import (
	"context"
	"sync"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

// Source lists the instances that are to be announced. *file.Source is one.
type Source interface {
	// Next waits until the list has changed and returns the new one, complete.
	// The first call returns the present list at once. It returns an error only
	// when ctx ends.
	Next(ctx context.Context) ([]*Entry, error)
}

// Keep announces the instances that the source lists, until ctx ends; it returns
// when all of them have left. The end of hurried ends every draining. With
// [Announcer.LeaveListed] they do not leave then.
func (a *Announcer) Keep(ctx, hurried context.Context, registry *kv.Registry, source Source) {
	s := &set{announcer: a, registry: registry, keepers: make(map[string]*keeper)}
	s.start = func(k *keeper) { s.running.Go(func() { k.run(ctx, hurried) }) }
	s.follow(ctx, source)
	s.running.Wait()
}

// set has a keeper for every instance that is listed. It is used by one goroutine.
type set struct {
	announcer *Announcer
	registry  *kv.Registry
	start     func(*keeper)

	keepers map[string]*keeper // by name
	running sync.WaitGroup
}

// follow applies the list whenever it changes, until ctx ends.
func (s *set) follow(ctx context.Context, source Source) {
	for {
		entries, err := source.Next(ctx)
		if err != nil {
			return
		}
		s.apply(entries)
	}
}

// apply gives every keeper its entry, or nil when its instance is listed no more.
func (s *set) apply(entries []*Entry) {
	listed := make(map[string]bool, len(entries))
	for _, e := range entries {
		n := e.Name()
		listed[n] = true
		if k := s.keepers[n]; k == nil || !k.set(e) {
			s.keep(n, e)
		}
	}
	for n, k := range s.keepers {
		if !listed[n] && !k.set(nil) {
			delete(s.keepers, n) // it has ended
		}
	}
}

func (s *set) keep(n string, e *Entry) {
	k := &keeper{announcer: s.announcer, registry: s.registry, changed: make(chan struct{}, 1)}
	k.set(e)
	s.keepers[n] = k
	s.start(k)
}
