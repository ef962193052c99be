package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/check"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// entry is one instance of a file, and how it is announced.
type entry struct {
	instance events.Instance
	record   []byte // the instance as JSON
	check    string
	ask      check.Func // what check says, nil for none
	drain    time.Duration
	won      map[topology.Level]string
}

func (e *entry) name() name { return name{e.instance.Service, e.instance.ID} }

// defaults fill in what the entries of a file leave out.
type defaults struct {
	where topology.Detection
	drain time.Duration
}

// The fields that an entry may have: those of the registry's record, and two.
const (
	entryFields = "id service incarnation endpoints location status version weight metadata coordinate started ttl" +
		" check drain"
	locationFields = "region zone rack host"
)

// parseEntries reads the JSON array of a file. An error names the entry,
// counted from 1, and the field; then nothing of the file is used.
func parseEntries(data []byte, d defaults) ([]*entry, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, jsonError(data, err)
	}
	entries := make([]*entry, 0, len(raw))
	first := make(map[name]int)
	for i, r := range raw {
		e, err := parseEntry(r, d)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		if before := first[e.name()]; before != 0 {
			return nil, fmt.Errorf("entry %d: id %q: entry %d of service %s has it already", i+1, e.instance.ID, before, e.instance.Service)
		}
		first[e.name()] = i + 1
		entries = append(entries, e)
	}
	return entries, nil
}

func parseEntry(data []byte, d defaults) (*entry, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil || fields == nil {
		return nil, errors.New("want an instance as a JSON object")
	}
	if err := onlyKnown("", fields, entryFields); err != nil {
		return nil, err
	}
	var location map[string]json.RawMessage
	if json.Unmarshal(fields["location"], &location) == nil { // else it is refused below
		if err := onlyKnown("location.", location, locationFields); err != nil {
			return nil, err
		}
	}
	e := &entry{drain: d.drain, won: make(map[topology.Level]string)}
	if err := e.parseOwn(fields); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &e.instance); err != nil {
		return nil, fieldError(err)
	}
	e.locate(d.where)
	e.instance.TTL = cmp.Or(e.instance.TTL, events.DefaultTTL)
	e.instance.Weight = cmp.Or(e.instance.Weight, events.DefaultWeight)
	e.instance.Status = cmp.Or(e.instance.Status, events.Up)
	var err error
	if e.record, err = events.Encode(e.instance); err != nil {
		return nil, fieldError(err)
	}
	if e.ask, err = checkFor(e.check, e.instance.Endpoints, false); err != nil {
		return nil, err
	}
	return e, nil
}

// onlyKnown refuses fields that are not among the known: a record's readers
// ignore them, but in a file they are typing errors.
func onlyKnown(within string, fields map[string]json.RawMessage, known string) error {
	names := strings.Fields(known)
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(names, field) {
			return fmt.Errorf("unknown field %.100q: want one of %s", within+field, strings.Join(names, ", "))
		}
	}
	return nil
}

// parseOwn reads the fields that are not the instance's.
func (e *entry) parseOwn(fields map[string]json.RawMessage) error {
	if text, ok := fields["check"]; ok {
		if err := json.Unmarshal(text, &e.check); err != nil {
			return fmt.Errorf("check %s: want a string", text)
		}
	}
	if text, ok := fields["drain"]; ok {
		var s string
		if err := json.Unmarshal(text, &s); err != nil {
			return fmt.Errorf(`drain %s: want a string such as "5s"`, text)
		}
		drain, err := time.ParseDuration(s)
		if err != nil || drain < 0 {
			return fmt.Errorf(`drain %q: want a duration such as "5s"`, s)
		}
		e.drain = drain
	}
	return nil
}

// locate fills in what the entry does not say of its location, from where the
// announcer runs. An entry in another region or zone shares nothing below it.
func (e *entry) locate(here topology.Detection) {
	elsewhere := false
	for _, f := range []struct {
		level topology.Level
		value *string
		here  string
	}{
		{topology.Region, &e.instance.Location.Region, here.Location.Region},
		{topology.Zone, &e.instance.Location.Zone, here.Location.Zone},
		{topology.Rack, &e.instance.Location.Rack, here.Location.Rack},
		{topology.Host, &e.instance.Location.Host, here.Location.Host},
	} {
		switch {
		case *f.value != "":
			e.won[f.level] = "file"
			wide := f.level == topology.Region || f.level == topology.Zone
			elsewhere = elsewhere || wide && *f.value != f.here
		case f.here != "" && !elsewhere:
			*f.value, e.won[f.level] = f.here, here.Won[f.level]
		}
	}
}

// fieldError says which field breaks which rule, without the package's name.
func fieldError(err error) error {
	if e, ok := errors.AsType[*events.FieldError](err); ok {
		return fmt.Errorf("%s %.100q: %s", e.Field, e.Value, e.Rule)
	}
	return err
}

// jsonError says where in the file the JSON ends to be such.
func jsonError(data []byte, err error) error {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:min(int(e.Offset), len(data))], []byte("\n")), err)
	}
	return errors.New("want a JSON array of instances")
}
