package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// HdrAt is when a policy was written or removed: a time as in [time.RFC3339Nano].
const HdrAt = "Proxima-At"

// Headers of the server, and of the KV convention.
const (
	HdrOperation    = "KV-Operation"
	HdrMarker       = "Nats-Marker-Reason"
	HdrScheduler    = "Nats-Scheduler"
	HdrScheduleNext = "Nats-Schedule-Next"
	HdrSubject      = "Nats-Subject"
	HdrSequence     = "Nats-Sequence"
	HdrLastSequence = "Nats-Last-Sequence"
	HdrTimestamp    = "Nats-Time-Stamp"
	HdrStream       = "Nats-Stream"
	HdrPending      = "Nats-Num-Pending"
	HdrStatus       = "Status"
	HdrDescription  = "Description"

	Purge = "PURGE"
)

// The bodies of removals say why.
var (
	BodyExpired      = []byte(`{"reason":"expired"}`)
	BodyDeregistered = []byte(`{"reason":"deregistered"}`)
)

// Change is one message of the stream about one instance: a record, or a removal.
type Change struct {
	Key      events.Key
	Name     string           // the rest of the subject: service.region.zone.id
	Instance *events.Instance // nil: removed, or Err
	Data     []byte           // the body
	Expired  bool             // removed because its lease has ended
	Reason   string           // of a removal, see [events.Departure]
	AgedOut  bool             // removed because its record was not written again for so long
	Seq      uint64           // the revision
	At       int64            // the server's clock, Unix nanoseconds
	Last     uint64           // the sequence of the message it replaced; only of live messages
	Err      error            // why the body is not believed: [ErrForged] or [ErrRecord]
}

var (
	// ErrForged marks what a schedule wrote and may not: a schedule can
	// write to any key, so it is believed only when it removes the instance
	// whose lease it is.
	ErrForged = errors.New("kv: written by a schedule that is not the lease of this instance")
	// ErrRecord marks a message whose place in the stream is known, and
	// whose body is no valid instance.
	ErrRecord = errors.New("kv: not a valid record")
	// ErrFrame marks a message that is none of the registry.
	ErrFrame = errors.New("kv: not a message of the registry")
)

// Parse reads a message of the stream, or republished by it. The error is
// [ErrFrame]; a change whose body is not valid has its key and sequence, and Err.
func (b *Bucket) Parse(msg *nats.Msg) (Change, error) {
	h := msg.Header
	subject := Stamp(h, HdrSubject)
	name, ok := strings.CutPrefix(subject, b.Prefix)
	if !ok || Stamp(h, HdrStream) != b.Stream {
		return Change{}, fmt.Errorf("%w: subject %.80q of stream %.80q", ErrFrame, subject, Stamp(h, HdrStream))
	}
	key, err := events.ParseKey(name)
	if err != nil {
		return Change{}, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	c := Change{Key: key, Name: subject[len(b.Inst):], Data: msg.Data}
	if c.Seq, ok = StampUint(h, HdrSequence); !ok || c.Seq == 0 {
		return Change{}, fmt.Errorf("%w: %s has no sequence", ErrFrame, key)
	}
	at, err := time.Parse(time.RFC3339Nano, Stamp(h, HdrTimestamp))
	if err != nil {
		return Change{}, fmt.Errorf("%w: %s has no time", ErrFrame, key)
	}
	c.At = at.UnixNano()
	c.Last, _ = StampUint(h, HdrLastSequence)
	c.Err = b.body(&c, msg)
	return c, nil
}

// body reads what a message says of its instance.
func (b *Bucket) body(c *Change, msg *nats.Msg) error {
	h := msg.Header
	op := h.Get(HdrOperation)
	for _, scheduler := range h[HdrScheduler] {
		if op != Purge || scheduler != b.Origin+c.Key.Lease() {
			return ErrForged
		}
	}
	if op != "" || h.Get(HdrMarker) != "" {
		c.AgedOut = h.Get(HdrMarker) != ""
		c.Expired = c.AgedOut || bytes.Equal(msg.Data, BodyExpired)
		c.Reason = reason(msg.Data)
		return nil
	}
	in, err := events.Decode(msg.Data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if in.Key() != c.Key {
		return fmt.Errorf("%w: the record of %s lies under %s", ErrRecord, in.Key(), c.Key)
	}
	c.Instance = in
	return nil
}

// reason is why an instance was removed, as the body of the message says. A removal
// that does not say so is as an expiry.
func reason(body []byte) string {
	var removal struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(body, &removal) == nil && removal.Reason == events.ReasonDeregistered {
		return events.ReasonDeregistered
	}
	return events.ReasonExpired
}

// ParseHeard reads a message that the stream has republished. The subject on which
// it is heard must be that of its instance.
func (b *Bucket) ParseHeard(msg *nats.Msg) (Change, error) {
	c, err := b.Parse(msg)
	if err == nil && msg.Subject != b.Live+c.Key.Inst() {
		return c, fmt.Errorf("%w: a change of %s on another subject", ErrFrame, c.Key)
	}
	return c, err
}

// Stamp is a header that the server puts on what it hands out. It appends its
// own to those of the writer, which may have chosen the same names: the last
// value is the server's.
func Stamp(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// StampUint is a number that the server puts on what it hands out.
func StampUint(h nats.Header, name string) (uint64, bool) {
	n, err := strconv.ParseUint(Stamp(h, name), 10, 64)
	return n, err == nil
}

// Stored says whether msg is a message of the stream, and not a status of the
// server: a writer can name a header "Status", but cannot take away the
// server's stamp.
func Stored(msg *nats.Msg) bool { return Stamp(msg.Header, HdrSequence) != "" }
