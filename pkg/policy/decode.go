package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/proxima-discovery/proxima/internal/strict"
	"github.com/proxima-discovery/proxima/pkg/subset"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// FieldError is the error of a field that breaks a rule.
type FieldError struct {
	Field string // with those around it: splits[0].share
	Value string // as JSON; empty if it is missing
	Rule  string // what it must be
}

func (e *FieldError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("policy: %s: %s", e.Field, e.Rule)
	}
	return fmt.Sprintf("policy: %s %.80s: %s", e.Field, e.Value, e.Rule)
}

// Decode reads a document and checks all of it. The error is a *[FieldError] about the
// first field that breaks a rule, unless data is not one JSON object.
func Decode(data []byte) (*Policy, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("policy: a document of %d bytes, want at most %d", len(data), MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, malformed(data, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("policy: want one JSON object and nothing after it")
	}
	p := new(Policy)
	if err := check("", value, reflect.TypeOf(p), ""); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

// malformed says where a document stops being JSON.
func malformed(data []byte, err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		line := 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte{'\n'})
		return fmt.Errorf("policy: not JSON, line %d: %w", line, err)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("policy: the document is empty, want a JSON object, {} for one that says nothing")
	}
	return fmt.Errorf("policy: not JSON: %w", err)
}

// check holds the rules that concern several fields.
func (p *Policy) check() error {
	sum := 0.0
	for i, s := range p.Splits {
		if sum += s.Share; sum > 1+1e-9 {
			return &FieldError{fmt.Sprintf("splits[%d].share", i), fmt.Sprint(s.Share), "want shares that are at most 1 together"}
		}
	}
	if b := p.Breaker; b != nil && b.OpenFor > 0 && b.MaxOpenFor > 0 && b.MaxOpenFor < b.OpenFor {
		return &FieldError{"breaker.max_open_for", b.MaxOpenFor.String(), "want at least open_for"}
	}
	if b := p.Bulkhead; b != nil && b.QueueTimeout != nil && b.Queue == 0 {
		return &FieldError{"bulkhead.queue_timeout", b.QueueTimeout.String(), "want queue too, how many calls may wait"}
	}
	if p.Timeout > 0 && p.AttemptTimeout > p.Timeout {
		return &FieldError{"attempt_timeout", p.AttemptTimeout.String(), "want at most timeout"}
	}
	return nil
}

// check walks a value beside the type that it is for. It finds what encoding/json takes in
// silently, and names each field in full.
func check(path string, value any, t reflect.Type, tag reflect.StructTag) error {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	wrong := func(rule string) error {
		if path == "" {
			return fmt.Errorf("policy: %s", rule)
		}
		data, _ := json.Marshal(value) // it came from JSON
		return &FieldError{path, string(data), rule}
	}
	if t == reflect.TypeFor[Duration]() {
		text, ok := value.(string)
		d, err := time.ParseDuration(text)
		if !ok || err != nil || !within(float64(d), tag, seconds) {
			return wrong(`want a duration` + bounds(tag) + `, such as "1.5s"`)
		}
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		object, ok := value.(map[string]any)
		if !ok {
			return wrong("want a JSON object")
		}
		return checkObject(path, object, t)
	case reflect.Slice:
		list, ok := value.([]any)
		if most, _ := strconv.Atoi(tag.Get("most")); !ok || len(list) > most {
			return wrong("want a list of at most " + tag.Get("most"))
		}
		for i, item := range list {
			if err := check(fmt.Sprintf("%s[%d]", path, i), item, t.Elem(), tag); err != nil {
				return err
			}
		}
	case reflect.Bool:
		if _, ok := value.(bool); !ok {
			return wrong("want true or false")
		}
	case reflect.Int, reflect.Float64:
		n, ok := value.(json.Number)
		f, err := n.Float64()
		whole := t.Kind() == reflect.Float64 || f == math.Trunc(f) && !strings.ContainsAny(n.String(), ".eE")
		if kind := map[reflect.Kind]string{reflect.Int: "a whole number", reflect.Float64: "a number"}[t.Kind()]; !ok || err != nil || !whole || !within(f, tag, number) {
			return wrong("want " + kind + bounds(tag))
		}
	case reflect.String:
		text, ok := value.(string)
		if !ok {
			return wrong("want text")
		}
		if rule := textRule(text, tag); rule != "" {
			return wrong(rule)
		}
	}
	return nil
}

func checkObject(path string, object map[string]any, t reflect.Type) error {
	fields := fieldsOf(t)
	if path != "" {
		path += "."
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		field, ok := fields[name]
		if !ok {
			want := slices.Sorted(maps.Keys(fields))
			rule := "no such field"
			if mean := strict.Alike(name, want); mean != "" {
				rule += fmt.Sprintf(", did you mean %q?", mean)
			}
			return &FieldError{path + name, "", rule + " (want one of " + strings.Join(want, ", ") + ")"}
		}
		if err := check(path+name, object[name], field.Type, field.Tag); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if _, must := fields[name].Tag.Lookup("must"); must && object[name] == nil {
			return &FieldError{path + name, "", "is missing"}
		}
	}
	if t == reflect.TypeFor[Key]() && len(object) != 1 {
		return &FieldError{strings.TrimSuffix(path, "."), "", "want either header or cookie"}
	}
	return nil
}

// fieldsOf are the fields of a type by their names in JSON.
func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	all := map[string]reflect.StructField{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		all[name] = f
	}
	return all
}

// textRule is the rule that a text breaks, empty if none.
func textRule(text string, tag reflect.StructTag) string {
	if enum := tag.Get("enum"); enum != "" && !slices.Contains(strings.Split(enum, ","), text) {
		return "want one of " + strings.ReplaceAll(enum, ",", ", ")
	}
	switch tag.Get("is") {
	case "subset":
		if _, err := subset.Parse(text); err != nil {
			return strings.TrimPrefix(err.Error(), "subset: ")
		} else if strings.TrimSpace(text) == "" {
			return "want an expression, such as version=2"
		}
	case "token":
		if !httpguts.ValidHeaderFieldName(text) {
			return "want a name of letters, digits and '-'"
		}
	case "name":
		if !topology.ValidName(text) {
			return topology.NameRule
		}
	}
	if len(text) > subset.MaxLength {
		return fmt.Sprintf("want at most %d bytes", subset.MaxLength)
	}
	return ""
}

// within reports whether a number is in the bounds of a tag, which parse reads.
func within(n float64, tag reflect.StructTag, parse func(string) float64) bool {
	if least, ok := tag.Lookup("min"); ok && n < parse(least) {
		return false
	}
	most, ok := tag.Lookup("max")
	return !ok || n <= parse(most)
}

func seconds(text string) float64 {
	d, _ := time.ParseDuration(text) // a tag
	return float64(d)
}

func number(text string) float64 {
	f, _ := strconv.ParseFloat(text, 64) // a tag
	return f
}

func bounds(tag reflect.StructTag) string {
	return " from " + tag.Get("min") + " to " + tag.Get("max")
}
