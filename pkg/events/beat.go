package events

import (
	"fmt"
	"math"
)

// MaxBeatSize is the largest encoded beat, in bytes.
const MaxBeatSize = 1 << 10

const (
	// maxCount is the largest InFlight and Queue of a beat.
	maxCount = 1_000_000
	// rounding is how far above 1 a share that was measured may be.
	rounding = 0.01

	shareRule = "want a number, 0 to 1"
	countRule = "want a whole number, 0 to 1000000"
)

// Beat is the load report of an instance. The announcer publishes one every few
// seconds on core NATS, on <bucket>.beat.<service>.<region>.<zone>.<id>, and no
// server keeps it.
type Beat struct {
	// CPU is the share it uses of the processor time it may use, 0 to 1.
	CPU float64
	// Memory is the share it uses of the memory it may use, 0 to 1.
	Memory float64
	// InFlight is the number of calls being served, 0 to 1,000,000.
	InFlight int
	// Queue is the number of calls that wait to be served, 0 to 1,000,000.
	Queue int
	// Incarnation of the instance, or empty.
	Incarnation string
}

// beatWire is the JSON of a beat. Numbers are floats, as some writers of JSON have no
// whole ones, and pointers, nil where absent.
type beatWire struct {
	CPU         *float64 `json:"cpu"`
	Memory      *float64 `json:"mem"`
	InFlight    *float64 `json:"in_flight"`
	Queue       *float64 `json:"queue"`
	Incarnation string   `json:"incarnation,omitempty"`
}

// EncodeBeat validates a beat and writes it. A share up to 1.01 is rounded to 1.
func EncodeBeat(b Beat) ([]byte, error) {
	for _, share := range []*float64{&b.CPU, &b.Memory} {
		if *share > 1 && *share <= 1+rounding {
			*share = 1
		}
	}
	inFlight, queue := float64(b.InFlight), float64(b.Queue)
	w := beatWire{&b.CPU, &b.Memory, &inFlight, &queue, b.Incarnation}
	if err := w.validate(); err != nil {
		return nil, err
	}
	return marshal(w)
}

// DecodeBeat reads and validates a beat. It ignores unknown fields. Numbers that are
// absent or null are 0, but one must be there. It keeps nothing of data. The error
// quotes at most 80 bytes of a field; it is a *[FieldError] when the JSON is valid.
func DecodeBeat(data []byte) (Beat, error) {
	if len(data) > MaxBeatSize {
		return Beat{}, fmt.Errorf("events: a beat of %d bytes, want at most %d", len(data), MaxBeatSize)
	}
	var w beatWire
	if err := unmarshal("a beat", data, &w); err != nil {
		return Beat{}, err
	}
	if w.CPU == nil && w.Memory == nil && w.InFlight == nil && w.Queue == nil {
		return Beat{}, &FieldError{"beat", string(data), "want at least one of cpu, mem, in_flight and queue"}
	}
	if err := w.validate(); err != nil {
		return Beat{}, err
	}
	return Beat{value(w.CPU), value(w.Memory), int(value(w.InFlight)), int(value(w.Queue)), w.Incarnation}, nil
}

func value(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

func (w *beatWire) validate() error {
	for _, f := range []struct {
		name  string
		value float64
		most  float64
		whole bool
		rule  string
	}{
		{"cpu", value(w.CPU), 1, false, shareRule},
		{"mem", value(w.Memory), 1, false, shareRule},
		{"in_flight", value(w.InFlight), maxCount, true, countRule},
		{"queue", value(w.Queue), maxCount, true, countRule},
	} {
		ok := f.value >= 0 && f.value <= f.most && (!f.whole || f.value == math.Trunc(f.value)) // not NaN, either
		if !ok {
			return &FieldError{f.name, formatFloat(f.value), f.rule}
		}
	}
	return validateText("incarnation", w.Incarnation)
}
