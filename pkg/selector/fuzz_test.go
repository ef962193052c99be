package selector_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// imagined is one instance of a fuzzer.
type imagined struct {
	entry events.Entry
	rank  int // its state: 0 is the best, -1 is never picked
	half  bool
}

var places = []topology.Location{home, nextDoor, farAway, nowhere, {Region: "us"}, {Zone: "us-a"}}

// imagine reads an instance from two bytes.
func imagine(i int, a, b byte) imagined {
	im := imagined{entry: instance(fmt.Sprintf("i%02d", i), places[int(a%8)%len(places)], weight(1+int(b)))}
	switch a >> 3 % 4 {
	case 1:
		im.entry.Status = events.Draining
	case 2:
		im.entry.Status = events.NotReady
	}
	im.entry.Suspect = a>>5%4 == 1
	im.entry.Evacuated = b>>5 == 3
	fails := b%4 == 1
	im.half = b%4 == 2
	switch {
	case im.entry.Status == events.NotReady:
		im.rank = -1
	case im.entry.Evacuated && fails:
		im.rank = 6
	case im.entry.Evacuated:
		im.rank = 3
	case im.entry.Status == events.Draining && fails:
		im.rank = 5
	case fails:
		im.rank = 4
	case im.entry.Status == events.Draining:
		im.rank = 2
	case im.entry.Suspect:
		im.rank = 1
	}
	return im
}

// FuzzPick makes arbitrary fleets: an instance in the best state is picked, from the
// nearest circle that has one.
func FuzzPick(f *testing.F) {
	f.Add(uint8(0), uint8(0), []byte{})
	f.Add(uint8(0), uint8(0), []byte{0, 0, 1, 0, 2, 0})
	f.Add(uint8(1), uint8(1), []byte{0, 1, 1, 1, 2, 2})
	f.Add(uint8(2), uint8(2), []byte{8, 1, 16, 0, 32, 0, 3, 9})
	f.Add(uint8(0), uint8(0), []byte{0, 0x60, 1, 0x61, 2, 0x63, 40, 0x60})
	f.Add(uint8(2), uint8(0), []byte{0, 0x61, 1, 1, 8, 0x60, 32, 0})
	f.Add(uint8(6), uint8(5), []byte{0, 2, 0, 6, 0, 1, 9, 2, 10, 5, 40, 3, 48, 0})
	f.Fuzz(func(t *testing.T, strategy, from uint8, data []byte) {
		strategies := selector.Strategies()
		synctest.Test(t, func(t *testing.T) {
			var all []imagined
			for i := 0; i+1 < len(data) && len(all) < 24; i += 2 {
				all = append(all, imagine(len(all), data[i], data[i+1]))
			}
			w := start(t, selector.Options{Strategy: strategies[int(strategy)%len(strategies)]})
			w.enact(all)
			var r selector.Request
			if from%8 != 0 {
				r.From = &places[int(from)%len(places)]
			}
			w.check(all, r)
		})
	})
}

// enact lists the instances and brings their breakers into their states.
func (w *world) enact(all []imagined) {
	w.t.Helper()
	var ready, entries []events.Entry
	for _, im := range all {
		in := *im.entry.Instance
		in.Status = events.Up
		ready = append(ready, events.Entry{Instance: &in})
		entries = append(entries, im.entry)
	}
	w.list(ready...)
	refuse := func(which func(imagined) bool) {
		for _, im := range all {
			if which(im) {
				w.call(im.entry.ID, errRefused)
			}
		}
	}
	refuse(func(im imagined) bool { return im.half })
	time.Sleep(3900 * time.Millisecond)
	refuse(func(im imagined) bool { return !im.half && im.rank >= 4 })
	time.Sleep(1200 * time.Millisecond)
	w.list(entries...) // takes a second; those of half are half-open then, the others are not
}

// check compares picks and the explanation with what is expected.
func (w *world) check(all []imagined, r selector.Request) {
	w.t.Helper()
	place := topology.Place{Location: home}
	if r.From != nil {
		place.Location = *r.From
	}
	best, circle := -1, 0
	for _, im := range all {
		c := topology.DefaultLevels().Circle(place, im.entry.Place())
		if im.rank >= 0 && (best < 0 || im.rank < best || im.rank == best && c < circle) {
			best, circle = im.rank, c
		}
	}
	in := 0 // panic: suspects fill in
	of := make(map[int]int)
	for _, im := range all {
		of[im.rank]++
	}
	if half := (of[0] + of[1] + of[4] + 1) / 2; of[0] > 0 && of[0] < half {
		in = min(of[1], half-of[0])
	}
	e, err := w.Explain(w.t.Context(), selector.Request{Service: "user", From: r.From})
	if err == nil && in == 0 && (best == 0 || best == 1) {
		w.checkShares(e, all, place, best)
	}
	p, err := w.try(r)
	if best < 0 {
		if err == nil {
			w.t.Fatalf("picked %s, though nothing can be picked", p.ID)
		}
		return
	}
	if err != nil {
		w.t.Fatalf("no pick of %d instances: %v", len(all), err)
	}
	i := slices.IndexFunc(all, func(im imagined) bool { return im.entry.ID == p.ID })
	got := all[i]
	if got.rank != best && (in == 0 || got.rank != 1) {
		w.t.Fatalf("picked %s of rank %d, though there is one of rank %d", p.ID, got.rank, best)
	}
	if c := topology.DefaultLevels().Circle(place, got.entry.Place()); p.Circle() != topology.DefaultLevels().Name(c) {
		w.t.Fatalf("picked %s of circle %s, which is in circle %s", p.ID, p.Circle(), topology.DefaultLevels().Name(c))
	}
	if i := slices.IndexFunc(e.Circles, func(c selector.Circle) bool { return c.Name == p.Circle() }); i < 0 || e.Circles[i].Share == 0 {
		w.t.Fatalf("picked %s of circle %s, of which Explain says that it takes nothing: %+v", p.ID, p.Circle(), e.Circles)
	}
	first := w.explain(r).Instances[0]
	if i := slices.IndexFunc(e.Circles, func(c selector.Circle) bool { return c.Share > 0 }); first.Circle != e.Circles[i].Name || !first.Near {
		w.t.Fatalf("Explain begins with %s of %s (near: %v), picks with %s", first.ID, first.Circle, first.Near, e.Circles[i].Name)
	}
	if in == 0 && first.Circle != topology.DefaultLevels().Name(circle) {
		w.t.Fatalf("Explain begins with %s, though there is one in circle %s", first.Circle, topology.DefaultLevels().Name(circle))
	}
	if c := w.candidate(p.ID, r); !c.Near || c.InFlight != 1 || c.Picks == 0 {
		w.t.Fatalf("picked %s, of which Explain says %+v", p.ID, c)
	}
	p.Done(nil)

	// Each is picked once when all others are excluded, and then none.
	r.Avoid = nil
	ranks := -1
	for range all {
		p, err := w.try(r)
		if err != nil {
			break
		}
		rank := all[slices.IndexFunc(all, func(im imagined) bool { return im.entry.ID == p.ID })].rank
		if rank < ranks && (in == 0 || ranks != 1) {
			w.t.Fatalf("%s of rank %d was picked after one of rank %d", p.ID, rank, ranks)
		}
		ranks = rank
		r.Avoid = append(r.Avoid, p.ID)
		p.Done(nil)
	}
	pickable := 0
	for _, im := range all {
		if im.rank >= 0 {
			pickable++
		}
	}
	if len(r.Avoid) != pickable {
		w.t.Fatalf("%d instances could be picked one after the other, want %d", len(r.Avoid), pickable)
	}
}

// checkShares wants all picks to begin with the nearest circle that has one of the best,
// when no instance fills in.
func (w *world) checkShares(e selector.Explanation, all []imagined, place topology.Place, best int) {
	w.t.Helper()
	levels := topology.DefaultLevels()
	nearest := len(levels)
	for _, im := range all {
		if im.rank == best {
			nearest = min(nearest, levels.Circle(place, im.entry.Place()))
		}
	}
	for _, c := range e.Circles {
		if want := map[bool]float64{true: 1}[c.Name == levels.Name(nearest)]; c.Share != want {
			w.t.Fatalf("%s takes %v of the picks, want %v: %+v", c.Name, c.Share, want, e.Circles)
		}
	}
}

// FuzzCandidateJSON decodes arbitrary answers of the router's doors: no input panics, and
// what was decoded is encoded so that it decodes to the same.
func FuzzCandidateJSON(f *testing.F) {
	in := instance("a", home, label("k", "v")).Instance
	in.Started = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	c := selector.Candidate{Instance: *in}
	c.Circle, c.DistanceMS, c.DistanceSource, c.Breaker = "zone", 0.41, "measured", "closed"
	c.InFlight, c.Picks, c.CallMS, c.Near, c.Reason = 2, 1<<60, 1.5, true, `picked by "p2c"`
	full, err := json.Marshal(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"metadata":{},"endpoints":{}}`))
	f.Add([]byte(`{"id":"a","circle":"zone","distance_ms":-0,"near":true,"unknown":{"near":false}}`))
	f.Add([]byte(`{"ID":"a","CIRCLE":"b","started":"2026-11-21T08:00:00+01:00","ttl":"90s"}`))
	f.Add([]byte(`{"metadata":{"circle":"\u2028"},"endpoints":{"http":"a:1"},"distance_ms":1e300}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c selector.Candidate
		if err := json.Unmarshal(data, &c); err != nil {
			return
		}
		out, err := json.Marshal(c)
		if err != nil {
			t.Fatalf("cannot write what was read of %s: %v", data, err)
		}
		var again selector.Candidate
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("cannot read %s, which was written: %v", out, err)
		}
		if diff := cmp.Diff(c, again, cmpopts.EquateEmpty(), cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
			t.Fatalf("%s became another (-want +got):\n%s", out, diff)
		}
	})
}
