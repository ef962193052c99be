package kv

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// bare is a registry without a connection, to read messages with.
func bare() *Registry {
	return &Registry{link: &wire.Link{Bucket: wire.NewBucket("proxima", "proxima", "$JS.API."), Log: slog.New(slog.DiscardHandler), Clock: wire.NewClock()}}
}

const body = `{"id":"a","service":"user","incarnation":"x","endpoints":{"http":"10.0.0.5:8080"},"location":{"region":"r","zone":"z"},"status":"up","weight":100,"ttl":"15s"}`

// FuzzView feeds a view with any sequence of changes and reads: what it lists
// must stay what it knows.
func FuzzView(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Add([]byte{3, 0, 1, 0, 0, 0, 0, 1, 1, 0, 4, 0, 0, 0, 0, 0, 2, 0, 3, 0, 3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := bare()
		r.opts.NoSuspects = len(script)%5 == 4
		v := newView(r, "user")
		script = script[:min(len(script), 1200)]
		for ; len(script) >= 6; script = script[6:] {
			switch msg := fuzzed(script); script[0] % 8 {
			case 0:
				v.begin(true)
			case 1:
				v.begin(false)
			case 2:
				v.end()
			case 3, 4:
				v.mark(msg)
			case 5:
				v.outage = time.Now()
			case 6:
				v.passVigil()
			default:
				v.hear(msg)
			}
			for service := range v.services {
				v.touch(service)
			}
			v.publish(func(s events.Snapshot) { consistent(t, v, s) })
		}
	})
}

// passVigil lets every vigil end.
func (v *view) passVigil() {
	for _, l := range v.services {
		for i := range l.held {
			l.held[i].since = l.held[i].since.Add(-vigil)
		}
	}
	v.endVigils()
}

// fuzzed is a message about one of five instances.
func fuzzed(b []byte) *nats.Msg {
	id := string(rune('a' + b[1]%5))
	z := []string{"z", "y"}[b[1]%5%2]
	seq, last := uint64(b[2]), uint64(b[3])
	if b[2] == 255 {
		seq = 1 << 63
	}
	at := time.Unix(1e9+int64(binary.BigEndian.Uint16(b[3:])), 0).UTC()
	h := nats.Header{
		wire.HdrStream: {"KV_proxima"}, wire.HdrSubject: {"$KV.proxima.inst.user.r." + z + "." + id}, wire.HdrSequence: {strconv.FormatUint(seq, 10)},
		wire.HdrTimestamp: {at.Format(time.RFC3339Nano)}, wire.HdrLastSequence: {strconv.FormatUint(last, 10)},
	}
	msg := &nats.Msg{Subject: "proxima.inst.user.r." + z + "." + id, Header: h}
	switch b[5] % 7 {
	case 0:
		h[wire.HdrOperation] = []string{wire.Purge}
		msg.Data = wire.BodyExpired
	case 1:
		h[wire.HdrOperation] = []string{wire.Purge}
		msg.Data = wire.BodyDeregistered
	case 2:
		h[wire.HdrScheduler] = []string{"$KV.proxima.lease.user.r.z.x"}
	case 3:
		msg.Data = []byte("garbage")
	default:
		msg.Data = []byte(strings.NewReplacer(`"a"`, strconv.Quote(id), `"z"`, strconv.Quote(z), `"x"`, fmt.Sprintf(`"n%d"`, b[5]%7)).Replace(body))
	}
	return msg
}

func consistent(t *testing.T, v *view, s events.Snapshot) {
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
	if len(s.Entries) != known || len(l.records) != known || l.all != (tally{known, expired, len(l.held), len(l.gone)}) {
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
	for _, h := range l.held {
		if h.rec.instance == nil || h.rec.expired {
			t.Fatalf("%s is held, and gone or suspect", h.rec.name)
		}
	}
	for _, g := range l.gone {
		if g.rec.instance != nil {
			t.Fatalf("%s is gone and there", g.rec.name)
		}
	}
}

// FuzzStored reads files as somebody may have left them.
func FuzzStored(f *testing.F) {
	f.Add([]byte(`{"version":1,"service":"user","saved":"2000-01-01T00:00:00Z","instances":[{"revision":7,"instance":` + body + `}]}`))
	f.Add([]byte(`{"version":1,"instances":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeStored(data)
		if err != nil {
			return
		}
		known := map[events.Key]bool{}
		for _, e := range s.entries {
			if err := e.Validate(); err != nil || e.Service != s.service || known[e.Key()] {
				t.Fatalf("%+v of %q: %v", e.Instance, s.service, err)
			}
			known[e.Key()] = true
		}
		again, err := encodeStored(events.Snapshot{Service: s.service, Entries: s.entries}, s.saved)
		if err != nil {
			return // a time that JSON cannot write
		}
		if back, err := decodeStored(again); err != nil || len(back.entries) != len(s.entries) {
			t.Fatalf("%d entries, %v", len(back.entries), err)
		}
	})
}
