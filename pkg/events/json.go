package events

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/valyala/fastjson"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// wire is the JSON of an instance. A field that is left out has its default.
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

// MarshalJSON writes the record of the registry without validating it; see [Encode].
func (in Instance) MarshalJSON() ([]byte, error) {
	w := wire{
		ID: in.ID, Service: in.Service, Incarnation: in.Incarnation, Endpoints: in.Endpoints,
		Location: in.Location, Status: in.Status, Version: in.Version,
		Metadata: in.Metadata, Coordinate: in.Coordinate,
	}
	if in.Weight != 0 {
		weight := max(0, in.Weight) // LastResort is 0
		w.Weight = &weight
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

// marshal writes JSON without the escapes for HTML: records are not for browsers, and
// are read faster without escapes.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// UnmarshalJSON reads a record. It does not validate it or fill in defaults; see
// [Decode].
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

// decode reads one JSON object and nothing else. decodeAny defines what it accepts;
// decodePlain reads the usual records faster, with the same result.
func decode(data []byte, in *Instance) error {
	if decodePlain(data, in) {
		return nil
	}
	*in = Instance{}
	return decodeAny(data, in)
}

func decodeAny(data []byte, in *Instance) error {
	var w wire
	if err := unmarshal("an instance", data, &w); err != nil {
		return err
	}
	*in = Instance{
		ID: w.ID, Service: w.Service, Incarnation: w.Incarnation, Endpoints: w.Endpoints,
		Location: w.Location, Status: w.Status, Version: w.Version,
		Metadata: w.Metadata, Coordinate: w.Coordinate,
	}
	if w.Weight != nil {
		if in.Weight = weightOf(*w.Weight); in.Weight < LastResort {
			return &FieldError{"weight", strconv.Itoa(*w.Weight), weightRule}
		}
	}
	var err error
	if in.Started, err = parseStarted([]byte(w.Started)); err == nil {
		in.TTL, err = parseTTL(w.TTL)
	}
	return err
}

// weightOf is the weight that stands in JSON; less than [LastResort] if it is invalid.
func weightOf(n int) int {
	switch {
	case n == 0:
		return LastResort
	case n < 0:
		return LastResort - 1
	}
	return n
}

// unmarshal reads one JSON object and nothing else. What is its name in errors, with
// an article.
func unmarshal(what string, data []byte, into any) error {
	if !utf8.Valid(data) {
		return fmt.Errorf("events: decode %s: not UTF-8", what)
	}
	if text := bytes.TrimSpace(data); !bytes.HasPrefix(text, []byte("{")) {
		_, field, _ := strings.Cut(what, " ")
		return &FieldError{field, string(text), "want a JSON object"}
	}
	if err := json.Unmarshal(data, into); err != nil {
		if fe, ok := errors.AsType[*FieldError](typeError("", err)); ok {
			return fe
		}
		return fmt.Errorf("events: decode %s: %w", what, err)
	}
	return nil
}

// typeError makes a FieldError, in the words of JSON, of a type error of
// encoding/json. It returns other errors unchanged. Within is the field that was read,
// if any.
func typeError(within string, err error) error {
	te, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	field := strings.Trim(within+"."+te.Field, ".")
	for _, f := range []string{"endpoints", "metadata", "coordinate.vec"} {
		if strings.HasPrefix(field, f+".") {
			field = f // the rest is a name from the record, not validated yet
		}
	}
	rule := "want a JSON object"
	switch te.Type.Kind() {
	case reflect.String:
		rule = "want a JSON string"
	case reflect.Bool:
		rule = "want true or false"
	case reflect.Int:
		rule = weightRule
	case reflect.Float64:
		rule = "want a JSON number"
	case reflect.Slice:
		rule = "want a JSON array"
	}
	return &FieldError{field, te.Value, rule}
}

// parseStarted reads a time; empty text is the zero time.
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

// parseTTL reads a lease; empty text is none. A lease of zero is an error: it would
// become the default.
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
	if c.readUsual(data) {
		return nil
	}
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

// coordinateNames is what stands before each number of a coordinate in the JSON
// that encoding/json writes of it.
var coordinateNames = [...]string{`{"vec":[`, ",", ",", ",", ",", ",", ",", ",", `],"error":`, `,"adjustment":`, `,"height":`}

// readUsual reads a coordinate as encoding/json writes it, in a third of the time
// that encoding/json takes: callers and instances read one with each ping. Of any
// other text, valid or not, it returns false and c is as it was.
func (c *Coordinate) readUsual(data []byte) bool {
	if fastjson.ValidateBytes(data) != nil {
		return false // strconv reads more than JSON's numbers
	}
	var numbers [len(coordinateNames)]float64
	for i, name := range coordinateNames {
		if len(data) < len(name) || string(data[:len(name)]) != name {
			return false
		}
		data = data[len(name):]
		n := bytes.IndexAny(data, ",]}")
		if n < 0 {
			return false
		}
		var err error
		if numbers[i], err = strconv.ParseFloat(string(data[:n]), 64); err != nil {
			return false
		}
		data = data[n:]
	}
	if string(data) != "}" {
		return false
	}
	*c = Coordinate{[8]float64(numbers[:8]), numbers[8], numbers[9], numbers[10]}
	return true
}

// maxPlain is the largest record that decodePlain reads, in bytes: larger ones are
// rare, and the pool would keep their buffers.
const maxPlain = 4 << 10

// plainDecoders keeps the parsers' buffers, which are larger than a record.
var plainDecoders = sync.Pool{New: func() any { return new(plainDecoder) }}

// decodePlain reads the records that announcers usually write: ASCII without escapes
// and control characters, every field of its type. For any other record, valid or
// not, it returns false, and in is undefined.
//
// The parser is lax about escapes, control characters, UTF-8 and numbers, so they are
// checked here; its limit on depth is harmless. A record leaves behind the instance,
// its maps, and one string that all its texts are parts of.
func decodePlain(data []byte, in *Instance) bool {
	if len(data) > maxPlain || !isPlain(data) {
		return false
	}
	d := plainDecoders.Get().(*plainDecoder)
	ok := d.record(data, in)
	d.reset()
	plainDecoders.Put(d)
	return ok
}

// isPlain reports whether data is ASCII without control characters, except delete,
// and without backslashes. It tests eight bytes at a time: a byte of 0x80 or above has
// its high bit set, and the subtraction sets it for a byte below the space.
func isPlain(data []byte) bool {
	if bytes.IndexByte(data, '\\') >= 0 {
		return false
	}
	const spaces, high = 0x2020202020202020, 0x8080808080808080
	for ; len(data) >= 8; data = data[8:] {
		if x := binary.LittleEndian.Uint64(data); (x|(x-spaces))&high != 0 {
			return false
		}
	}
	for _, c := range data {
		if c < ' ' || c >= 0x80 {
			return false
		}
	}
	return true
}

type plainDecoder struct {
	parser fastjson.Parser
	in     *Instance
	odd    bool // the record is not a usual one
	vec    bool // the coordinate has a vector

	text                []byte // of all texts, one after the other
	texts               []textPart
	endpoints, metadata []pair
	ttl                 span

	scratch []byte
}

// span is a part of plainDecoder.text.
type span struct{ start, end int }

// textPart is a text and its field.
type textPart struct {
	into *string
	span
}

// pair is an entry of a map. Its name is constant, or else a span.
type pair struct {
	constant    string
	name, value span
}

// reset drops the record and keeps the buffers.
func (d *plainDecoder) reset() {
	clear(d.texts)
	d.in, d.odd, d.ttl = nil, false, span{}
	d.text, d.texts, d.endpoints, d.metadata = d.text[:0], d.texts[:0], d.endpoints[:0], d.metadata[:0]
}

func (d *plainDecoder) record(data []byte, in *Instance) bool {
	v, err := d.parser.ParseBytes(data)
	if err != nil {
		return false
	}
	d.in = in
	d.object(v, d.member)
	if d.odd {
		return false
	}
	text := string(d.text)
	for _, t := range d.texts {
		*t.into = text[t.start:t.end]
	}

	if in.TTL, err = parseTTL(text[d.ttl.start:d.ttl.end]); err != nil {
		return false
	}
	in.Endpoints = makeMap(text, d.endpoints)
	in.Metadata = makeMap(text, d.metadata)
	return true
}

func makeMap(text string, pairs []pair) map[string]string {
	if len(pairs) == 0 {
		return nil
	}
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		name := p.constant
		if name == "" {
			name = text[p.name.start:p.name.end]
		}
		m[name] = text[p.value.start:p.value.end]
	}
	return m
}

// The following methods set odd when a value is not a usual one, and go on.

func (d *plainDecoder) member(name []byte, v *fastjson.Value) {
	in := d.in
	switch string(name) {
	case "id":
		d.string(v, &in.ID)
	case "service":
		d.string(v, &in.Service)
	case "incarnation":
		d.string(v, &in.Incarnation)
	case "endpoints":
		d.object(v, d.endpoint)
	case "location":
		d.object(v, d.place)
	case "status":
		d.string(v, (*string)(&in.Status))
	case "version":
		d.string(v, &in.Version)
	case "weight":
		weight, err := strconv.Atoi(string(d.number(v)))
		in.Weight = weightOf(weight)
		d.expect(err == nil && in.Weight >= LastResort)
	case "metadata":
		d.object(v, d.label)
	case "coordinate":
		in.Coordinate, d.vec = new(Coordinate), false
		d.object(v, d.coordinate)
		d.expect(d.vec)
	case "started":
		var err error
		in.Started, err = parseStarted(d.bytes(v))
		d.expect(err == nil)
	case "ttl":
		d.ttl = d.keep(d.bytes(v))
	default:
		d.unknown(v, name, "id", "service", "incarnation", "endpoints", "location", "status",
			"version", "weight", "metadata", "coordinate", "started", "ttl")
	}
}

func (d *plainDecoder) place(name []byte, v *fastjson.Value) {
	l := &d.in.Location
	switch string(name) {
	case "region":
		d.string(v, &l.Region)
	case "zone":
		d.string(v, &l.Zone)
	case "rack":
		d.string(v, &l.Rack)
	case "host":
		d.string(v, &l.Host)
	default:
		d.unknown(v, name, "region", "zone", "rack", "host")
	}
}

func (d *plainDecoder) coordinate(name []byte, v *fastjson.Value) {
	c := d.in.Coordinate
	switch string(name) {
	case "vec":
		a, err := v.Array()
		d.vec = err == nil && len(a) == len(c.Vec)
		if d.expect(d.vec); !d.vec {
			return
		}
		for i, v := range a {
			c.Vec[i] = d.float(v)
		}
	case "error":
		c.Error = d.float(v)
	case "adjustment":
		c.Adjustment = d.float(v)
	case "height":
		c.Height = d.float(v)
	default:
		d.unknown(v, name, "vec", "error", "adjustment", "height")
	}
}

func (d *plainDecoder) endpoint(name []byte, v *fastjson.Value) {
	p := pair{constant: protocolName(name)}
	if p.constant == "" {
		p.name = d.keep(name)
	}
	p.value = d.keep(d.bytes(v))
	d.endpoints = append(d.endpoints, p)
}

func (d *plainDecoder) label(name []byte, v *fastjson.Value) {
	d.metadata = append(d.metadata, pair{name: d.keep(name), value: d.keep(d.bytes(v))})
}

// unknown skips a field. It is odd if encoding/json would match it with a known one,
// ignoring case, or if it is not valid JSON.
func (d *plainDecoder) unknown(v *fastjson.Value, name []byte, known ...string) {
	for _, k := range known {
		d.expect(!strings.EqualFold(string(name), k))
	}
	d.scratch = v.MarshalTo(d.scratch[:0])
	d.expect(fastjson.ValidateBytes(d.scratch) == nil)
}

func (d *plainDecoder) expect(ok bool) { d.odd = d.odd || !ok }

func (d *plainDecoder) object(v *fastjson.Value, member func(name []byte, v *fastjson.Value)) {
	o, err := v.Object()
	if d.expect(err == nil); err == nil {
		o.Visit(member)
	}
}

// bytes is the text of a string; it is valid until the next record is parsed.
func (d *plainDecoder) bytes(v *fastjson.Value) []byte {
	b, err := v.StringBytes()
	d.expect(err == nil)
	return b
}

func (d *plainDecoder) string(v *fastjson.Value, into *string) {
	d.texts = append(d.texts, textPart{into, d.keep(d.bytes(v))})
}

func (d *plainDecoder) keep(text []byte) span {
	start := len(d.text)
	d.text = append(d.text, text...)
	return span{start, len(d.text)}
}

// number is the text of a number; it is valid until the next call.
func (d *plainDecoder) number(v *fastjson.Value) []byte {
	d.expect(v.Type() == fastjson.TypeNumber)
	d.scratch = v.MarshalTo(d.scratch[:0])
	d.expect(fastjson.ValidateBytes(d.scratch) == nil)
	return d.scratch
}

func (d *plainDecoder) float(v *fastjson.Value) float64 {
	f, err := strconv.ParseFloat(string(d.number(v)), 64)
	d.expect(err == nil)
	return f
}

func protocolName(b []byte) string {
	switch string(b) {
	case HTTP:
		return HTTP
	case HTTPS:
		return HTTPS
	case GRPC:
		return GRPC
	case GRPCS:
		return GRPCS
	case TCP:
		return TCP
	case UDP:
		return UDP
	case NATS:
		return NATS
	}
	return ""
}
