package announcing

import (
	"slices"
	"time"
)

// confirmAfter is the least time between two statements of a source that confirm each
// other.
const confirmAfter = time.Second

// Doubt holds back what a source most likely does not mean: that all of its instances, or
// more than half of them, are gone at once. They stay listed until the source says so once
// more, in another statement a second or more later. What else a statement changes is
// applied at once.
//
// It is for one goroutine. The zero value is ready to use.
type Doubt struct {
	// Off believes everything.
	Off bool

	listed map[string]*Entry    // as last applied
	held   map[string]time.Time // those of them that are gone, and since when
}

// Take takes in a statement of the source, which is complete, and returns what is to be
// announced, and how many of these the source does not list any more.
func (d *Doubt) Take(stated []*Entry, now time.Time) (apply []*Entry, held int) {
	there := make(map[string]bool, len(stated))
	for _, e := range stated {
		there[e.Name()] = true
	}
	gone := make(map[string]time.Time)
	var lost []string // by this statement
	for name := range d.listed {
		switch since, doubted := d.held[name]; {
		case there[name]:
		case !doubted:
			lost = append(lost, name)
		case now.Sub(since) < confirmAfter:
			gone[name] = since
		}
	}
	if 2*len(lost) > len(d.listed)-len(d.held) {
		for _, name := range lost {
			gone[name] = now
		}
	}
	if d.Off {
		clear(gone)
	}
	apply = slices.Clip(stated) // the caller's array stays as it is
	for name := range gone {
		apply = append(apply, d.listed[name])
	}
	d.held = gone
	d.listed = make(map[string]*Entry, len(apply))
	for _, e := range apply {
		d.listed[e.Name()] = e
	}
	return apply, len(gone)
}
