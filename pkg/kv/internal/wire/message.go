package kv

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

// change is one message of the stream about one instance: a record, or a removal.
type change struct {
	key      events.Key
	instance *events.Instance // nil: removed
	expired  bool             // removed because its lease has ended
	faded    bool             // removed because nobody has written it again for so long
	seq      uint64           // the revision
	at       int64            // the server's clock, Unix nanoseconds
	last     uint64           // the sequence of the message it replaced; only of live messages
}

var (
	// errForged marks what a schedule wrote and may not: a schedule can
	// write to any key, so it is believed only when it removes the instance
	// whose lease it is.
	errForged = errors.New("kv: written by a schedule that is not the lease of this instance")
	// errRecord marks a message whose place in the stream is known, and
	// whose body is no valid instance.
	errRecord = errors.New("kv: not a valid record")
	errFrame  = errors.New("kv: not a message of the registry")
)

// parse reads a message of the stream, or republished by it. With errForged
// and errRecord the change has its key and sequence all the same.
func (b *bucket) parse(msg *nats.Msg) (change, error) {
	h := msg.Header
	subject := stamp(h, hdrSubject)
	name, ok := strings.CutPrefix(subject, b.prefix)
	if !ok || stamp(h, hdrStream) != b.stream {
		return change{}, fmt.Errorf("%w: subject %.80q of stream %.80q", errFrame, subject, stamp(h, hdrStream))
	}
	key, err := events.ParseKey(name)
	if err != nil {
		return change{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	c := change{key: key}
	if c.seq, ok = stampUint(h, hdrSequence); !ok || c.seq == 0 {
		return change{}, fmt.Errorf("%w: %s has no sequence", errFrame, key)
	}
	at, err := time.Parse(time.RFC3339Nano, stamp(h, hdrTimestamp))
	if err != nil {
		return change{}, fmt.Errorf("%w: %s has no time", errFrame, key)
	}
	c.at = at.UnixNano()
	c.last, _ = stampUint(h, hdrLastSequence)

	op := h.Get(hdrOperation)
	for _, scheduler := range h[hdrScheduler] {
		if op != purge || scheduler != b.origin+key.Lease() {
			return c, errForged
		}
	}
	if op != "" || h.Get(hdrMarker) != "" {
		c.faded = h.Get(hdrMarker) != ""
		c.expired = c.faded || bytes.Equal(msg.Data, bodyExpired)
		return c, nil
	}
	in, err := events.Decode(msg.Data)
	if err != nil {
		return c, fmt.Errorf("%w: %w", errRecord, err)
	}
	if in.Key() != key {
		return c, fmt.Errorf("%w: the record of %s lies under %s", errRecord, in.Key(), key)
	}
	c.instance = in
	return c, nil
}

// stamp is a header that the server puts on what it hands out. It appends its
// own to those of the writer, who may have chosen the same names: the last
// value is the server's.
func stamp(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func stampUint(h nats.Header, name string) (uint64, bool) {
	n, err := strconv.ParseUint(stamp(h, name), 10, 64)
	return n, err == nil
}

// stored says whether msg is a message of the stream, and not a status of the
// server: a writer can name a header "Status", but cannot take away the
// server's stamp.
func stored(msg *nats.Msg) bool { return stamp(msg.Header, hdrSequence) != "" }
