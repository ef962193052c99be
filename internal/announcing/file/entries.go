package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing"
	"github.com/proxima-discovery/proxima/internal/announcing/check"
	"github.com/proxima-discovery/proxima/internal/strict"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// entryFields are the fields that an entry may have.
func entryFields() strict.Fields {
	f := strict.Instance()
	f["check"], f["drain"] = nil, nil
	return f
}

// parseEntries parses the JSON array of a file. An error names the entry, counted
// from 1, and the field.
func parseEntries(data []byte, o Options) ([]*announcing.Entry, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, jsonError(data, err)
	}
	if raw == nil { // null, which is no list
		return nil, errors.New("null: want a JSON array of instances, [] for none")
	}
	entries := make([]*announcing.Entry, 0, len(raw))
	first := make(map[string]int)
	for i, r := range raw {
		e, err := parseEntry(r, o)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		if before := first[e.Name()]; before != 0 {
			return nil, fmt.Errorf("entry %d: id %q: entry %d of service %s has it already", i+1, e.Instance.ID, before, e.Instance.Service)
		}
		first[e.Name()] = i + 1
		entries = append(entries, e)
	}
	return entries, nil
}

func parseEntry(data []byte, o Options) (*announcing.Entry, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil || fields == nil {
		return nil, errors.New("want an instance as a JSON object")
	}
	if err := strict.Check(data, entryFields()); err != nil {
		return nil, err
	}
	e := &announcing.Entry{Drain: o.Drain}
	if err := parseOwn(fields, e); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &e.Instance); err != nil {
		return nil, fieldError(err)
	}
	e.Locate(o.Where, "file")
	err := e.Prepare()
	if err == nil && o.Reachable != nil {
		err = o.Reachable(&e.Instance)
	}
	if err != nil {
		return nil, fieldError(err)
	}
	return e, nil
}

// errNull is the error of a null where a text is wanted: it is mostly that of a template whose
// variable is not set.
var errNull = errors.New("null is no string")

// texts reads a string, or an array of them.
func texts(data []byte) (list []string, err error) {
	var one *string
	if json.Unmarshal(data, &one) == nil && one != nil {
		return []string{*one}, nil
	}
	var several []*string
	if err := json.Unmarshal(data, &several); err != nil {
		return nil, err
	}
	for _, s := range several {
		if s == nil {
			return nil, errNull
		}
		list = append(list, *s)
	}
	if several == nil {
		return nil, errNull
	}
	return list, nil
}

// parseOwn parses the fields that are not in a record.
func parseOwn(fields map[string]json.RawMessage, e *announcing.Entry) error {
	if text, ok := fields["check"]; ok {
		checks, err := texts(text)
		if err != nil {
			return fmt.Errorf("check %s: want a string, or an array of them", text)
		}
		var all []check.Func
		for _, one := range checks {
			ask, err := check.ParseOptional(one)
			if err != nil {
				return err
			}
			all = append(all, ask)
		}
		e.Check, e.Ask = strings.Join(checks, " "), check.All(all...)
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
		e.Drain = drain
	}
	return nil
}

// fieldError is err without the name of package events.
func fieldError(err error) error {
	if e, ok := errors.AsType[*events.FieldError](err); ok {
		return fmt.Errorf("%s %.100q: %s", e.Field, e.Value, e.Rule)
	}
	return err
}

// jsonError names the line of a syntax error.
func jsonError(data []byte, err error) error {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:min(int(e.Offset), len(data))], []byte("\n")), err)
	}
	return errors.New("want a JSON array of instances")
}
