package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// LocationFlags are where the program runs. The environment is read by detectors,
// which know more names: PROXIMA_ZONE, then SERVICE_ZONE, then CLIENT_ZONE.
type LocationFlags struct {
	Region string `env:"-" placeholder:"NAME" help:"Region this runs in ($$PROXIMA_REGION, else $$SERVICE_REGION, $$CLIENT_REGION)."`
	Zone   string `env:"-" placeholder:"NAME" help:"Zone this runs in ($$PROXIMA_ZONE, else $$SERVICE_ZONE, $$CLIENT_ZONE)."`
	Rack   string `env:"-" placeholder:"NAME" help:"Rack this runs in ($$PROXIMA_RACK, else $$SERVICE_RACK, $$CLIENT_RACK)."`
	Host   string `env:"-" placeholder:"NAME" help:"Machine this runs on ($$PROXIMA_HOST)."`
	File   string `name:"location-file" placeholder:"FILE" help:"File of labels with the location, as the Kubernetes Downward API writes it. It is used for what flags and environment do not give."`
	CIDR   string `name:"location-cidr" placeholder:"FILE" help:"Table of networks and their locations (lines \"10.1.0.0/16 region=R zone=Z\"), in which the addresses of this machine are looked up. It is used for what is still unknown."`
}

// Detect finds the location: from the flags, then from the environment, then from
// the files. An invalid value that was meant for Proxima (flags, PROXIMA_…, files)
// is a [UsageError]; an invalid value of another variable is ignored with a
// warning.
func (f *LocationFlags) Detect(ctx context.Context, getenv func(string) string, logger *slog.Logger) (topology.Detection, error) {
	flags := topology.Location{Region: f.Region, Zone: f.Zone, Rack: f.Rack, Host: f.Host}
	flags.Normalize()
	if err := flags.Validate(); err != nil {
		if e, ok := errors.AsType[*topology.FieldError](err); ok {
			err = fmt.Errorf("--%s %q: %s", e.Field, e.Value, e.Rule)
		}
		return topology.Detection{}, &UsageError{err}
	}
	detectors := slices.Concat([]topology.Detector{topology.Fixed("flags", flags)}, topology.Environment(getenv))
	detectors[1] = mustBeValid(detectors[1])
	if f.File != "" {
		detectors = append(detectors, mustBeValid(topology.File(f.File)))
	}
	if f.CIDR != "" {
		detectors = append(detectors, mustBeValid(topology.CIDRFile(f.CIDR, nil)))
	}
	found := topology.Detect(ctx, detectors...)
	for _, err := range found.Errors {
		if _, ok := errors.AsType[*UsageError](err); ok {
			return topology.Detection{}, err
		}
		logger.Warn("ignoring an invalid location", "error", err)
	}
	return found, nil
}

// mustBeValid makes every error of a detector a [UsageError].
func mustBeValid(d topology.Detector) topology.Detector {
	detect := d.Detect
	d.Detect = func(ctx context.Context) (topology.Location, error) {
		l, err := detect(ctx)
		if err == nil {
			l.Normalize()
			err = l.Validate()
		}
		if err != nil {
			return topology.Location{}, &UsageError{err}
		}
		return l, nil
	}
	return d
}
