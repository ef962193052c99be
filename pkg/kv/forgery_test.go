package kv_test

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// evil is an instance that takes the calls of another.
func evil(id string) []byte {
	in := instance(id)
	in.TTL = time.Hour
	in.Incarnation = "evil"
	in.Endpoints = map[string]string{events.HTTP: "6.6.6.6:666"}
	data, err := events.Encode(in)
	if err != nil {
		panic(err)
	}
	return data
}

// honest fails the test when an evil instance is ever shown.
func honest(t *testing.T, v *viewer) {
	t.Helper()
	v.hook(func(s events.Snapshot) {
		for _, e := range s.Entries {
			if e.Incarnation == "evil" {
				t.Errorf("an evil one is listed: %s", show(s))
			}
		}
	})
}

// A user that may write one lease can make the server write to any key.
func TestForgedScheduleIsIgnoredAndHealed(t *testing.T) {
	for name, x := range map[string]struct {
		header nats.Header
		body   []byte
	}{
		"another record":  {nil, evil("victim")},
		"a purge":         {nats.Header{"KV-Operation": {"PURGE"}}, []byte(`{"reason":"deregistered"}`)},
		"a record marked": {nats.Header{"KV-Operation": {"PUT"}}, evil("victim")},
		"a marker":        {nats.Header{"Nats-Marker-Reason": {"MaxAge"}}, nil},
		"garbage":         {nil, []byte("{")},
		"the source of another schedule": {nats.Header{
			"KV-Operation": {"PURGE"}, "Nats-Schedule-Source": {"$KV.proxima.inst.user.us-east-1.us-east-1a.thief"},
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				a := f.announce(f.r, instance("victim"), kv.AnnounceOptions{})
				registered(t, a, time.Second)
				f.announce(f.r, instance("thief"), kv.AnnounceOptions{}) // what it may
				v := guard(t, f.r, 2)
				honest(t, v)
				if _, err := f.js().PublishMsg(t.Context(), &nats.Msg{Subject: lease + "evil", Header: maps.Clone(x.header), Data: x.body},
					jetstream.WithScheduleEvery(time.Second), jetstream.WithScheduleTarget(inst+"victim"), jetstream.WithScheduleTTL(time.Hour)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
				if c := f.r.Counts(); c.Forged == 0 {
					t.Errorf("nothing was counted: %+v", c)
				}
				late := watch(t, f.r, "user") // one that knows nothing yet
				honest(t, late)
				time.Sleep(3 * time.Second)
				late.close()
				if err := f.js().DeleteStream(t.Context(), "KV_proxima"); err != nil { // the end of the attack
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				registered(t, a, time.Second)
				v.until("all well", 6*time.Second, unsuspected(2))
			})
		})
	}
}

func TestForgedScheduleFiresOnceIsHealedWithinAThirdOfTheTTL(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("victim"), kv.AnnounceOptions{})
		registered(t, a, time.Second)
		v := guard(t, f.r, 1)
		honest(t, v)
		rev := a.State().Revision
		if _, err := f.js().PublishMsg(t.Context(), &nats.Msg{Subject: lease + "evil", Data: evil("victim")},
			jetstream.WithScheduleAt(time.Now().Add(time.Second)), jetstream.WithScheduleTarget(inst+"victim")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Second + ttl15/3 + ttl15/30)
		if s := a.State(); s.Revision == rev || s.Err != nil {
			t.Errorf("the victim is %+v", s)
		}
		e, err := f.r.Lookup(t.Context(), events.Key{Service: "user", Region: "us-east-1", Zone: "us-east-1a", ID: "victim"})
		if err != nil || e.Incarnation == "evil" {
			t.Errorf("%+v, %v", e.Instance, err)
		}
		if c := f.r.Counts(); c.Forged == 0 {
			t.Errorf("%+v", c)
		}
	})
}

// The server appends what it knows to the headers of the writer.
func TestHeadersOfTheWriterAreNotTheServers(t *testing.T) {
	forged := nats.Header{
		"Status":             {"204"},
		"Nats-Num-Pending":   {"0"},
		"Nats-Stream":        {"KV_proxima"},
		"Nats-Subject":       {inst + "victim"},
		"Nats-Sequence":      {"99999999"},
		"Nats-Time-Stamp":    {"2099-01-01T00:00:00Z"},
		"Nats-Last-Sequence": {"0"},
	}
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.register(longLived("a"))
		f.register(longLived("victim"))
		f.register(longLived("z"))
		early := watch(t, f.r, "user")
		early.until("three", time.Second, count(3))
		honest(t, early)
		for _, body := range [][]byte{evil("victim"), []byte("garbage")} {
			if _, err := f.js().PublishMsg(t.Context(), &nats.Msg{Subject: inst + "thief", Header: forged, Data: body}); err != nil {
				t.Fatal(err)
			}
			late := watch(t, f.r, "user")
			late.until("three", time.Second, count(3))
			honest(t, late)
			f.again("z")
			for _, v := range []*viewer{early, late} {
				v.until("what follows", time.Second, func(s events.Snapshot) bool { return s.Entries[2].Version == "again" })
			}
			time.Sleep(time.Minute)
			if e, err := f.r.Lookup(t.Context(), events.Key{Service: "user", Region: "us-east-1", Zone: "us-east-1a", ID: "victim"}); err != nil || e.Incarnation == "evil" || e.Revision > 100 {
				t.Errorf("%+v, %v", e, err)
			}
			if !of(0, 3)(early.get("user")) || !of(0, 3)(late.get("user")) {
				t.Errorf("a minute later: %s, %s", show(early.get("user")), show(late.get("user")))
			}
		}
		if c := f.r.Counts(); c.Invalid == 0 || c.Gaps != 0 {
			t.Errorf("%+v", c)
		}
	})
}

func TestRecordsThatAreGarbageAreSkipped(t *testing.T) {
	moved := instance("elsewhere")
	moved.Location.Zone = "us-east-1b"
	elsewhere, err := events.Encode(moved)
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string][]byte{
		"empty":     {},
		"bytes":     bytes.Repeat([]byte{0, 0xff, '{', '"'}, 1000),
		"huge":      bytes.Repeat([]byte("x"), events.MaxSize+1),
		"deep":      []byte(strings.Repeat(`{"a":[`, 10000)),
		"null":      []byte("null"),
		"number":    []byte("1e999"),
		"elsewhere": elsewhere,
		"invalid":   []byte(strings.Replace(string(evil("invalid")), `"up"`, `"sideways"`, 1)),
		"nan":       []byte(`{"id":"nan","service":"user","endpoints":{"http":"1.2.3.4:5"},"location":{"region":"us-east-1","zone":"us-east-1a"},"coordinate":{"vec":[NaN]}}`),
	}
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.register(longLived("good"))
		early := watch(t, f.r, "user")
		early.until("one", time.Second, count(1))
		for id, body := range bodies {
			if _, err := f.js().Publish(t.Context(), inst+id, body); err != nil {
				t.Fatalf("%s: %v", id, err)
			}
		}
		for _, subject := range []string{
			"$KV.proxima.inst.user.us-east-1.us-east-1a", "$KV.proxima.inst.user", "$KV.proxima.inst.user.a.b.c.d",
			"$KV.proxima.inst.user.a.b." + strings.Repeat("x", 100), "$KV.proxima.inst.us_er.a.b.c", "$KV.proxima.inst.user.a\x01.b.c",
		} {
			if _, err := f.js().Publish(t.Context(), subject, evil("x")); err != nil {
				t.Fatalf("%q: %v", subject, err)
			}
		}
		late := watch(t, f.r, "")
		for _, v := range []*viewer{early, late} {
			v.until("the good one", time.Second, of(0, 1))
		}
		testkit.Within(t, time.Second, "counted by both", func() bool { return f.r.Counts().Invalid >= 2*uint64(len(bodies)) })
		f.again("good")
		for _, v := range []*viewer{early, late} {
			v.until("goes on", time.Second, func(s events.Snapshot) bool { return s.Entries[0].Version == "again" })
		}
		time.Sleep(10 * time.Minute)
		if !of(0, 1)(early.get("user")) || !of(0, 1)(late.get("user")) {
			t.Errorf("ten minutes later: %s, %s", show(early.get("user")), show(late.get("user")))
		}
	})
}

func TestGarbageOverARecordIsHealed(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("victim"), kv.AnnounceOptions{})
		registered(t, a, time.Second)
		v := guard(t, f.r, 1)
		if _, err := f.js().Publish(t.Context(), inst+"victim", []byte("garbage")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(ttl15/3 + ttl15/30 + time.Second)
		in := a.Instance()
		if _, err := f.r.Lookup(t.Context(), in.Key()); err != nil {
			t.Error(err)
		}
		v.until("well", time.Second, unsuspected(1))
	})
}

// Headers that no client can read, as only a client can write that speaks the
// protocol himself.
func TestUnreadableHeadersStopNoWatch(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.register(longLived("a"))
		f.register(longLived("b"))
		early := watch(t, f.r, "user")
		early.until("two", time.Second, count(2))
		f.raw(inst+"evil", "NATS/1.0\r\nno colon\r\n\r\n", "x")
		if got := f.stream().State.LastSeq; got != 5 {
			t.Fatalf("the stream is at %d", got)
		}
		late := watch(t, f.r, "user")
		late.until("two", time.Second, count(2))
		f.register(longLived("c"))
		f.raw(inst+"evil", "NATS/1.0\r\nno colon\r\n\r\n", "y") // is the newest again
		for _, v := range []*viewer{early, late} {
			v.until("three", time.Second, count(3))
		}
		time.Sleep(10 * time.Minute)
		for _, v := range []*viewer{early, late} {
			if !of(0, 3)(v.get("user")) || v.get("user").Stale {
				t.Errorf("ten minutes later: %s", show(v.get("user")))
			}
		}
		if c := f.r.Counts(); c.Gaps != 0 || c.Invalid == 0 {
			t.Errorf("%+v", c)
		}
	})
}

// raw writes to a subject what no library would.
func (f *fixture) raw(subject, header, body string) {
	f.t.Helper()
	c, err := f.ns.InProcessConn()
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	go discard(c)
	if _, err := fmt.Fprintf(c, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n",
		subject, len(header), len(header)+len(body), header, body); err != nil {
		f.t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
}

func discard(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// Every user of the account may publish where the stream republishes. What the
// stream has is asked for seconds later, and counts.
func TestForgeryOnCoreNATSHeals(t *testing.T) {
	forge := func(f *fixture, subject, of, seq, last string, body []byte) {
		f.t.Helper()
		if err := f.nc.PublishMsg(&nats.Msg{Subject: subject, Data: body, Header: nats.Header{
			"Nats-Stream": {"KV_proxima"}, "Nats-Subject": {of}, "Nats-Sequence": {seq}, "Nats-Last-Sequence": {last},
			"Nats-Time-Stamp": {time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)},
		}}); err != nil {
			f.t.Fatal(err)
		}
		f.flush()
	}
	for _, seq := range []string{"7", "18446744073709551615"} {
		t.Run("redirected, sequence "+seq, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				rev := f.register(longLived("victim"))
				v := watch(t, f.r, "user")
				v.until("one", time.Second, count(1))
				forge(f, live+"victim", inst+"victim", seq, fmt.Sprint(rev), evil("victim"))
				v.until("well again", 7*time.Second, func(s events.Snapshot) bool {
					return s.Entries[0].Incarnation != "evil" && s.Entries[0].Revision == rev && !s.Entries[0].Suspect
				})
				time.Sleep(10 * time.Minute)
				if s := v.get("user"); !of(0, 1)(s) || s.Entries[0].Revision != rev {
					t.Error(show(s))
				}
				f.again("victim")
				v.until("follows", time.Second, func(s events.Snapshot) bool { return s.Entries[0].Version == "again" })
			})
		})
	}
	t.Run("removed", func(t *testing.T) {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			rev := f.register(longLived("victim"))
			v := watch(t, f.r, "user")
			v.until("one", time.Second, count(1))
			if err := f.nc.PublishMsg(&nats.Msg{Subject: live + "victim", Header: nats.Header{
				"Nats-Stream": {"KV_proxima"}, "Nats-Subject": {inst + "victim"}, "Nats-Sequence": {"99"}, "Nats-Last-Sequence": {fmt.Sprint(rev)},
				"Nats-Time-Stamp": {time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)}, "KV-Operation": {"PURGE"},
			}}); err != nil {
				t.Fatal(err)
			}
			v.until("gone", time.Second, count(0))
			v.until("back", 7*time.Second, of(0, 1))
		})
	})
	t.Run("invented", func(t *testing.T) {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			f.register(longLived("a"))
			v := watch(t, f.r, "user")
			v.until("one", time.Second, count(1))
			forge(f, live+"b", inst+"b", "99", "0", evil("b"))
			v.until("it is listed", time.Second, of(0, 2))
			v.until("it is suspect", 7*time.Second, of(1, 1))
			v.until("and gone", time.Minute, of(0, 1))
			if c := f.r.Counts(); c.Forged != 1 {
				t.Errorf("%+v", c)
			}
		})
	})
	t.Run("more invented than there are", func(t *testing.T) {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			f.register(longLived("a"))
			v := watch(t, f.r, "user")
			v.until("one", time.Second, count(1))
			for i := range 20 {
				id := fmt.Sprint("evil-", i)
				forge(f, live+id, inst+id, fmt.Sprint(99+i), "0", evil(id))
			}
			v.until("listed", time.Second, count(21))
			v.until("gone, and never suspects", 7*time.Second, of(0, 1))
			if c := f.r.Counts(); c.Forged != 20 {
				t.Errorf("%+v", c)
			}
		})
	})
	t.Run("on another subject", func(t *testing.T) {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			f.register(longLived("a"))
			v := watch(t, f.r, "user")
			v.until("one", time.Second, count(1))
			honest(t, v)
			forge(f, live+"b", inst+"a", "99", "0", evil("a"))
			forge(f, live+"b", "$KV.proxima.inst.order._._.a", "99", "0", evil("a"))
			forge(f, live+"b", lease+"b", "99", "0", evil("b"))
			forge(f, live+"b", "", "99", "0", evil("b"))
			forge(f, live+"b", inst+"b", "", "0", evil("b"))
			time.Sleep(time.Second)
			if c := f.r.Counts(); c.Invalid != 5 || !of(0, 1)(v.get("user")) {
				t.Errorf("%+v, %s", c, show(v.get("user")))
			}
		})
	})
}
