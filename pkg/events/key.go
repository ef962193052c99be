package events

import (
	"cmp"
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

// Key is an instance's place in a bucket and in subjects: of its record, its lease,
// its beats and its pings. Region and Zone are empty when unknown. A service with dots in
// its name is several tokens, see [ServiceTokens].
type Key struct{ Service, Region, Zone, ID string }

// Inst is the bucket key of the record: inst.<service>.<region>.<zone>.<id>.
func (k Key) Inst() string { return k.join(instFamily) }

// Lease is the bucket key of the lease: lease.<service>.<region>.<zone>.<id>.
func (k Key) Lease() string { return k.join(leaseFamily) }

// Beat is the subject of its beats, after the name of the bucket and a dot:
// beat.<service>.<region>.<zone>.<id>. It is not a key of the bucket.
func (k Key) Beat() string { return k.join(beatFamily) }

// Ping is the subject on which the instance answers pings, after the name of the
// bucket and a dot: ping.<service>.<region>.<zone>.<id>. It is not a key of the
// bucket.
func (k Key) Ping() string { return k.join(pingFamily) }

// String is <service>.<region>.<zone>.<id>, as in keys.
func (k Key) String() string { return k.join("")[1:] }

func (k Key) join(family string) string {
	return family + "." + ServiceTokens(k.Service) + "." + cmp.Or(k.Region, Unknown) + "." + cmp.Or(k.Zone, Unknown) + "." + k.ID
}

// Validate returns the error of the first name that breaks a rule, or nil.
func (k Key) Validate() error {
	if err := ValidateService(k.Service); err != nil {
		return err
	}
	if err := validateLocation("", topology.Location{Region: k.Region, Zone: k.Zone}); err != nil {
		return err
	}
	return ValidateName("id", k.ID)
}

// normalize empties the tokens of unknown places.
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
	var k Key
	if ok {
		k.Service, rest, ok = CutService(rest)
		ok = ok && k.Service != ""
	}
	for _, token := range [...]*string{&k.Region, &k.Zone, &k.ID} {
		var more bool
		*token, rest, more = strings.Cut(rest, ".")
		ok = ok && *token != "" && more == (token != &k.ID)
	}
	if !ok {
		return Key{}, &FieldError{"key", key, "want " + family + ".<service>.<region>.<zone>.<id>"}
	}
	k.normalize()
	if err := k.Validate(); err != nil {
		return Key{}, err
	}
	return k, nil
}
