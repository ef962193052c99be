package selector_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Expressions come and go, more of them than have tables, while lists, breakers and policies
// change. Each pick is in its subset.
func TestPicksStayInTheirSubsetsWhileAllElseChanges(t *testing.T) {
	const versions = 90
	var all []events.Entry
	for i := range versions * 3 {
		at := []events.Entry{instance(fmt.Sprint("i", i), home), instance(fmt.Sprint("i", i), nextDoor), instance(fmt.Sprint("i", i), farAway)}[i%3]
		at.Version = fmt.Sprint(i / 3)
		all = append(all, at)
	}
	p := &policies{}
	p.put(t, "", "")
	lists := &fixed{make(chan events.Snapshot)}
	p.Source = lists
	s, err := selector.New(t.Context(), nil, selector.Options{Source: p, Location: home, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	go func() { lists.lists <- events.Snapshot{Service: "user", Entries: sortEntries(all)} }()
	first, err := s.Pick(t.Context(), "user")
	if err != nil {
		t.Fatal(err)
	}
	first.Done(nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var work sync.WaitGroup
	for worker := range 4 {
		work.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(worker)))
			for ctx.Err() == nil {
				v := r.IntN(versions)
				ask := selector.Request{Service: "user", Where: fmt.Sprint("version=", v), Key: fmt.Sprint(r.IntN(10))}
				if r.IntN(3) == 0 {
					ask.From = &[]events.Entry{all[0], all[1], all[2]}[r.IntN(3)].Location
				}
				if r.IntN(5) == 0 {
					ask.Strategy = selector.Strategies()[r.IntN(len(selector.Strategies()))]
				}
				pick, err := s.PickFor(context.Background(), ask)
				if err != nil || pick.Version != fmt.Sprint(v) {
					t.Errorf("%+v: %+v, %v", ask, pick.Instance, err)
					return
				}
				if r.IntN(20) == 0 {
					pick.Done(errCall)
				} else {
					pick.Done(nil)
				}
				if r.IntN(50) == 0 {
					if _, err := s.Explain(context.Background(), ask); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	work.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			list := append([]events.Entry(nil), all...)
			in := *list[i%len(list)].Instance // one version has two instances then
			in.Weight = 1 + i%100
			list[i%len(list)].Instance = &in
			gone := i * 7 % len(list)
			list = append(list[:gone], list[gone+1:]...)
			select {
			case lists.lists <- events.Snapshot{Service: "user", Entries: sortEntries(list)}:
			case <-ctx.Done():
			}
			s.Stats()
			time.Sleep(time.Millisecond) // so that picks get in between
		}
	})
	work.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			p.put(t, "", []string{
				`{"strategy":"round_robin","where":"version=1"}`, `{"splits":[{"where":"version=2","share":0.1}],"leave":{"regions":["eu"]}}`,
				`{"strategy":"consistent_hash","near":{"slack":"5ms"}}`, `{"breaker":{"failures":2,"window":"1s"}}`, ``,
			}[i%5])
			time.Sleep(3 * time.Millisecond) // so that picks get in between
		}
	})
	work.Wait()
	for _, svc := range s.Stats().Services {
		for _, c := range svc.Circles {
			if c.InFlight != 0 {
				t.Errorf("%d calls are in flight in %s", c.InFlight, c.Name)
			}
		}
	}
}
