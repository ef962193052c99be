package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// LocationFlags say where the program runs. The environment is read by the
// detectors, which fall back on other names: PROXIMA_ZONE, then SERVICE_ZONE,
// then CLIENT_ZONE.
type LocationFlags struct {
	Region string `env:"-" placeholder:"NAME" help:"Region this runs in ($$PROXIMA_REGION, else $$SERVICE_REGION, $$CLIENT_REGION)."`
	Zone   string `env:"-" placeholder:"NAME" help:"Zone this runs in ($$PROXIMA_ZONE, else $$SERVICE_ZONE, $$CLIENT_ZONE)."`
	Rack   string `env:"-" placeholder:"NAME" help:"Rack this runs in ($$PROXIMA_RACK, else $$SERVICE_RACK, $$CLIENT_RACK)."`
	Host   string `env:"-" placeholder:"NAME" help:"Machine this runs on ($$PROXIMA_HOST)."`
	File   string `name:"location-file" placeholder:"FILE" help:"Labels that tell the location, as the Kubernetes Downward API writes them; asked after the above."`
	CIDR   string `name:"location-cidr" placeholder:"FILE" help:"Table of networks and their locations (lines \"10.1.0.0/16 region=R zone=Z\"), to find this machine's addresses in; asked last."`
}

// Detect finds the location: the flags win, then the environment, then the
// files. What the user has set for Proxima must be right, that is else a
// [UsageError]; what the other variables say is ignored with a warning when
// it is no location.
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
	detectors[1] = mustBeRight(detectors[1])
	if f.File != "" {
		detectors = append(detectors, mustBeRight(topology.File(f.File)))
	}
	if f.CIDR != "" {
		detectors = append(detectors, mustBeRight(topology.CIDRFile(f.CIDR, nil)))
	}
	found := topology.Detect(ctx, detectors...)
	for _, err := range found.Errors {
		if _, ok := errors.AsType[*UsageError](err); ok {
			return topology.Detection{}, err
		}
		logger.Warn("ignoring what is no location", "error", err)
	}
	return found, nil
}

// mustBeRight turns every fault of a detector into a [UsageError].
func mustBeRight(d topology.Detector) topology.Detector {
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
