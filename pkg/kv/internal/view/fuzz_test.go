package view

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// FuzzView feeds a view with any sequence of changes and reads: what it lists
// must stay what it knows.
func FuzzView(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Add([]byte{3, 0, 1, 0, 0, 0, 0, 1, 1, 0, 4, 0, 0, 0, 0, 0, 2, 0, 3, 0, 3, 0, 0, 0})
	f.Add([]byte("00000012000112002200")) // the lease of an instance ends, and then it ages out
	f.Fuzz(func(t *testing.T, script []byte) {
		v := New(Options{Service: "user", NoSuspects: len(script)%5 == 4, Sourced: len(script)%7 == 6, Notes: new(note)})
		now := time.Unix(2e9, 0)
		script = script[:min(len(script), 1200)]
		for ; len(script) >= 6; script = script[6:] {
			now = now.Add(time.Duration(script[4]) * time.Duration(script[4]) * time.Millisecond)
			switch c := fuzzed(script); script[0] % 10 {
			case 0:
				v.Begin(true)
			case 1:
				v.Begin(false)
			case 2:
				v.End(now)
			case 3, 4:
				v.Reach(c.Seq)
				if !v.Confirm(c.Name, c.Seq, stamp(c)) {
					v.List(c, now)
				}
			case 5:
				v.Outage(now)
			case 6:
				now = now.Add(expiryGrace)
				v.EndGrace(now)
			case 7:
				v.Trust(uint64(script[2]))
			case 8:
				v.Restore("user", []events.Entry{{Instance: put("a", 1, 0, "n1").Instance, Suspect: script[1]%2 == 1, Evacuated: script[2]%2 == 1, Revision: uint64(script[3])}}, now)
			default:
				v.Hear(c, now)
			}
			for service := range v.services {
				v.touch(service)
			}
			v.Publish(false, now, func(s events.Snapshot) { consistent(t, v, s) })
		}
	})
}

// passGrace lets the grace of every expiry end.
func (v *View) passGrace() { v.EndGrace(time.Now().Add(expiryGrace)) }

// fuzzed is a change of one of five instances.
func fuzzed(b []byte) *wire.Change {
	id, seq := string(rune('a'+b[1]%5)), uint64(b[2])
	if b[2] == 255 {
		seq = 1 << 63
	}
	c := put(id, seq, uint64(b[3]), fmt.Sprint("n", b[5]%7))
	c.At = (1e9 + int64(binary.BigEndian.Uint16(b[3:]))) * 1e9
	if b[1]%5%2 == 1 {
		c.Key.Zone, c.Instance.Location.Zone = "y", "y"
		c.Name = c.Key.String()
	}
	switch b[5] % 7 {
	case 0:
		c.Expired = true
	case 1:
		c.Expired, c.AgedOut = b[4]%2 == 0, b[4]%2 == 0
	case 2:
		c.Err = wire.ErrForged
	case 3:
		c.Err = wire.ErrRecord
	default:
		return c
	}
	c.Instance = nil
	return c
}

func consistent(t *testing.T, v *View, s events.Snapshot) {
	t.Helper()
	known, expired := 0, 0
	for name, rec := range v.records {
		if rec.name != name {
			t.Fatalf("%s lies under %s", rec.name, name)
		}
		if rec.instance == nil {
			if rec.expired || !rec.suspect.IsZero() {
				t.Fatalf("%s is suspect and not there", name)
			}
			continue
		}
		known++
		if rec.expired {
			expired++
		}
	}
	l := v.services[s.Service]
	if l == nil {
		l = &list{}
	}
	if len(s.Entries) != known || len(l.records) != known || l.all != (tally{known, expired, len(l.pending), len(l.removed)}) {
		t.Fatalf("%d are known, %d expired; listed are %d, counted %+v; published %d", known, expired, len(l.records), l.all, len(s.Entries))
	}
	var zones tally
	for _, z := range l.zones {
		zones.add(*z)
	}
	if zones != l.all {
		t.Fatalf("the service counts %+v, its zones %+v", l.all, zones)
	}
	for i, e := range s.Entries {
		if e.Instance == nil || i > 0 && s.Entries[i-1].Compare(e.Instance) >= 0 {
			t.Fatalf("entry %d of %+v", i, s.Entries)
		}
		if rec := v.records[e.Key().String()]; rec == nil || rec.instance != e.Instance || rec.suspect.IsZero() == e.Suspect {
			t.Fatalf("%s is published as %+v, known as %+v", e.ID, e, rec)
		}
	}
	for _, p := range l.pending {
		if p.rec.instance == nil || p.rec.expired {
			t.Fatalf("%s is pending, and gone or suspect", p.rec.name)
		}
	}
	if len(l.pending) > 0 && v.graceAt.IsZero() {
		t.Fatalf("the grace of %d does not end", len(l.pending))
	}
	for _, r := range l.removed {
		if r.rec.instance != nil {
			t.Fatalf("%s is removed and there", r.rec.name)
		}
	}
}
