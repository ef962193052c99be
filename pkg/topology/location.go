package topology

import (
	"cmp"
	"fmt"
	"strings"
)

// Location is where a process runs. An empty field is unknown, and unknown is not a
// place: two unknown zones are not the same zone.
type Location struct {
	Region string `json:"region,omitempty"` // for example us-east-1
	Zone   string `json:"zone,omitempty"`   // for example us-east-1a
	Rack   string `json:"rack,omitempty"`   // for example r12
	Host   string `json:"host,omitempty"`   // the machine, for example node-3
}

// field is one field of a location, to read or to set.
type field struct {
	level Level
	value *string
}

// field is the field of a level, nil if there is none.
func (l *Location) field(level Level) *string {
	switch level {
	case Host:
		return &l.Host
	case Rack:
		return &l.Rack
	case Zone:
		return &l.Zone
	case Region:
		return &l.Region
	}
	return nil
}

// fields are all of them, widest first.
func (l *Location) fields() [4]field {
	return [4]field{{Region, &l.Region}, {Zone, &l.Zone}, {Rack, &l.Rack}, {Host, &l.Host}}
}

// ParseLocation reads the text of [Location.String]: region/zone, or less
// ("us-east-1"), or more ("us-east-1/us-east-1a/r12/node-3"). Unknown fields are
// empty or "_". The names must be valid, see [Location.Validate].
func ParseLocation(s string) (Location, error) {
	var l Location
	fields := l.fields()
	rest, more := s, true
	for _, f := range fields {
		if *f.value, rest, more = strings.Cut(rest, "/"); !more {
			break
		}
	}
	if more {
		return Location{}, fmt.Errorf("topology: location %.80q has more than %d parts, want region/zone[/rack[/host]]", s, len(fields))
	}
	l.Normalize()
	if err := l.Validate(); err != nil {
		return Location{}, fmt.Errorf("topology: location: %w", err)
	}
	return l, nil
}

// Validate returns an error for a region or zone that is not 1 to 63 of
// [A-Za-z0-9_-], and for a rack or host that is not short printable text without '/'.
// Unknown fields are valid. The error is a *[FieldError].
func (l Location) Validate() error {
	if err := Region.check(l.Region); err != nil {
		return err
	}
	if err := Zone.check(l.Zone); err != nil {
		return err
	}
	if err := Rack.check(l.Rack); err != nil {
		return err
	}
	return Host.check(l.Host)
}

// Normalize empties the fields that are [Unknown].
func (l *Location) Normalize() {
	for _, f := range l.fields() {
		if *f.value == Unknown {
			*f.value = ""
		}
	}
}

// String is region/zone[/rack[/host]], with "_" for an unknown field.
func (l Location) String() string {
	parts := []string{l.Region, l.Zone, l.Rack, l.Host}
	n := len(parts)
	for n > 2 && parts[n-1] == "" {
		n--
	}
	for i := range parts[:n] {
		parts[i] = cmp.Or(parts[i], Unknown)
	}
	return strings.Join(parts[:n], "/")
}
