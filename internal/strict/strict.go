// Package strict finds fields of JSON objects that nothing reads, or that are there twice: in
// what a person wrote they are typing errors.
package strict

import (
	"bytes"
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

// RepeatedError is the error of [Check] for a field that an object has twice: readers take
// one of the two, and not all the same.
type RepeatedError struct {
	Field string // with those around it
}

func (e *RepeatedError) Error() string { return fmt.Sprintf("field %.100q is there twice", e.Field) }

// Check returns an [UnknownError] for the first field, by name, that is not known, else a
// [RepeatedError] for the first that an object has twice. What is no JSON object is left to its
// reader.
func Check(data []byte, known Fields) error {
	if err := check("", data, known); err != nil {
		return err
	}
	return repeated(data)
}

// level is an object or an array that is being read.
type level struct {
	names map[string]bool // so far; nil: an array
	name  string          // of the value that is next or is read
	value bool            // a value is next
}

// repeated looks for names that an object has twice.
func repeated(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	var open []level                                                  // the innermost last
	for token, err := d.Token(); err == nil; token, err = d.Token() { // until the end, or what is no JSON
		if token == json.Delim('}') || token == json.Delim(']') {
			open = open[:len(open)-1]
			continue
		}
		if n := len(open); n > 0 && open[n-1].names != nil {
			in := &open[n-1]
			if in.value = !in.value; in.value {
				in.name, _ = token.(string)
				if in.names[in.name] {
					var path []string
					for _, l := range open {
						if l.names != nil {
							path = append(path, l.name)
						}
					}
					return &RepeatedError{strings.Join(path, ".")}
				}
				in.names[in.name] = true
				continue
			}
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{names: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		}
	}
	return nil
}

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
