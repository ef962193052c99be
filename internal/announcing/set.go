package announcing

import (
	"context"
	"os"
	"sync"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

// Source lists the instances that are to be announced. *file.Source is one.
type Source interface {
	// Next waits until the list is another one, and returns it. It returns an
	// error only when ctx ends.
	Next(ctx context.Context) ([]*Entry, error)
}

// Keep announces what the source lists, and nothing else, until ctx ends and
// all have left. A signal on again ends every draining.
func (a *Announcer) Keep(ctx context.Context, registry *kv.Registry, source Source, again <-chan os.Signal) {
	hurried, hurry := context.WithCancel(context.WithoutCancel(ctx))
	defer hurry()
	s := &set{announcer: a, registry: registry, keepers: make(map[string]*keeper)}
	s.start = func(k *keeper) { s.running.Go(func() { k.run(ctx, hurried) }) }
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		s.follow(ctx, source)
		s.running.Wait()
	}()
	for {
		select {
		case <-done:
			return
		case <-again:
			hurry()
		}
	}
}

// set has a keeper for every instance that is listed. One goroutine uses it.
type set struct {
	announcer *Announcer
	registry  *kv.Registry
	start     func(*keeper) // runs it

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

// apply makes the keepers want what is listed, and nothing else.
func (s *set) apply(entries []*Entry) {
	listed := make(map[string]bool, len(entries))
	for _, e := range entries {
		n := e.Name()
		listed[n] = true
		if k := s.keepers[n]; k == nil || !k.want(e) {
			s.keep(n, e)
		}
	}
	for n, k := range s.keepers {
		if !listed[n] && !k.want(nil) {
			delete(s.keepers, n) // it has ended
		}
	}
}

func (s *set) keep(n string, e *Entry) {
	k := &keeper{announcer: s.announcer, registry: s.registry, changed: make(chan struct{}, 1)}
	k.want(e)
	s.keepers[n] = k
	s.start(k)
}
