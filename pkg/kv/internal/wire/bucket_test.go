package wire

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
)

// Leases are named in the bucket that was written, also where it is sourced.
func TestASourcedRemovalIsBelievedByTheLeaseOfItsOrigin(t *testing.T) {
	const key = "user.eu.eu-a.a"
	sourced := NewBucket("proxima_us", "proxima", "$JS.us.API.")
	message := func(stream, subject, scheduler string) *nats.Msg {
		return &nats.Msg{Data: BodyExpired, Header: nats.Header{
			HdrOperation: {Purge}, HdrScheduler: {scheduler},
			HdrStream: {stream}, HdrSubject: {subject}, HdrSequence: {"7"}, HdrTimestamp: {"2026-11-21T08:00:00Z"},
		}}
	}
	const stream, subject = "KV_proxima_us", "$KV.proxima_us.inst." + key
	if c, err := sourced.Parse(message(stream, subject, "$KV.proxima.lease."+key)); err != nil || c.Err != nil || !c.Expired {
		t.Errorf("%+v, %v", c, err)
	}
	for name, msg := range map[string]*nats.Msg{
		"a lease of another instance":               message(stream, subject, "$KV.proxima.lease.user.eu.eu-a.b"),
		"a lease in the bucket that sources others": message(stream, subject, "$KV.proxima_us.lease."+key),
		"a lease of another bucket":                 message(stream, subject, "$KV.other.lease."+key),
		"something that is not a lease":             message(stream, subject, "$KV.proxima.inst."+key),
		"a wildcard in the place of one":            message(stream, subject, "$KV.proxima.lease.user.*.*.*"),
	} {
		if c, err := sourced.Parse(msg); err != nil || !errors.Is(c.Err, ErrForged) {
			t.Errorf("%s: %v, %v, want forged", name, err, c.Err)
		}
	}
	// What its own region says on the bucket's usual subjects is another stream's.
	if _, err := sourced.Parse(message("KV_proxima", "$KV.proxima.inst."+key, "$KV.proxima.lease."+key)); !errors.Is(err, ErrFrame) {
		t.Errorf("%v", err)
	}
}
