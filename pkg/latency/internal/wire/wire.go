// Package wire encodes what callers send each other and instances about distances:
// reports, which are batches of samples, and pings. It is subjects and JSON.
package wire

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// What a batch and a ping may be, at most.
const (
	maxBatchSize = 64 << 10 // bytes
	maxSamples   = 512      // of one batch
	maxUnloaded  = 64       // durations of one batch
	maxRTT       = 10 * time.Second
	maxDuration  = time.Minute // of a call without load
	maxAge       = time.Hour
	maxPingSize  = 4 << 10 // bytes
)

const (
	family     = "latency"
	wantObject = "want a JSON object"
)

// Report is the address of a report: one reporter in one zone about one service. A
// permission can bind a reporter to its subject.
type Report struct{ Region, Zone, Service, Reporter string }

// Subject is latency.<region>.<zone>.<service>.<reporter>, with the tokens of the
// service as in keys ([events.ServiceTokens]). With "*" as the reporter it is the
// pattern of all of them in that zone.
func (r Report) Subject() string {
	return family + "." + cmp.Or(r.Region, topology.Unknown) + "." + cmp.Or(r.Zone, topology.Unknown) + "." + events.ServiceTokens(r.Service) + "." + r.Reporter
}

// ParseReport reads a subject as [Report.Subject] makes it and validates its
// names.
func ParseReport(subject string) (Report, error) {
	rest, ok := strings.CutPrefix(subject, family+".")
	var r Report
	for _, place := range [...]*string{&r.Region, &r.Zone} {
		var more bool
		*place, rest, more = strings.Cut(rest, ".")
		ok = ok && more && *place != ""
	}
	if ok {
		r.Service, r.Reporter, ok = events.CutService(rest)
	}
	if !ok || r.Service == "" || r.Reporter == "" || strings.Contains(r.Reporter, ".") {
		return Report{}, &events.FieldError{Field: "subject", Value: subject, Rule: "want latency.<region>.<zone>.<service>.<reporter>"}
	}
	l := topology.Location{Region: r.Region, Zone: r.Zone}
	l.Normalize()
	r.Region, r.Zone = l.Region, l.Zone
	if err := l.Validate(); err != nil {
		return Report{}, err
	}
	if err := events.ValidateService(r.Service); err != nil {
		return Report{}, err
	}
	return r, events.ValidateName("reporter", r.Reporter)
}

// Batch is the measurements of one reporter of one service: the latest of each
// instance. Each batch replaces the one before.
type Batch struct {
	// Sequence grows with every batch of a reporter, so that a replay is
	// recognized.
	Sequence uint64
	// Leaving is set in the reporter's last batch.
	Leaving bool
	// Coordinate is the reporter's own, nil if it has none.
	Coordinate *events.Coordinate
	Samples    []Sample
	Unloaded   []Unloaded
}

// Sample is what a reporter measured of one instance.
type Sample struct {
	ID          string        // of the instance
	Incarnation string        // of the instance
	Place       string        // its region/zone; empty unless another instance has the same id and incarnation
	RTT         time.Duration // the median, in whole microseconds: above 0, at most 10s
	Count       int           // of measurements in it, at least 1
	Age         time.Duration // of the newest of them when the batch was made, in whole milliseconds
}

// Unloaded is how long calls to the instances of a circle take without load, by what a
// caller has measured.
type Unloaded struct {
	Circle   string        `json:"circle"`             // its name: zone, region …
	Protocol string        `json:"protocol,omitempty"` // of the endpoints that are called; empty: any
	Duration time.Duration `json:"-"`                  // without the way there, in whole microseconds: above 0, at most a minute
}

// wireUnloaded is the JSON of it.
type wireUnloaded struct {
	Unloaded
	Duration float64 `json:"duration_us"`
}

// valid reports whether it is in bounds. Comparisons are such that NaN fails.
func (u *wireUnloaded) valid() bool {
	return u.Circle != "" && topology.ValidText(u.Circle) && topology.ValidText(u.Protocol) &&
		u.Duration >= 1 && u.Duration <= float64(maxDuration/time.Microsecond)
}

// wireSample is the JSON of a sample.
type wireSample struct {
	ID          string  `json:"id"`
	Incarnation string  `json:"incarnation,omitempty"`
	Place       string  `json:"place,omitempty"`
	RTT         float64 `json:"rtt_us"`
	Count       int     `json:"count"`
	Age         float64 `json:"age_ms"`
}

type wireBatch[S any] struct {
	Sequence uint64          `json:"seq"`
	Leaving  bool            `json:"leaving,omitempty"`
	Place    json.RawMessage `json:"coordinate,omitempty"`
	Samples  []S             `json:"samples"`
	Unloaded json.RawMessage `json:"unloaded,omitempty"`
}

// readBatch reads the batch, and those samples that are of the right types: usually
// all, at once.
func readBatch(data []byte) (w wireBatch[wireSample], err error) {
	if err := json.Unmarshal(data, &w); err == nil {
		return w, nil
	}
	var raw wireBatch[json.RawMessage]
	if err := json.Unmarshal(data, &raw); err != nil {
		return w, err
	}
	w = wireBatch[wireSample]{raw.Sequence, raw.Leaving, raw.Place, make([]wireSample, len(raw.Samples)), raw.Unloaded}
	for i, data := range raw.Samples {
		if json.Unmarshal(data, &w.Samples[i]) != nil {
			w.Samples[i] = wireSample{} // which is not valid
		}
	}
	return w, nil
}

// EncodeBatch writes a batch. What [DecodeBatch] would reject is left out, and
// so are the samples beyond the first 512, and the durations beyond the first 64.
func EncodeBatch(b Batch) ([]byte, error) {
	w := struct {
		Sequence uint64             `json:"seq"`
		Leaving  bool               `json:"leaving,omitempty"`
		Place    *events.Coordinate `json:"coordinate,omitempty"`
		Samples  []wireSample       `json:"samples"`
		Unloaded []wireUnloaded     `json:"unloaded,omitempty"`
	}{b.Sequence, b.Leaving, nil, make([]wireSample, 0, len(b.Samples)), nil}
	if b.Coordinate != nil && b.Coordinate.Validate() == nil {
		w.Place = b.Coordinate
	}
	for _, s := range b.Samples {
		ws := wireSample{s.ID, s.Incarnation, s.Place, float64(max(s.RTT.Microseconds(), 1)), s.Count, float64(s.Age.Milliseconds())}
		if len(w.Samples) < maxSamples && s.RTT > 0 && ws.valid() {
			w.Samples = append(w.Samples, ws)
		}
	}
	for _, u := range b.Unloaded {
		wu := wireUnloaded{u, float64(u.Duration.Microseconds())}
		if len(w.Unloaded) < maxUnloaded && wu.valid() {
			w.Unloaded = append(w.Unloaded, wu)
		}
	}
	return json.Marshal(w)
}

// DecodeBatch reads a batch. It leaves out and counts samples, durations, and a
// coordinate, that are out of bounds. After an error there is no batch at all.
func DecodeBatch(data []byte) (b Batch, rejected int, err error) {
	if len(data) > maxBatchSize {
		return Batch{}, 0, fmt.Errorf("latency: a batch of %d bytes, want at most %d", len(data), maxBatchSize)
	}
	w, err := readBatch(data)
	if err != nil {
		return Batch{}, 0, fmt.Errorf("latency: decode a batch of samples: %w", err)
	}
	if bytes.TrimSpace(data)[0] != '{' {
		return Batch{}, 0, &events.FieldError{Field: "batch", Value: "null", Rule: wantObject} // nothing else is accepted
	}
	if len(w.Samples) > maxSamples {
		return Batch{}, 0, fmt.Errorf("latency: a batch of %d samples, want at most %d", len(w.Samples), maxSamples)
	}
	b = Batch{Sequence: w.Sequence, Leaving: w.Leaving, Samples: make([]Sample, 0, len(w.Samples))}
	if len(w.Place) > 0 && !bytes.Equal(w.Place, []byte("null")) {
		if c, err := DecodeCoordinate(w.Place); err == nil {
			b.Coordinate = &c
		} else {
			rejected++
		}
	}
	for _, s := range w.Samples {
		if !s.valid() {
			rejected++
			continue
		}
		b.Samples = append(b.Samples, Sample{
			ID: s.ID, Incarnation: s.Incarnation, Place: s.Place, Count: s.Count,
			RTT: time.Duration(s.RTT * float64(time.Microsecond)),
			Age: time.Duration(s.Age * float64(time.Millisecond)),
		})
	}
	unloaded, invalid := readUnloaded(w.Unloaded)
	b.Unloaded = unloaded
	return b, rejected + invalid, nil
}

// readUnloaded reads the durations that are in bounds, and counts the others.
func readUnloaded(data json.RawMessage) (list []Unloaded, rejected int) {
	if len(data) == 0 {
		return nil, 0
	}
	var all []json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil || len(all) > maxUnloaded {
		return nil, 1
	}
	for _, one := range all {
		var u wireUnloaded
		if err := json.Unmarshal(one, &u); err != nil || !u.valid() {
			rejected++
			continue
		}
		u.Unloaded.Duration = time.Duration(u.Duration * float64(time.Microsecond))
		list = append(list, u.Unloaded)
	}
	return list, rejected
}

// valid reports whether a sample is in bounds. Comparisons are such that NaN fails.
func (s *wireSample) valid() bool {
	return topology.ValidName(s.ID) && topology.ValidText(s.Incarnation) && topology.ValidText(s.Place) &&
		validMicroseconds(s.RTT) &&
		s.Count >= 1 && s.Count <= 1e6 &&
		s.Age >= 0 && s.Age <= float64(maxAge/time.Millisecond)
}

func validMicroseconds(us float64) bool {
	return us >= 0.001 && us <= float64(maxRTT/time.Microsecond)
}

// Ping is what a caller sends an instance that it has measured, so that both can fit
// their coordinates. The answer is the instance's [events.Coordinate].
type Ping struct {
	Reporter   string            // name of the caller, as an id
	RTT        time.Duration     // between the two
	Coordinate events.Coordinate // of the reporter
}

type wirePing struct {
	Reporter   string             `json:"reporter"`
	RTT        float64            `json:"rtt_us"`
	Coordinate *events.Coordinate `json:"coordinate"`
}

// EncodePing writes a ping. The error is that of [DecodePing].
func EncodePing(p Ping) ([]byte, error) {
	w := wirePing{p.Reporter, float64(p.RTT) / float64(time.Microsecond), &p.Coordinate}
	if err := w.validate(); err != nil {
		return nil, err
	}
	return json.Marshal(w)
}

// DecodePing reads and validates a ping.
func DecodePing(data []byte) (Ping, error) {
	if len(data) > maxPingSize {
		return Ping{}, fmt.Errorf("latency: a ping of %d bytes, want at most %d", len(data), maxPingSize)
	}
	var w wirePing
	if err := json.Unmarshal(data, &w); err != nil {
		return Ping{}, fmt.Errorf("latency: decode a ping: %w", err)
	}
	if err := w.validate(); err != nil {
		return Ping{}, err
	}
	return Ping{w.Reporter, time.Duration(w.RTT * float64(time.Microsecond)), *w.Coordinate}, nil
}

func (w *wirePing) validate() error {
	if err := events.ValidateName("reporter", w.Reporter); err != nil {
		return err
	}
	if !validMicroseconds(w.RTT) {
		return &events.FieldError{Field: "rtt_us", Value: fmt.Sprint(w.RTT), Rule: "want microseconds, above 0 and at most 10 seconds"}
	}
	if w.Coordinate == nil {
		return &events.FieldError{Field: "coordinate", Rule: "want one"}
	}
	return w.Coordinate.Validate()
}

// EncodeCoordinate writes a coordinate, as the answer to a [Ping].
func EncodeCoordinate(c events.Coordinate) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(c)
}

// DecodeCoordinate reads and validates a coordinate.
func DecodeCoordinate(data []byte) (events.Coordinate, error) {
	if len(data) > maxPingSize {
		return events.Coordinate{}, fmt.Errorf("latency: a coordinate of %d bytes, want at most %d", len(data), maxPingSize)
	}
	if string(bytes.TrimSpace(data)) == "null" {
		return events.Coordinate{}, &events.FieldError{Field: "coordinate", Value: "null", Rule: wantObject}
	}
	var c events.Coordinate
	if err := c.UnmarshalJSON(data); err != nil {
		return events.Coordinate{}, fmt.Errorf("latency: decode a coordinate: %w", err)
	}
	return c, c.Validate()
}
