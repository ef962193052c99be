package documents

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
	"github.com/proxima-discovery/proxima/pkg/policy"
)

// Family is one kind of document.
type Family[T any] struct {
	// Prefix begins the keys, with a dot at its end.
	Prefix string
	// Check validates a key.
	Check func(key string) error
	// Decode reads and validates what is kept under a key.
	Decode func(key string, data []byte) (T, error)
	// At is when a document was written, where that is part of it. Nil: a header tells,
	// [wire.HdrAt], and if it is missing the clock of the server.
	At func(T) time.Time
	// Prefers decides between two of the same time. Nil: their bytes do.
	Prefers func(a, b T) bool
}

// Document is what holds under a key.
type Document[T any] struct {
	Key   string
	Value T // if Good
	Good  bool
	// Removed is set for the mark of a removal.
	Removed  bool
	Data     []byte // as it was written
	At       time.Time
	Revision uint64
	// Unreadable is a newer document, which cannot be read.
	Unreadable *policy.UnreadableError

	undated bool      // At is when the server stored it
	saved   bool      // it was on disk, and is not known to be in a bucket
	until   time.Time // of one that was only heard: when it is no longer believed
}

// newest is the number of the last message under the key, as far as it is known; 0: there
// is no document.
func (d *Document[T]) newest() uint64 {
	switch {
	case d.Unreadable != nil:
		return d.Unreadable.Revision
	case d.Good:
		return d.Revision
	}
	return 0
}

// same reports whether there is nothing new in d.
func (d *Document[T]) same(was *Document[T]) bool {
	if d.Good != was.Good || d.Removed != was.Removed || d.Revision != was.Revision || !d.At.Equal(was.At) || !bytes.Equal(d.Data, was.Data) {
		return false
	}
	if d.Unreadable == nil || was.Unreadable == nil {
		return d.Unreadable == was.Unreadable
	}
	return d.Unreadable.Revision == was.Unreadable.Revision && bytes.Equal(d.Unreadable.Data, was.Unreadable.Data)
}

// Evacuations are the orders to evacuate a place.
var Evacuations = Family[events.Evacuation]{
	Prefix: wire.EvacuateFamily,
	Check: func(key string) error {
		_, err := events.ParseEvacuationKey(key)
		return err
	},
	Decode:  events.DecodeEvacuation,
	At:      func(e events.Evacuation) time.Time { return e.At },
	Prefers: func(a, b events.Evacuation) bool { return a.Overrides(b) },
}

// Places are the places to leave, in order.
func Places(all map[string]Document[events.Evacuation]) []events.Evacuation {
	var places []events.Evacuation
	for _, d := range sorted(all) {
		if d.Good && d.Value.Evacuated {
			places = append(places, d.Value)
		}
	}
	slices.SortFunc(places, func(a, b events.Evacuation) int { return strings.Compare(a.Place(), b.Place()) })
	return places
}

// Policies are those of services, and of all of them.
var Policies = Family[*policy.Policy]{
	Prefix: wire.PolicyFamily,
	Check: func(key string) error {
		name := strings.TrimPrefix(key, wire.PolicyFamily)
		if name == policy.Default {
			return nil
		}
		return events.ValidateService(name)
	},
	Decode: func(_ string, data []byte) (*policy.Policy, error) { return policy.Decode(data) },
}
