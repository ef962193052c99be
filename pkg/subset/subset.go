package subset

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Limits of an expression: it may come from a request of a stranger.
const (
	MaxLength       = 1024 // bytes
	MaxRequirements = 32
	MaxValues       = 64 // in one pair of parentheses
)

// Subset is a compiled expression. It is never changed, so any number of goroutines may
// use it. Two subsets of the same meaning need not have the same text.
type Subset struct {
	requirements []requirement
	text         string
}

// String is the expression in one spelling: requirements and values are sorted, and those
// that stand twice stand once. [Parse] reads it.
func (s *Subset) String() string { return s.text }

// Matches reports whether an instance meets all requirements. It does not allocate.
func (s *Subset) Matches(in *events.Instance) bool {
	for i := range s.requirements {
		if !s.requirements[i].meets(in) {
			return false
		}
	}
	return true
}

// operator is what a requirement says about a value.
type operator uint8

const (
	in operator = iota
	notIn
	exists
	absent
	less
	atMost
	greater
	atLeast
)

// comparisons are the operators that are written before a value to compare with.
var comparisons = map[string]operator{"<": less, "<=": atMost, ">": greater, ">=": atLeast}

func (o operator) symbol() string {
	for symbol, of := range comparisons {
		if of == o {
			return symbol
		}
	}
	return ""
}

// requirement is one of an expression.
type requirement struct {
	key    string
	field  func(*events.Instance) string // nil: the key is one of the metadata
	op     operator
	values []string // sorted
	number int64    // to compare with, if field is nil
}

// fields are the keys that are not metadata.
var fields = map[string]func(*events.Instance) string{
	"id":      func(in *events.Instance) string { return in.ID },
	"version": func(in *events.Instance) string { return in.Version },
	"region":  func(in *events.Instance) string { return in.Location.Region },
	"zone":    func(in *events.Instance) string { return in.Location.Zone },
	"rack":    func(in *events.Instance) string { return in.Location.Rack },
	"host":    func(in *events.Instance) string { return in.Location.Host },
}

const metadata = "metadata."

// of returns the value of an instance, and whether it has the key.
func (r *requirement) of(instance *events.Instance) (string, bool) {
	if r.field != nil {
		v := r.field(instance)
		return v, v != ""
	}
	v, ok := instance.Metadata[strings.TrimPrefix(r.key, metadata)]
	return v, ok
}

func (r *requirement) meets(instance *events.Instance) bool {
	value, has := r.of(instance)
	switch r.op {
	case exists:
		return has
	case absent:
		return !has
	case in:
		return has && slices.Contains(r.values, value)
	case notIn:
		return !has || !slices.Contains(r.values, value)
	}
	order, ok := r.compare(value)
	if !has || !ok {
		return false
	}
	switch r.op {
	case less:
		return order < 0
	case atMost:
		return order <= 0
	case greater:
		return order > 0
	default:
		return order >= 0
	}
}

// compare compares a value with that of the requirement, and returns false if it cannot.
func (r *requirement) compare(value string) (order int, ok bool) {
	if r.field == nil {
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
			return 0, false
		case n < r.number:
			return -1, true
		case n > r.number:
			return 1, true
		}
		return 0, true
	}
	// Semver wants the v that versions are usually written without. Short ones are put
	// together on the stack.
	var buf [64]byte
	v := append(buf[:0], 'v')
	v = append(v, strings.TrimPrefix(value, "v")...)
	s := string(v)
	return semver.Compare(s, r.values[0]), semver.IsValid(s)
}

// text is the requirement as it is written.
func (r *requirement) text() string {
	switch r.op {
	case exists:
		return r.key
	case absent:
		return "!" + r.key
	case in, notIn:
		if len(r.values) == 1 {
			return r.key + map[operator]string{in: "=", notIn: "!="}[r.op] + r.values[0]
		}
		return r.key + map[operator]string{in: " in (", notIn: " notin ("}[r.op] + strings.Join(r.values, ",") + ")"
	default:
		if r.field == nil {
			return r.key + r.op.symbol() + strconv.FormatInt(r.number, 10)
		}
		return r.key + r.op.symbol() + strings.TrimPrefix(r.values[0], "v")
	}
}
