package daemon

import (
	"cmp"
	"log/slog"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// RegistryFlags say which registry is meant.
type RegistryFlags struct {
	Bucket  string   `default:"proxima" placeholder:"NAME" help:"Bucket of the registry (${default})."`
	Domain  string   `name:"nats-domain" placeholder:"NAME" help:"JetStream domain of the bucket. With --nats-regions: that of this region, named as the region is."`
	Regions []string `name:"nats-regions" placeholder:"NAME" help:"Regions that have a registry each, in a JetStream domain of that name, joined by commas: instances are announced in the registry of this region (--nats-domain, which may be among them) and seen from all. The same list everywhere."`
}

// Validate finds what can never work, without asking the network.
func (f *RegistryFlags) Validate() error {
	err := events.ValidateName("--bucket", f.Name())
	if err == nil && f.Domain != "" {
		err = events.ValidateName("--nats-domain", f.Domain)
	}
	for _, region := range f.Regions {
		if err == nil {
			err = events.ValidateName("--nats-regions", region)
		}
	}
	if err != nil {
		return &UsageError{Err: err}
	}
	if len(f.Regions) > 0 && f.Domain == "" {
		return Usagef("--nats-regions needs --nats-domain: the JetStream domain of this region, named as the region is")
	}
	return nil
}

// Name is the bucket's.
func (f *RegistryFlags) Name() string { return cmp.Or(f.Bucket, kv.DefaultBucket) }

// Options are for [kv.Open].
func (f *RegistryFlags) Options(logger *slog.Logger) kv.Options {
	return kv.Options{Bucket: f.Name(), Domain: f.Domain, Regions: f.Regions, Logger: logger}
}
