package announcing

import (
	"bytes"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/check"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Entry is one instance of a source, and how it is announced.
type Entry struct {
	Instance events.Instance
	Record   []byte // the instance as JSON
	Check    string
	Ask      check.Func // what Check says, nil for none
	Drain    time.Duration
	Won      map[topology.Level]string
}

// Name is the service and the id of its instance.
func (e *Entry) Name() string { return name(e.Instance.Service, e.Instance.ID) }

func (e *Entry) same(other *Entry) bool {
	return e.Check == other.Check && e.Drain == other.Drain && bytes.Equal(e.Record, other.Record)
}
