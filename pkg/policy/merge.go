package policy

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Merge returns over put over base, field by field: what over does not set is that of base.
// Lists, and keys of requests, are not mixed. Either may be nil. The result may share
// memory with both.
func Merge(base, over *Policy) *Policy {
	merged := new(Policy)
	for _, p := range [...]*Policy{base, over} {
		if p != nil {
			merge(reflect.ValueOf(merged).Elem(), reflect.ValueOf(p).Elem())
		}
	}
	return merged
}

// merge sets in to what is set in from.
func merge(to, from reflect.Value) {
	for i := range from.NumField() {
		f, t := from.Field(i), to.Field(i)
		switch {
		case f.IsZero():
		case f.Kind() == reflect.Pointer && f.Type().Elem().Kind() == reflect.Struct && !t.IsNil() && f.Type() != reflect.TypeFor[*Key]() && f.Type() != reflect.TypeFor[*Mirror]():
			both := reflect.New(f.Type().Elem())
			both.Elem().Set(t.Elem())
			merge(both.Elem(), f.Elem())
			t.Set(both)
		default:
			t.Set(f)
		}
	}
}

// Diff returns what changes from a to b, a line for each field: "- " before what was set,
// "+ " before what is. Nil says nothing. No lines: they say the same.
func Diff(a, b *Policy) []string {
	before, after := flat(a), flat(b)
	var lines []string
	names := maps.Clone(before)
	maps.Copy(names, after)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, had := before[name]
		is, has := after[name]
		if had && has && was == is {
			continue
		}
		if had {
			lines = append(lines, "- "+name+": "+was)
		}
		if has {
			lines = append(lines, "+ "+name+": "+is)
		}
	}
	return lines
}

// flat is what a policy sets, by the names of the fields.
func flat(p *Policy) map[string]string {
	all := map[string]string{}
	data, err := json.Marshal(p)
	if err != nil {
		return all
	}
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(data, &fields) // nil is null
	flatten("", fields, all)
	return all
}

func flatten(path string, fields map[string]json.RawMessage, all map[string]string) {
	for name, value := range fields {
		var inner map[string]json.RawMessage
		if strings.HasPrefix(string(value), "{") && json.Unmarshal(value, &inner) == nil {
			flatten(path+name+".", inner, all)
			continue
		}
		all[path+name] = string(value)
	}
}
