package kv

import (
	"context"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/doctor"
)

// Finding is the result of one check of [Diagnose]. Its fields are
//
//   - Check, the name of the check, such as "replicas";
//   - Level: [FindingOK], [FindingWarning] or [FindingError];
//   - Text, what was found;
//   - Advice, what to do, empty if all is well;
//   - Fixable, whether [Repair] can do it.
type Finding = doctor.Finding

// The levels of a [Finding].
const (
	FindingOK      = doctor.OK
	FindingWarning = doctor.Warning // it works, and less well than it could, or not for all
	FindingError   = doctor.Error   // something does not work
)

// Diagnose finds out what is wrong with a registry: the servers and their versions, clocks,
// limits and domains, the settings and copies of its streams, what this user may do, and
// the instances that are listed. It changes nothing, and finds more than [Open] returns an
// error for. It reads the whole bucket: it is for operators.
func Diagnose(ctx context.Context, nc *nats.Conn, o Options) ([]Finding, error) {
	p, err := patient(nc, o)
	if err != nil {
		return nil, err
	}
	return doctor.Examine(ctx, p), nil
}

// Repair gives the streams of a registry the copies and settings that they should have, as
// [Diagnose] finds them, and returns what it has changed.
func Repair(ctx context.Context, nc *nats.Conn, o Options) ([]string, error) {
	p, err := patient(nc, o)
	if err != nil {
		return nil, err
	}
	return doctor.Repair(ctx, p)
}

func patient(nc *nats.Conn, o Options) (doctor.Patient, error) {
	o.SnapshotDir = ""
	r, err := newRegistry(nc, o)
	if err != nil {
		return doctor.Patient{}, err
	}
	p := doctor.Patient{Link: r.link, Want: r.bucket.config(1), Replicas: max(o.Replicas, replicas)}
	if r.sources != nil {
		p.Sourced = r.sources.Bucket.Stream
		for _, region := range o.Regions {
			if region != o.Domain && !slices.Contains(p.Regions, region) {
				p.Regions = append(p.Regions, region)
			}
		}
	}
	return p, nil
}
