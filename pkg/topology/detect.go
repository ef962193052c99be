package topology

import (
	"context"
	"fmt"
	"strings"
)

// Detector finds part of a location. Finding nothing is no error.
type Detector struct {
	// Name is what [Detection] reports as the winner, for example "flags".
	Name string
	// Detect returns the fields that it finds. It must return when ctx ends.
	Detect func(ctx context.Context) (Location, error)
}

// Detection is what [Detect] found.
type Detection struct {
	Location Location
	// Won is the name of the detector of each known field.
	Won map[Level]string
	// Errors are of detectors that failed, or returned an invalid value. Each
	// names its detector.
	Errors []error
}

// Detect calls the detectors in turn until every field is known or ctx ends. For each
// field the first detector that finds it wins. A detector that fails is skipped.
// Values are trimmed, and "_" is unknown. A value that breaks the rules of
// [Location.Validate] is an error and counts as unknown.
func Detect(ctx context.Context, detectors ...Detector) Detection {
	d := Detection{Won: make(map[Level]string)}
	for _, by := range detectors {
		if len(d.Won) == len(d.Location.fields()) {
			break
		}
		if ctx.Err() != nil {
			d.fail(by.Name, context.Cause(ctx))
			break
		}
		found, err := by.Detect(ctx)
		if err != nil {
			d.fail(by.Name, err)
			continue
		}
		d.take(by.Name, found)
	}
	return d
}

func (d *Detection) take(name string, found Location) {
	fields := d.Location.fields()
	for i, f := range found.fields() {
		value := strings.TrimSpace(*f.value)
		if value == "" || value == Unknown || *fields[i].value != "" {
			continue
		}
		if err := f.level.check(value); err != nil {
			d.fail(name, err)
			continue
		}
		*fields[i].value = value
		d.Won[f.level] = name
	}
}

func (d *Detection) fail(name string, err error) {
	d.Errors = append(d.Errors, fmt.Errorf("topology: %s: %w", name, err))
}

// Fixed is a detector that returns l, for example from flags.
func Fixed(name string, l Location) Detector {
	return Detector{name, func(context.Context) (Location, error) { return l, nil }}
}

// Environment are the detectors "env PROXIMA", "env SERVICE" and "env CLIENT",
// which read PROXIMA_REGION, _ZONE, _RACK and _HOST, then the same names with
// SERVICE_ and CLIENT_ in front, but of these not _HOST: a SERVICE_HOST is nearly
// always an address. getenv is os.Getenv.
func Environment(getenv func(string) string) []Detector {
	detector := func(prefix string) Detector {
		return Detector{"env " + prefix, func(context.Context) (Location, error) {
			l := Location{
				Region: getenv(prefix + "_REGION"),
				Zone:   getenv(prefix + "_ZONE"),
				Rack:   getenv(prefix + "_RACK"),
			}
			if prefix == "PROXIMA" {
				l.Host = getenv(prefix + "_HOST")
			}
			return l, nil
		}}
	}
	return []Detector{detector("PROXIMA"), detector("SERVICE"), detector("CLIENT")}
}
