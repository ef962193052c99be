package announcing

import (
	"bytes"
	"cmp"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/check"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Entry is one instance that is to be announced. A source calls [Entry.Prepare]
// before it lists the entry.
type Entry struct {
	Instance events.Instance
	// Check is the URL of the check, by which two entries are compared.
	Check string
	// Ask does the check. Nil: the instance is always ready.
	Ask check.Func
	// Drain is how long the instance is announced as draining before it leaves.
	Drain time.Duration
	// Won is the detector that found each level of the location.
	Won map[topology.Level]string

	record []byte // the instance as JSON
}

// Locate fills in the empty levels of the location from here, where the announcer
// runs. The other levels are credited to by. When the entry names another region
// or zone, the levels below that stay empty.
func (e *Entry) Locate(here topology.Detection, by string) {
	e.Won = make(map[topology.Level]string)
	elsewhere := false
	for _, f := range []struct {
		level topology.Level
		value *string
		here  string
	}{
		{topology.Region, &e.Instance.Location.Region, here.Location.Region},
		{topology.Zone, &e.Instance.Location.Zone, here.Location.Zone},
		{topology.Rack, &e.Instance.Location.Rack, here.Location.Rack},
		{topology.Host, &e.Instance.Location.Host, here.Location.Host},
	} {
		switch {
		case *f.value != "":
			e.Won[f.level] = by
			wide := f.level == topology.Region || f.level == topology.Zone
			elsewhere = elsewhere || wide && *f.value != f.here
		case f.here != "" && !elsewhere:
			*f.value, e.Won[f.level] = f.here, here.Won[f.level]
		}
	}
}

// Prepare fills in the defaults of the instance and validates it. The error is an
// [events.FieldError], or about the size of the record.
func (e *Entry) Prepare() (err error) {
	e.Instance.TTL = cmp.Or(e.Instance.TTL, events.DefaultTTL)
	e.Instance.Weight = cmp.Or(e.Instance.Weight, events.DefaultWeight)
	e.Instance.Status = cmp.Or(e.Instance.Status, events.Up)
	e.record, err = events.Encode(e.Instance)
	return err
}

// Name is the service and the id of its instance.
func (e *Entry) Name() string { return name(e.Instance.Service, e.Instance.ID) }

func (e *Entry) same(other *Entry) bool {
	return e.Check == other.Check && e.Drain == other.Drain && bytes.Equal(e.record, other.record)
}
