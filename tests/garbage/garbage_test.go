//go:build faults

package garbage

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Where things are.
const (
	place  = "user.us-east-1.us-east-1a."
	record = "$KV.proxima.inst." + place
	lease  = "$KV.proxima.lease." + place
	live   = "proxima.inst." + place
)

// bodies are what no decoder should take.
func bodies() [][]byte {
	random := make([]byte, 2000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	all := [][]byte{
		{},
		random, []byte("null"), []byte("[]"), []byte(`""`), []byte("0"), []byte("1e999"), []byte("NaN"), []byte("{}"),
		[]byte(strings.Repeat(`{"a":[`, 10_000)), []byte(strings.Repeat("[", 60_000)), bytes.Repeat([]byte("x"), 60<<10),
		bytes.Repeat([]byte{0xff, 0, '"', '{'}, 10_000),
	}
	for _, wrong := range []string{
		`"id":7`, `"endpoints":"http"`, `"endpoints":{"http":"127.0.0.1:66666"}`, `"endpoints":{"http":"\u0000"}`, `"endpoints":{}`, `"weight":-5`, `"weight":1e300`,
		`"weight":NaN`, `"weight":"100"`, `"ttl":"-1s"`, `"ttl":15`, `"status":"sideways"`, `"location":{"region":"*","zone":">"}`, `"location":[]`,
		`"started":"yesterday"`, `"started":"-0001-01-01T00:00:00Z"`, `"metadata":{"a":{"b":"c"}}`, `"coordinate":{"vec":[1e999,0,0,0,0,0,0,0]}`, `"coordinate":{"vec":[NaN]}`,
		`"coordinate":{"vec":[1,2]}`, `"service":"other"`, `"id":"another"`,
	} {
		all = append(all, []byte(`{"id":"evil","service":"user","endpoints":{"http":"127.0.0.1:9"},"location":{"region":"us-east-1","zone":"us-east-1a"},`+wrong+`}`))
	}
	return append(all,
		[]byte(`{"seq":-1,"samples":[{"id":"user-1","rtt_us":-5}]}`), []byte(`{"seq":1,"samples":[{"id":"user-1","incarnation":"x","rtt_us":NaN,"count":1}]}`),
		[]byte(`{"seq":1e400}`), []byte(`{"seq":5,"samples":{}}`), []byte(`{"cpu":-1}`), []byte(`{"cpu":1e99,"mem":2}`), []byte(`{"cpu":0,"queue":-9}`),
		[]byte(`{"coordinate":{"vec":[9e99,0,0,0,0,0,0,0],"height":-1,"error":NaN},"rtt_us":1}`),
	)
}

// nowhere is an address without a listener.
const nowhere = "127.0.0.1:9"

// evil is a valid instance that takes the calls of another.
func evil(service, id string, at topology.Location) []byte {
	data, err := events.Encode(events.Instance{
		ID: id, Service: service, Incarnation: "evil", Location: at, TTL: time.Hour,
		Endpoints: map[string]string{events.HTTP: nowhere}, Weight: 10_000,
	})
	if err != nil {
		panic(err)
	}
	return data
}

// attack is what the hostile writer does, and what shows that it was seen.
type attack struct {
	name  string
	write func(w *writer)
	// counts is what must have grown, by as much. Nil: there is nothing to count.
	counts func(v *victims) uint64
	least  uint64
}

// writer publishes.
type writer struct {
	*nats.Conn
	refused int
}

func (w *writer) send(subject string, data []byte, header ...string) {
	msg := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Reply" {
			msg.Reply = header[i+1]
			continue
		}
		msg.Header.Add(header[i], header[i+1])
	}
	if err := w.PublishMsg(msg); err != nil {
		w.refused++ // by nats.go
	}
}

// schedule asks the server to write to a subject again and again.
func (w *writer) schedule(id, target string, data []byte, header ...string) {
	w.send(lease+id, data, append(header, "Nats-Schedule", "@every 1s", "Nats-Schedule-Target", target, "Nats-Schedule-TTL", "1h")...)
}

func invalid(v *victims) uint64  { return v.registry.Counts().Invalid }
func forged(v *victims) uint64   { return v.registry.Counts().Forged }
func rejected(v *victims) uint64 { return v.calls.Stats().Latency.Rejected }
func beats(v *victims) uint64    { return v.calls.Stats().InvalidBeats }

// bogus is how many services the router lists that are made up.
func bogus(v *victims) uint64 {
	list, _ := get(http.DefaultClient, v.router+"/v1/services")
	return uint64(strings.Count(list, `"bogus-`))
}

var attacks = []attack{
	{"records that are none", func(w *writer) {
		for i, body := range bodies() {
			for range 20 {
				w.send(fmt.Sprintf("%sevil-%d", record, i), body)
			}
			w.send(fmt.Sprintf("$KV.proxima.inst.other-%d._._.x", i), body)
		}
	}, invalid, 800},
	{"records with invalid keys", func(w *writer) {
		for _, key := range []string{
			"user", "user.a", "user.a.b", "user.a.b.c.d", "user.a.b.*", "user.a.b.>", "user.*.*.user-1", ">", "*", "us_er.a.b.c", "USER.a.b.c", "user.a\x01.b.c", "user.ä.b.c",
			"user._._." + strings.Repeat("x", 64), strings.Repeat("x", 64) + "._._.x", "user._._." + strings.Repeat("x", 4000),
		} {
			w.send("$KV.proxima.inst."+key, evil(service, "x", home))
		}
	}, invalid, 5},
	{"records with headers of the server", func(w *writer) {
		for i := range 200 {
			w.send(fmt.Sprintf("%sevil-%d", record, i), []byte("x"), "Nats-Stream", "KV_proxima", "Nats-Subject", record+"user-1", "Nats-Sequence", "18446744073709551615",
				"Nats-Last-Sequence", "-1", "Nats-Time-Stamp", "2099-01-01T00:00:00Z", "Status", "204", "Nats-Num-Pending", "0", "Nats-TTL", "never")
		}
	}, invalid, 200},
	{"schedules that write to the records of others", func(w *writer) {
		for i := 1; i <= 3; i++ {
			to := fmt.Sprintf("%suser-%d", record, i)
			w.schedule(fmt.Sprintf("evil-a%d", i), to, evil(service, fmt.Sprintf("user-%d", i), home))
			w.schedule(fmt.Sprintf("evil-b%d", i), to, []byte(`{"reason":"deregistered"}`), "KV-Operation", "PURGE")
			w.schedule(fmt.Sprintf("evil-c%d", i), to, []byte("x"), "Nats-Schedule-Source", record+"user-1")
		}
		time.Sleep(2500 * time.Millisecond)
		for i := 1; i <= 3; i++ { // the end of the attack
			for _, kind := range []string{"a", "b", "c"} {
				w.send(fmt.Sprintf("%sevil-%s%d", lease, kind, i), nil, "KV-Operation", "PURGE", "Nats-Rollup", "sub")
			}
		}
	}, forged, 5},
	{"distances that are none", func(w *writer) {
		for _, body := range bodies() {
			for _, reporter := range []string{"x", "*", ">", strings.Repeat("x", 300), "\x01", "a.b"} {
				w.send("proxima.latency.us-east-1.us-east-1a.user."+reporter, body)
			}
		}
	}, rejected, 200},
	{"distances by ten thousand names", func(w *writer) {
		for i := range 10_000 {
			var samples []string
			for k := range 20 {
				samples = append(samples, fmt.Sprintf(`{"id":"made-up-%d","incarnation":"x","rtt_us":1000,"count":1,"age_ms":0}`, i*20+k))
			}
			data := fmt.Sprintf(`{"seq":%d,"samples":[%s]}`, i+1, strings.Join(samples, ","))
			w.send(fmt.Sprintf("proxima.latency.us-east-1.us-east-1a.user.liar-%d", i), []byte(data), "Status", "204", "Nats-Sequence", "9999999")
		}
	}, rejected, 500},
	{"beats that are none", func(w *writer) {
		for _, body := range bodies() {
			for _, id := range []string{"user-1", "user-2", "nobody", "*", ">", strings.Repeat("x", 300)} {
				w.send("proxima.beat."+place+id, body)
			}
		}
	}, beats, 200},
	{"pings that are none", func(w *writer) {
		for _, body := range bodies() {
			for _, reply := range []string{"", "$KV.proxima.inst." + place + "user-1", "proxima.ping." + place + "user-2", "proxima.inst." + place + "user-1", "nowhere"} {
				w.send("proxima.ping."+place+"user-1", body, "Reply", reply)
			}
		}
	}, nil, 0},
	{"calls of the router that are none", func(w *writer) {
		for _, body := range bodies() {
			for _, door := range []string{"route", "resolve", "explain", "register", "heartbeat", "deregister", "x"} {
				for _, name := range []string{"user", "nobody", "*", "us_er", strings.Repeat("x", 64), "a\x01"} {
					w.send("proxima."+door+"."+name, body, "Reply", "$KV.proxima.inst."+place+"user-1")
					w.send("proxima."+door+"."+name, body, "Reply", "nowhere", "Proxima-Path", "http://127.0.0.1:9/\r\nX: y", "Proxima-Method", "CONNECT ../..", "Proxima-From", "*/>")
				}
			}
		}
	}, nil, 0},
	{"policies and orders that are none", func(w *writer) {
		for _, body := range bodies() {
			for _, key := range []string{"policy.user", "policy._default", "policy._", "policy.user.a.b", "policy.*", "policy." + strings.Repeat("x", 300), "evacuate.us-east-1", "evacuate.us-east-1.us-east-1a", "evacuate.a.b.c"} {
				w.send("$KV.proxima."+key, body)
				w.send("$KV.proxima."+key, body, "Proxima-At", "yesterday", "KV-Operation", "PUT")
				w.send("proxima."+key, body, "Proxima-At", "9999-12-31T23:59:59.999Z", "Nats-Sequence", "18446744073709551615")
			}
		}
		for _, key := range []string{"policy.user", "policy._default"} {
			w.send("$KV.proxima."+key, []byte(`{"strategy":"fastest"}`))
		}
	}, nil, 0},
	{"ten thousand services", func(w *writer) {
		for i := range 10_000 {
			name := fmt.Sprintf("bogus-%d", i)
			w.send("$KV.proxima.inst."+name+"._._.x", evil(name, "x", topology.Location{}))
		}
	}, bogus, 10_000},
}

// Whatever is written, picks go on, to the right instances. What is refused is
// counted. Memory stays bounded, and logs stay readable.
func TestAHostileWriterDoesNotDisturbOthers(t *testing.T) {
	v := newVictims(t)
	w := &writer{Conn: v.nc}
	for _, a := range attacks {
		v.suffer(w, a)
	}
	v.check()
}

// suffer goes through one attack.
func (v *victims) suffer(w *writer, a attack) {
	v.t.Helper()
	count := func() uint64 { return 0 }
	if a.counts != nil {
		count = func() uint64 { return a.counts(v) }
	}
	before, logged, counted := heap(), v.log.n.Load(), count()
	a.write(w)
	if err := w.FlushTimeout(20 * time.Second); err != nil {
		v.t.Fatalf("%s: %v", a.name, err)
	}
	time.Sleep(500 * time.Millisecond)
	testkit.Eventually(v.t, a.name+" to be counted", func() bool { return count() >= counted+a.least })
	took := testkit.Eventually(v.t, "all to be well after "+a.name, func() bool { return v.right(3) })
	grown, lines := heap()-before, v.log.n.Load()-logged
	v.t.Logf("%-46s %6d counted, %5.1f MiB more, %3d lines, all well after %v", a.name, count()-counted, grown, lines, took.Round(time.Millisecond))
	if grown > 48 {
		v.t.Errorf("%s: the heap has grown by %.0f MiB", a.name, grown)
	}
	if lines > 60 {
		v.t.Errorf("%s: %d lines were logged", a.name, lines)
	}
}

// check fails the test if a pick or a call went wrong.
func (v *victims) check() {
	v.t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.t.Logf("%d picks, %d of them wrong; %d calls through the router, %d of them failed", v.picks, len(v.wrong), v.proxied, len(v.failed))
	for what, bad := range map[string][]string{"picks were wrong": v.wrong, "calls failed": v.failed} {
		if n := len(bad); n > 0 {
			slices.Sort(bad)
			v.t.Errorf("%d %s: %q", n, what, slices.Compact(bad)[:1])
		}
	}
	if v.picks < 100 || v.proxied < 10 {
		v.t.Error("that is too few to say anything")
	}
}

// Writing one message with Nats-Rollup: all empties the bucket.
func TestAWipeFailsNoPick(t *testing.T) {
	t.Parallel()
	v := newVictims(t)
	w := &writer{Conn: v.nc}
	for range 3 {
		w.send(record+"evil", []byte("x"), "Nats-Rollup", "all")
		time.Sleep(ttl / 3)
	}
	took := testkit.Eventually(v.t, "all to be listed again", func() bool { return v.right(3) })
	t.Logf("all listed again %v after the last of three", took.Round(time.Millisecond))
	v.check()
}

// A client that may publish on the subjects that the stream republishes to can
// forge changes. A forged change counts until the caller has asked the stream:
// other instances are not affected, and the view is right within seconds.
func TestWhatIsForgedOnTheWayIsGoneWithinSeconds(t *testing.T) {
	for name, forge := range map[string]func(f *forger){
		"an address":                        func(f *forger) { f.forge("user-1", evil(service, "user-1", home), 99_999) },
		"an address with the last sequence": func(f *forger) { f.forge("user-1", evil(service, "user-1", home), math.MaxUint64) },
		"a removal":                         func(f *forger) { f.forge("user-1", nil, 99_999, "KV-Operation", "PURGE") },
		"an expiry": func(f *forger) {
			f.forge("user-1", []byte(`{"reason":"expired"}`), 99_999, "KV-Operation", "PURGE", "Nats-Scheduler", lease+"user-1")
		},
		"a thousand instances that are none": func(f *forger) {
			for i := range uint64(1000) {
				f.forge(fmt.Sprintf("evil-%d", i), evil(service, fmt.Sprintf("evil-%d", i), home), 99_999+i)
			}
		},
		"addresses again and again": func(f *forger) {
			for i := range uint64(5) {
				f.forge("user-1", evil(service, "user-1", home), 99_999+i)
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVictims(t)
			f := &forger{v, &writer{Conn: v.nc}}
			before, gaps, logged := heap(), v.registry.Counts().Gaps, v.log.n.Load()
			v.misled.Store(true)
			forge(f)
			if err := f.w.Flush(); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			time.Sleep(300 * time.Millisecond) // until it has been heard
			testkit.Eventually(v.t, "all to be well", func() bool { return v.right(3) })
			took := time.Since(began)
			v.misled.Store(false)
			t.Logf("all well after %v, %.1f MiB more", took.Round(time.Millisecond), heap()-before)
			if took > 15*time.Second {
				t.Errorf("that took %v, want 4 s, or 10 if there was more of it", took)
			}
			if lines := v.log.n.Load() - logged; lines > 30 {
				t.Errorf("%d lines were logged", lines)
			}
			if v.registry.Counts().Gaps == gaps {
				t.Error("nothing was counted")
			}
			time.Sleep(time.Second)
			v.check()
		})
	}
}

// forger publishes what only the stream should.
type forger struct {
	v *victims
	w *writer
}

func (f *forger) forge(id string, body []byte, sequence uint64, header ...string) {
	last := uint64(0)
	if e, err := f.v.registry.Lookup(f.v.t.Context(), events.Key{Service: service, Region: home.Region, Zone: home.Zone, ID: id}); err == nil {
		last = e.Revision
	}
	f.w.send(live+id, body, append(header, "Nats-Stream", "KV_proxima", "Nats-Subject", record+id,
		"Nats-Sequence", fmt.Sprint(sequence), "Nats-Last-Sequence", fmt.Sprint(last),
		"Nats-Time-Stamp", time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano))...)
}
