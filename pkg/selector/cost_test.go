package selector_test

import (
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// requests are all the ways to pick that are used over and over.
func requests() []selector.Request {
	return []selector.Request{
		{Service: "user"},
		{Service: "user", Protocol: events.NATS},
		{Service: "user", From: &nextDoor, Key: "k"},
		{Service: "user", Avoid: []string{"i0", "i1"}},
	}
}

func TestAPickAllocatesNothing(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			s := openReal(t, selector.Options{Strategy: strategy}, append(several(10), instance("door", nextDoor), instance("far", farAway))...)
			ctx := t.Context()
			got := testing.AllocsPerRun(1000, func() {
				p, _ := s.Pick(ctx, "user")
				p.Done(nil)
			})
			if got != 0 {
				t.Errorf("Pick and Done: %v allocations", got)
			}
			for i, r := range requests() {
				got := testing.AllocsPerRun(1000, func() {
					p, _ := s.PickFor(ctx, r)
					p.DoneAfter(nil, time.Millisecond)
				})
				if got != 0 {
					t.Errorf("PickFor of request %d and DoneAfter: %v allocations", i, got)
				}
			}
		})
	}
}

func TestAPickNeedsNoLock(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			s := openReal(t, selector.Options{Strategy: strategy}, append(several(10), instance("door", nextDoor))...)
			release := s.Hold("user")
			var picks sync.WaitGroup
			done := make(chan struct{})
			picks.Go(func() {
				for range 100 {
					p, err := s.Pick(t.Context(), "user")
					if err != nil {
						t.Error(err)
					}
					p.Done(nil)
					for _, r := range requests() {
						p, err := s.PickFor(t.Context(), r)
						if err != nil {
							t.Error(err)
						}
						p.Done(nil)
					}
				}
				close(done)
			})
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Error("picks wait for a lock")
			}
			release()
			picks.Wait()
		})
	}
}
