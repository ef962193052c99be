package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// wire is the JSON of an instance. What is left out is the default.
type wire struct {
	ID          string            `json:"id"`
	Service     string            `json:"service"`
	Incarnation string            `json:"incarnation,omitempty"`
	Endpoints   map[string]string `json:"endpoints,omitempty"`
	Location    topology.Location `json:"location"`
	Status      Status            `json:"status,omitempty"`
	Version     string            `json:"version,omitempty"`
	Weight      *int              `json:"weight,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Coordinate  *Coordinate       `json:"coordinate,omitempty"`
	Started     string            `json:"started,omitempty"`
	TTL         string            `json:"ttl,omitempty"`
}

// MarshalJSON writes the record of the registry. It does not validate; see
// [Encode].
func (in Instance) MarshalJSON() ([]byte, error) {
	w := wire{
		ID: in.ID, Service: in.Service, Incarnation: in.Incarnation, Endpoints: in.Endpoints,
		Location: in.Location, Status: in.Status, Version: in.Version,
		Metadata: in.Metadata, Coordinate: in.Coordinate,
	}
	if in.Weight != 0 {
		w.Weight = &in.Weight
	}
	if !in.Started.IsZero() {
		started, err := in.Started.UTC().MarshalText()
		if err != nil {
			return nil, fmt.Errorf("events: started: %w", err)
		}
		w.Started = string(started)
	}
	if in.TTL != 0 {
		w.TTL = in.TTL.String()
	}
	return marshal(w)
}

// MarshalWith writes the JSON of the instance with the fields of more, a
// struct, after its own.
func (in Instance) MarshalWith(more any) ([]byte, error) {
	data, err := in.MarshalJSON()
	if err != nil {
		return nil, err
	}
	fields, err := marshal(more)
	if err != nil {
		return nil, err
	}
	if fields = bytes.TrimPrefix(fields, []byte("{")); len(fields) == 1 { // there are none
		return data, nil
	}
	data[len(data)-1] = ','
	return append(data, fields...), nil
}

// marshal writes JSON without the escapes for HTML: what travels here is not
// for browsers, and what has no escapes is read faster.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// UnmarshalJSON reads a record without validating it and without filling in
// defaults; see [Decode].
func (in *Instance) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil // by convention
	}
	var read Instance
	if err := decode(data, &read); err != nil {
		return err
	}
	*in = read
	return nil
}

// decode reads one JSON object and nothing else. What it accepts and what it
// makes of it is what decodeAny says; decodePlain is for speed.
func decode(data []byte, in *Instance) error {
	if decodePlain(data, in) {
		return nil
	}
	*in = Instance{}
	return decodeAny(data, in)
}

func decodeAny(data []byte, in *Instance) error {
	if !utf8.Valid(data) {
		return errors.New("events: decode an instance: not UTF-8")
	}
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		if fe, ok := errors.AsType[*FieldError](typeError("", err)); ok {
			return fe
		}
		return fmt.Errorf("events: decode an instance: %w", err)
	}
	if bytes.TrimSpace(data)[0] != '{' {
		return &FieldError{"instance", "null", wantObject} // nothing else is accepted
	}
	*in = Instance{
		ID: w.ID, Service: w.Service, Incarnation: w.Incarnation, Endpoints: w.Endpoints,
		Location: w.Location, Status: w.Status, Version: w.Version,
		Metadata: w.Metadata, Coordinate: w.Coordinate,
	}
	if w.Weight != nil {
		if in.Weight = *w.Weight; in.Weight == 0 {
			return &FieldError{"weight", "0", weightRule}
		}
	}
	var err error
	if in.Started, err = parseStarted([]byte(w.Started)); err == nil {
		in.TTL, err = parseTTL(w.TTL)
	}
	return err
}

const wantObject = "want a JSON object"

// typeError says in the words of JSON what encoding/json says in those of Go.
// It leaves other errors alone. Within is the field that was read, if any.
func typeError(within string, err error) error {
	te, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	field := strings.Trim(within+"."+te.Field, ".")
	for _, f := range []string{"endpoints", "metadata", "coordinate.vec"} {
		if strings.HasPrefix(field, f+".") {
			field = f // what may follow is a name from the record, not checked yet
		}
	}
	if field == "" {
		field = "instance"
	}
	rule := wantObject
	switch te.Type.Kind() {
	case reflect.String:
		rule = "want a JSON string"
	case reflect.Int:
		rule = weightRule
	case reflect.Float64:
		rule = "want a JSON number"
	case reflect.Slice:
		rule = "want a JSON array"
	}
	return &FieldError{field, te.Value, rule}
}

// parseStarted reads a time; the empty text is none.
func parseStarted(text []byte) (time.Time, error) {
	var t time.Time
	if len(text) == 0 {
		return t, nil
	}
	if err := t.UnmarshalText(text); err != nil {
		return t, &FieldError{"started", string(text), startedRule}
	}
	return t.UTC(), nil
}

// parseTTL reads a lease; the empty text is none. A lease of zero is not: it
// would become the default.
func parseTTL(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	ttl, err := time.ParseDuration(text)
	if err != nil || ttl == 0 {
		return 0, &FieldError{"ttl", text, ttlRule}
	}
	return ttl, nil
}

// UnmarshalJSON refuses a vector of another dimension, which encoding/json
// would cut or fill.
func (c *Coordinate) UnmarshalJSON(data []byte) error {
	var w struct {
		Vec        []float64 `json:"vec"`
		Error      float64   `json:"error"`
		Adjustment float64   `json:"adjustment"`
		Height     float64   `json:"height"`
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return typeError("coordinate", err)
	}
	if len(w.Vec) != len(c.Vec) {
		return &FieldError{"coordinate.vec", fmt.Sprint(len(w.Vec), " numbers"), "want 8"}
	}
	*c = Coordinate{[8]float64(w.Vec), w.Error, w.Adjustment, w.Height}
	return nil
}
