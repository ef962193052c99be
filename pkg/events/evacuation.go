package events

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// maxEvacuationSize is the largest encoded evacuation, in bytes.
const maxEvacuationSize = 1 << 10

const evacuateFamily = "evacuate"

// Evacuation is an operator's order about a place: its instances are used only when
// there are no others; or the order that ends that. The bucket keeps it under
// [Evacuation.Key]. Of two orders about a place the later one holds, in whatever
// order they arrive, see [Evacuation.Overrides].
type Evacuation struct {
	Region string
	Zone   string // empty: the whole region
	// Evacuated is false for the order that undoes one.
	Evacuated bool
	// At is when it was ordered, in whole milliseconds. The writer reads the last
	// order about the place and makes At later than that, so that clocks that
	// differ matter only for orders written at the same time.
	At time.Time
}

type evacuationWire struct {
	Evacuated *bool  `json:"evacuated"`
	At        string `json:"at"`
}

// Key is the bucket key of the order: evacuate.<region> or
// evacuate.<region>.<zone>.
func (e Evacuation) Key() string { return evacuateFamily + "." + e.join(".") }

// Place is the place as operators write it: region or region/zone.
func (e Evacuation) Place() string { return e.join("/") }

func (e Evacuation) join(separator string) string {
	if e.Zone == "" {
		return e.Region
	}
	return e.Region + separator + e.Zone
}

// Covers reports whether l is in the place. An unknown location is not.
func (e Evacuation) Covers(l topology.Location) bool {
	return l.Region == e.Region && (e.Zone == "" || l.Zone == e.Zone)
}

// Overrides reports whether e holds and not another order about the same place: it is
// later, or it is of the same time and the one that evacuates.
func (e Evacuation) Overrides(other Evacuation) bool {
	if !e.At.Equal(other.At) {
		return e.At.After(other.At)
	}
	return e.Evacuated && !other.Evacuated
}

// ParsePlace reads what [Evacuation.Place] writes, and validates it.
func ParsePlace(s string) (region, zone string, err error) {
	region, zone, two := strings.Cut(s, "/")
	if two && zone == "" {
		return "", "", &FieldError{"place", s, "want a region, or region/zone"}
	}
	e := Evacuation{Region: region, Zone: zone}
	return region, zone, e.validatePlace()
}

// validate returns the error of the first field that breaks a rule, or nil.
func (e Evacuation) validate() error {
	if err := e.validatePlace(); err != nil {
		return err
	}
	if y := e.At.UTC().Year(); y < 1970 || y > 9999 || !e.At.Equal(e.At.Truncate(time.Millisecond)) {
		return &FieldError{"at", e.At.UTC().Format(time.RFC3339Nano), atRule}
	}
	return nil
}

const atRule = "want a time of the years 1970 to 9999 in whole milliseconds, such as 2026-11-21T08:00:00.123Z"

func (e Evacuation) validatePlace() error {
	if err := validatePlaceName("region", e.Region); err != nil || e.Zone == "" {
		return err
	}
	return validatePlaceName("zone", e.Zone)
}

// validatePlaceName refuses Unknown, too: no instance is known to be there.
func validatePlaceName(field, s string) error {
	if s == Unknown {
		return &FieldError{field, s, "want a place that is known"}
	}
	return ValidateName(field, s)
}

// EncodeEvacuation validates an order and writes the value of its key.
func EncodeEvacuation(e Evacuation) ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, err
	}
	return marshal(evacuationWire{&e.Evacuated, e.At.UTC().Format(time.RFC3339Nano)})
}

// DecodeEvacuation reads and validates an order from a key and its value. It ignores
// unknown fields, and keeps nothing of data. The error quotes at most 80 bytes of a
// field; it is a *[FieldError] when the JSON is valid.
func DecodeEvacuation(key string, data []byte) (Evacuation, error) {
	e, err := ParseEvacuationKey(key)
	if err != nil {
		return Evacuation{}, err
	}
	if len(data) > maxEvacuationSize {
		return Evacuation{}, fmt.Errorf("events: an evacuation of %d bytes, want at most %d", len(data), maxEvacuationSize)
	}
	var w evacuationWire
	if err := unmarshal("an evacuation", data, &w); err != nil {
		if fe, ok := errors.AsType[*FieldError](err); ok && fe.Field == "at" {
			fe.Rule = atRule
		}
		return Evacuation{}, err
	}
	if w.Evacuated == nil {
		return Evacuation{}, &FieldError{"evacuated", "", "want true or false"}
	}
	if e.At, err = time.Parse(time.RFC3339Nano, w.At); err != nil {
		return Evacuation{}, &FieldError{"at", w.At, atRule}
	}
	e.At, e.Evacuated = e.At.UTC(), *w.Evacuated
	return e, e.validate()
}

// ParseEvacuationKey reads the place in a key, and validates it.
func ParseEvacuationKey(key string) (Evacuation, error) {
	family, place, ok := strings.Cut(key, ".")
	var e Evacuation
	var two bool
	e.Region, e.Zone, two = strings.Cut(place, ".")
	if !ok || family != evacuateFamily || two && e.Zone == "" {
		return Evacuation{}, &FieldError{"key", key, "want evacuate.<region> or evacuate.<region>.<zone>"}
	}
	return e, e.validatePlace()
}
