package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
)

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
	Instance *events.Instance // nil: removed
	Expired  bool             // removed because its lease has ended
	Faded    bool             // removed because nobody has written it again for so long
	Seq      uint64           // the revision
	At       int64            // the server's clock, Unix nanoseconds
	Last     uint64           // the sequence of the message it replaced; only of live messages
}

var (
	// ErrForged marks what a schedule wrote and may not: a schedule can
	// write to any key, so it is believed only when it removes the instance
	// whose lease it is.
	ErrForged = errors.New("kv: written by a schedule that is not the lease of this instance")
	// ErrRecord marks a message whose place in the stream is known, and
	// whose body is no valid instance.
	ErrRecord = errors.New("kv: not a valid record")
	ErrFrame  = errors.New("kv: not a message of the registry")
)

// Parse reads a message of the stream, or republished by it. With ErrForged
// and ErrRecord the change has its key and sequence all the same.
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
	c := Change{Key: key}
	if c.Seq, ok = StampUint(h, HdrSequence); !ok || c.Seq == 0 {
		return Change{}, fmt.Errorf("%w: %s has no sequence", ErrFrame, key)
	}
	at, err := time.Parse(time.RFC3339Nano, Stamp(h, HdrTimestamp))
	if err != nil {
		return Change{}, fmt.Errorf("%w: %s has no time", ErrFrame, key)
	}
	c.At = at.UnixNano()
	c.Last, _ = StampUint(h, HdrLastSequence)

	op := h.Get(HdrOperation)
	for _, scheduler := range h[HdrScheduler] {
		if op != Purge || scheduler != b.Origin+key.Lease() {
			return c, ErrForged
		}
	}
	if op != "" || h.Get(HdrMarker) != "" {
		c.Faded = h.Get(HdrMarker) != ""
		c.Expired = c.Faded || bytes.Equal(msg.Data, BodyExpired)
		return c, nil
	}
	in, err := events.Decode(msg.Data)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if in.Key() != key {
		return c, fmt.Errorf("%w: the record of %s lies under %s", ErrRecord, in.Key(), key)
	}
	c.Instance = in
	return c, nil
}

// Stamp is a header that the server puts on what it hands out. It appends its
// own to those of the writer, who may have chosen the same names: the last
// value is the server's.
func Stamp(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func StampUint(h nats.Header, name string) (uint64, bool) {
	n, err := strconv.ParseUint(Stamp(h, name), 10, 64)
	return n, err == nil
}

// Stored says whether msg is a message of the stream, and not a status of the
// server: a writer can name a header "Status", but cannot take away the
// server's stamp.
func Stored(msg *nats.Msg) bool { return Stamp(msg.Header, HdrSequence) != "" }
