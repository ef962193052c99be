package events

import (
	"strings"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Unknown stands for an unknown region or zone in keys and subjects.
const Unknown = topology.Unknown

// The families of keys and subjects, and the first token of each.
const (
	instFamily  = "inst"
	leaseFamily = "lease"
	beatFamily  = "beat"
	pingFamily  = "ping"
)

// Key is where an instance is kept: one record and one lease; and where it
// tells its load and answers pings. Region and Zone are empty when unknown.
type Key struct{ Service, Region, Zone, ID string }

// Inst is the bucket key of the record: inst.<service>.<region>.<zone>.<id>.
func (k Key) Inst() string { return k.join(instFamily) }

// Lease is the bucket key of the lease: lease.<service>.<region>.<zone>.<id>.
func (k Key) Lease() string { return k.join(leaseFamily) }

// Beat is what follows the bucket's name in the subject of its beats:
// beat.<service>.<region>.<zone>.<id>. The bucket keeps nothing under it.
func (k Key) Beat() string { return k.join(beatFamily) }

// Ping is where the instance answers pings, after the name of its bucket and a
// dot: ping.<service>.<region>.<zone>.<id>. It is a subject, not a key of the
// bucket.
func (k Key) Ping() string { return k.join(pingFamily) }

// String is <service>.<region>.<zone>.<id>.
func (k Key) String() string { return k.join("")[1:] }

func (k Key) join(family string) string {
	return family + "." + k.Service + "." + token(k.Region) + "." + token(k.Zone) + "." + k.ID
}

func token(s string) string {
	if s == "" {
		return Unknown
	}
	return s
}

// Validate says which name breaks which rule.
func (k Key) Validate() error {
	if err := ValidateService(k.Service); err != nil {
		return err
	}
	if err := validateLocation("", topology.Location{Region: k.Region, Zone: k.Zone}); err != nil {
		return err
	}
	return ValidateName("id", k.ID)
}

// normalize empties the tokens that stand for an unknown place.
func (k *Key) normalize() {
	if k.Region == Unknown {
		k.Region = ""
	}
	if k.Zone == Unknown {
		k.Zone = ""
	}
}

// ParseKey reads a bucket key of a record, inst.<service>.<region>.<zone>.<id>,
// and validates its names.
func ParseKey(key string) (Key, error) { return parseKey(instFamily, key) }

// ParseBeatKey reads what [Key.Beat] writes, and validates its names.
func ParseBeatKey(key string) (Key, error) { return parseKey(beatFamily, key) }

func parseKey(family, key string) (Key, error) {
	first, rest, ok := strings.Cut(key, ".")
	ok = ok && first == family
	var tokens [4]string
	for i := range tokens {
		if i < len(tokens)-1 {
			var more bool
			tokens[i], rest, more = strings.Cut(rest, ".")
			ok = ok && more
		} else {
			tokens[i] = rest
		}
		ok = ok && tokens[i] != ""
	}
	if !ok || strings.Contains(rest, ".") {
		return Key{}, &FieldError{"key", key, "want " + family + ".<service>.<region>.<zone>.<id>"}
	}
	k := Key{tokens[0], tokens[1], tokens[2], tokens[3]}
	k.normalize()
	if err := k.Validate(); err != nil {
		return Key{}, err
	}
	return k, nil
}
