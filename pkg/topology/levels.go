package topology

import (
	"fmt"
	"slices"
)

// Level is one of the keys that proximity is judged by: [Host], [Rack],
// [Zone], [Region], or any metadata key ("room", "carrier").
type Level string

// The levels that [Location] has a field for.
const (
	Host   Level = "host"
	Rack   Level = "rack"
	Zone   Level = "zone"
	Region Level = "region"
)

// Elsewhere is the name of the last circle, of places that share no level.
const Elsewhere = "elsewhere"

// Levels are the levels that nearness is judged by, nearest first: a level that is
// narrower than a zone ("room") comes before [Zone], a wider one after it.
// Nil is [DefaultLevels]. Empty but not nil, Levels{} makes one circle of all places.
type Levels []Level

// DefaultLevels are [Zone], then [Region].
func DefaultLevels() Levels { return Levels{Zone, Region} }

// ParseLevels checks the names of levels, nearest first. Without names it returns
// [DefaultLevels].
func ParseLevels(names ...string) (Levels, error) {
	if len(names) == 0 {
		return DefaultLevels(), nil
	}
	levels := make(Levels, 0, len(names))
	width := -1
	for _, n := range names {
		l := Level(n)
		w := slices.Index([]Level{Host, Rack, Zone, Region}, l)
		switch {
		case n == "" || !ValidText(n):
			return nil, fmt.Errorf("topology: level %.80q, want host, rack, zone, region or a metadata key", n)
		case n == Elsewhere:
			return nil, fmt.Errorf("topology: level %q is always there, leave it out", n)
		case slices.Contains(levels, l):
			return nil, fmt.Errorf("topology: level %q is listed twice", n)
		case w >= 0 && w < width:
			return nil, fmt.Errorf("topology: level %q comes after a wider one, want the nearest first: host, rack, zone, region", n)
		}
		width = max(width, w)
		levels = append(levels, l)
	}
	return levels, nil
}

// Place is a location with the labels that metadata levels read.
type Place struct {
	Location
	Labels map[string]string
}

// Circle is the index in ls of the nearest level that a and b share, or len(ls) when
// they share none (2 for a nil ls). They share a level if both know it, it is equal,
// and they do not differ in a wider level of ls. A level that only one of them knows
// is a difference, one that neither knows is not; but a region that only one of them
// knows is no difference: equal zones are one zone then. By [DefaultLevels]:
//
//	eu/a and eu/a    0  the same zone
//	eu/a and eu/b    1  the same region
//	eu/a and eu/?    1  only one zone is known
//	eu/a and us/a    2  zones of two regions
//	eu/a and ?/a     0  only one region is known, and the zones are equal
//	eu/a and ?/b     2  only one region is known
//	 ?/a and ?/a     0  no region is known, so the regions do not differ
func (ls Levels) Circle(a, b Place) int {
	ls = ls.orDefault()
	nearest := len(ls)
	for i, l := range slices.Backward(ls) {
		va, vb := a.value(l), b.value(l)
		switch {
		case va == vb && va != "":
			nearest = i
		case va == vb, l == Region && (va == "" || vb == ""):
		default:
			return nearest
		}
	}
	return nearest
}

// Name is the name of the circle with index i: the level's, or [Elsewhere].
func (ls Levels) Name(i int) string {
	ls = ls.orDefault()
	if i < 0 || i >= len(ls) {
		return Elsewhere
	}
	return string(ls[i])
}

func (ls Levels) orDefault() Levels {
	if ls == nil {
		return DefaultLevels()
	}
	return ls
}

func (p *Place) value(l Level) string {
	if f := p.field(l); f != nil {
		return *f
	}
	return p.Labels[string(l)]
}
