// Package strict finds fields of JSON objects that nothing reads: in what a person wrote
// they are typing errors.
package strict

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Fields are the fields that an object may have, and those of the objects in them; nil:
// any.
type Fields map[string]Fields

// Instance is the fields of a record.
func Instance() Fields {
	return Fields{
		"id": nil, "service": nil, "incarnation": nil, "endpoints": nil, "status": nil, "version": nil, "weight": nil,
		"metadata": nil, "coordinate": nil, "started": nil, "ttl": nil,
		"location": {"region": nil, "zone": nil, "rack": nil, "host": nil},
	}
}

// UnknownError is the error of [Check].
type UnknownError struct {
	Field string   // with those around it: location.zonee
	Want  []string // sorted
	Mean  string   // the one that is probably meant, empty if none is alike
}

func (e *UnknownError) Error() string {
	mean := ""
	if e.Mean != "" {
		mean = fmt.Sprintf(", did you mean %q?", e.Mean)
	}
	return fmt.Sprintf("unknown field %.100q%s (want one of %s)", e.Field, mean, strings.Join(e.Want, ", "))
}

// Check returns an [UnknownError] for the first field, by name, that is not known. What is
// no object is left to those who read it.
func Check(data []byte, known Fields) error { return check("", data, known) }

func check(within string, data []byte, known Fields) error {
	var fields map[string]json.RawMessage
	if known == nil {
		return nil
	}
	_ = json.Unmarshal(data, &fields) // no object has no fields
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		below, ok := known[name]
		if !ok {
			want := slices.Sorted(maps.Keys(known))
			return &UnknownError{within + name, want, Alike(name, want)}
		}
		if err := check(within+name+".", fields[name], below); err != nil {
			return err
		}
	}
	return nil
}

// Alike is the name that differs least, if that is by less than half of it.
func Alike(name string, from []string) (best string) {
	least := 1 + len(name)/2
	for _, other := range from {
		if d := distance(strings.ToLower(name), other); d < least {
			best, least = other, d
		}
	}
	return best
}

// distance is how many letters are to be changed, added or removed (Levenshtein, 1966).
func distance(a, b string) int {
	if len(a) > 100 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := before
			if a[i] != b[j] {
				d = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
