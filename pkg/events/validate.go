package events

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// FieldError is the error of a field of an instance, key or address that breaks a rule.
type FieldError struct {
	Field string // as in the JSON, for example "service" or "endpoints.http"
	Value string
	Rule  string // what the field must be
}

// maxQuoted is how much of a value an error shows, in bytes.
const maxQuoted = 80

func (e *FieldError) Error() string {
	v := e.Value
	if len(v) > maxQuoted {
		v = v[:maxQuoted] + "…"
	}
	return fmt.Sprintf("events: %s %q: %s", e.Field, v, e.Rule)
}

const (
	textRule       = "want at most 255 bytes of printable text"
	weightRule     = "want a whole number, 0 to 10000"
	ttlRule        = `want whole seconds from 1s to 1h, such as "15s"`
	startedRule    = "want a time of the years 1970 to 9999, such as 2026-11-21T08:00:00Z"
	coordinateRule = "want finite seconds, at most 10"
)

// ValidateName checks a name that becomes one token of a subject: an id, a region or
// a zone. Field is its name in the error.
func ValidateName(field, s string) error {
	if !topology.ValidName(s) {
		return &FieldError{field, s, topology.NameRule}
	}
	return nil
}

func validateText(field, s string) error {
	if !topology.ValidText(s) {
		return &FieldError{field, s, textRule}
	}
	return nil
}

// validateLocation puts prefix before the names of fields in errors.
func validateLocation(prefix string, l topology.Location) error {
	err := l.Validate()
	if fe, ok := errors.AsType[*topology.FieldError](err); ok {
		return &FieldError{prefix + string(fe.Field), fe.Value, fe.Rule}
	}
	return err
}

// Validate returns the error of the first field that breaks a rule, or nil. Defaults
// must have been filled in; [Encode] and [Decode] do both.
func (in *Instance) Validate() error {
	if err := ValidateService(in.Service); err != nil {
		return err
	}
	if err := validateLocation("location.", in.Location); err != nil {
		return err
	}
	if err := ValidateName("id", in.ID); err != nil {
		return err
	}
	if err := validateText("incarnation", in.Incarnation); err != nil {
		return err
	}
	if err := validateText("version", in.Version); err != nil {
		return err
	}
	switch year := in.Started.UTC().Year(); {
	case in.Status != Up && in.Status != Draining && in.Status != NotReady:
		return &FieldError{"status", string(in.Status), "want up, draining or not_ready"}
	case in.Weight != LastResort && (in.Weight < 1 || in.Weight > 10000):
		return &FieldError{"weight", strconv.Itoa(in.Weight), weightRule}
	case in.TTL < time.Second || in.TTL > time.Hour || in.TTL%time.Second != 0:
		return &FieldError{"ttl", in.TTL.String(), ttlRule}
	case !in.Started.IsZero() && (year < 1970 || year > 9999):
		return &FieldError{"started", strconv.Itoa(year), startedRule}
	case len(in.Endpoints) == 0:
		return &FieldError{"endpoints", "", "want at least one, such as http=10.0.0.5:8080"}
	}
	if err := validateEach(in.Endpoints, validateEndpoint); err != nil {
		return err
	}
	if in.Location.Host == "" && in.hasSocket() {
		return &FieldError{"location.host", "", noHostRule}
	}
	if err := validateEach(in.Metadata, validateMetadata); err != nil || in.Coordinate == nil {
		return err
	}
	return in.Coordinate.Validate()
}

// validateEach returns the error of the first name, in order, that has one. It sorts
// only when there is one.
func validateEach(m map[string]string, check func(name, value string) error) error {
	for name, value := range m {
		if check(name, value) == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if err := check(name, m[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

func validateMetadata(name, value string) error {
	if name == "" || !topology.ValidText(name) {
		return &FieldError{"metadata", name, "want names of 1 to 255 bytes of printable text"}
	}
	if !utf8.ValidString(value) {
		return &FieldError{"metadata." + name, value, "want UTF-8"}
	}
	return nil
}

// Validate returns an error for coordinates that are not finite, or over 10 seconds.
func (c *Coordinate) Validate() error {
	for _, v := range c.Vec {
		if err := validateSeconds("coordinate.vec", v, true); err != nil {
			return err
		}
	}
	err := validateSeconds("coordinate.error", c.Error, false)
	if err == nil {
		err = validateSeconds("coordinate.adjustment", c.Adjustment, true)
	}
	if err == nil {
		err = validateSeconds("coordinate.height", c.Height, false)
	}
	return err
}

func validateSeconds(field string, v float64, negative bool) error {
	const limit = 10 // no round trip of this planet
	switch {
	case !(math.Abs(v) <= limit): // NaN, too
		return &FieldError{field, formatFloat(v), coordinateRule}
	case v < 0 && !negative:
		return &FieldError{field, formatFloat(v), "want no negative value"}
	}
	return nil
}

func formatFloat(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
