package regions

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// part is what one of the buckets lists.
type part struct {
	bucket int // 0: of this region, 1: of the others
	events.Snapshot
}

// Watch is a watch of one bucket.
type Watch func(ctx context.Context, apply func(events.Snapshot)) error

// Combine is a watch of both buckets: of this region, whose name is own, and of
// the others. An empty service is all.
func Combine(ctx context.Context, own, service string, both [2]Watch, apply func(events.Snapshot)) error {
	parts := make(chan part)
	g, run := errgroup.WithContext(ctx)
	for i, watch := range both {
		g.Go(func() error {
			return watch(run, func(s events.Snapshot) {
				select {
				case parts <- part{i, s}:
				case <-run.Done():
				}
			})
		})
	}
	g.Go(func() error {
		c := combination{own: own, service: service, lists: map[string]*[2]*events.Snapshot{}}
		return c.run(run, parts, apply)
	})
	return g.Wait()
}

// combination puts together what is listed in this region and in the others. An
// instance is listed by its own region alone, so the parts have nothing in common.
type combination struct {
	own     string
	service string                          // the one that is watched, empty for all
	lists   map[string]*[2]*events.Snapshot // by service and bucket
	late    bool                            // it takes too long to hear of the others
}

func (c *combination) run(ctx context.Context, parts <-chan part, apply func(events.Snapshot)) error {
	late := time.NewTimer(firstOthers)
	defer late.Stop()
	for {
		service := c.service
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			c.late = true
		case p := <-parts:
			service = p.Service
			c.take(p)
		}
		if s, ok := c.snapshot(service); ok {
			apply(s)
		}
	}
}

func (c *combination) take(p part) {
	l := c.lists[p.Service]
	if l == nil {
		l = new([2]*events.Snapshot)
		c.lists[p.Service] = l
	}
	foreign := func(e events.Entry) bool { return !c.ours(e.Location.Region) }
	if p.bucket == 0 && slices.ContainsFunc(p.Entries, foreign) {
		p.Entries = slices.DeleteFunc(slices.Clone(p.Entries), foreign)
	}
	l[p.bucket] = &p.Snapshot
}

// ours says whether instances of a region are listed in our own bucket: those
// that do not know where they are, too.
func (c *combination) ours(region string) bool { return region == "" || region == c.own }

// snapshot is the whole list of a service, false while it is not known.
func (c *combination) snapshot(service string) (events.Snapshot, bool) {
	whole := events.Snapshot{Service: service}
	l := c.lists[service]
	if l == nil {
		return whole, false
	}
	for _, s := range l {
		switch {
		case s != nil:
			whole.Entries = append(whole.Entries, s.Entries...)
			whole.Left = append(whole.Left, s.Left...)
			if s.Stale && (whole.StaleSince.IsZero() || s.StaleSince.Before(whole.StaleSince)) {
				whole.StaleSince = s.StaleSince
			}
			whole.Stale = whole.Stale || s.Stale
		case c.service == "":
		case c.late:
			whole.Stale = true
		default:
			return whole, false
		}
	}
	slices.SortFunc(whole.Entries, func(a, b events.Entry) int { return a.Compare(b.Instance) })
	if len(whole.Entries) == 0 && c.service == "" {
		delete(c.lists, service)
	}
	return whole, true
}

// Merge puts together what was read from both buckets: one snapshot for each
// service, ordered by name.
func Merge(own string, both [2][]events.Snapshot) []events.Snapshot {
	c := combination{own: own, lists: map[string]*[2]*events.Snapshot{}}
	for i, read := range both {
		for _, s := range read {
			c.take(part{i, s})
		}
	}
	var all []events.Snapshot
	for _, name := range slices.Sorted(maps.Keys(c.lists)) {
		if s, _ := c.snapshot(name); len(s.Entries) > 0 {
			all = append(all, s)
		}
	}
	return all
}
