package daemon

import (
	"cmp"
	"log/slog"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// RegistryFlags select the registry.
type RegistryFlags struct {
	Bucket  string   `default:"proxima" placeholder:"NAME" help:"Key-value bucket of the registry (${default})."`
	Domain  string   `name:"nats-domain" placeholder:"NAME" help:"JetStream domain of the bucket. With --nats-regions: the domain of this region, which has the name of the region."`
	Regions []string `name:"nats-regions" placeholder:"NAME" help:"Regions, joined by commas, each with a registry in the JetStream domain of that name. Instances are announced in the registry of this region, which --nats-domain names and the list may include, and are listed in all regions. Give the same list to all programs."`
}

// Validate checks the flags. It does not use the network.
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
		return Usagef("--nats-regions needs --nats-domain: the JetStream domain of this region, which has the name of the region")
	}
	return nil
}

// Name is the name of the bucket.
func (f *RegistryFlags) Name() string { return cmp.Or(f.Bucket, kv.DefaultBucket) }

// Options are the options of [kv.Open].
func (f *RegistryFlags) Options(logger *slog.Logger) kv.Options {
	return kv.Options{Bucket: f.Name(), Domain: f.Domain, Regions: f.Regions, Logger: logger}
}
