package kv

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// stored messages of a stream whose clock ticks once a second per sequence.
func message(id string, seq, last uint64, data string, header ...string) *nats.Msg {
	h := nats.Header{
		wire.HdrStream: {"KV_proxima"}, wire.HdrSubject: {"$KV.proxima.inst.user.r.z." + id},
		wire.HdrSequence: {strconv.FormatUint(seq, 10)}, wire.HdrLastSequence: {strconv.FormatUint(last, 10)},
		wire.HdrTimestamp: {time.Unix(1e9+int64(seq), 0).UTC().Format(time.RFC3339Nano)},
	}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = []string{header[i+1]}
	}
	return &nats.Msg{Subject: "proxima.inst.user.r.z." + id, Header: h, Data: []byte(data)}
}

func put(id string, seq, last uint64, incarnation string) *nats.Msg {
	data := strings.Replace(strings.Replace(body, `"a"`, strconv.Quote(id), 1), `"x"`, strconv.Quote(incarnation), 1)
	return message(id, seq, last, data)
}

func deregistered(id string, seq, last uint64) *nats.Msg {
	return message(id, seq, last, string(wire.BodyDeregistered), wire.HdrOperation, wire.Purge)
}

// read merges a whole read and says whether another shall follow.
func (v *view) read(full bool, msgs ...*nats.Msg) bool {
	v.begin(full)
	for _, m := range msgs {
		v.mark(m)
	}
	v.end()
	return v.doubt
}

// shows is what the view lists, as id:incarnation, with ? for suspects.
func (v *view) shows() string {
	var out []string
	v.touch("user")
	v.publish(func(s events.Snapshot) {
		for _, e := range s.Entries {
			word := e.ID + ":" + e.Incarnation
			if e.Suspect {
				word += "?"
			}
			out = append(out, word)
		}
	})
	return strings.Join(out, " ")
}

func expect(t *testing.T, v *view, want string) {
	t.Helper()
	if got := v.shows(); got != want {
		t.Errorf("the view shows %q, want %q", got, want)
	}
}

func TestSnapshotsOfACopyThatLagsAreNotBelievedAtOnce(t *testing.T) {
	v := newView(bare(), "user")
	old := []*nats.Msg{put("a", 1, 0, "1"), put("b", 2, 0, "1")}
	v.read(true, old...)
	v.hear(put("a", 3, 1, "2"))
	v.hear(put("c", 4, 0, "1"))
	v.hear(deregistered("b", 5, 2))
	expect(t, v, "a:2 c:1")
	if !v.read(true, old...) {
		t.Error("a copy that lags raises no doubt")
	}
	expect(t, v, "a:2 c:1")
	// The next is up to date.
	if v.read(true, put("a", 3, 0, "2"), put("c", 4, 0, "1"), deregistered("b", 5, 0)) {
		t.Error("a good copy raises doubt")
	}
	expect(t, v, "a:2 c:1")
	if v.newest != 5 || v.verified != 5 {
		t.Errorf("newest %d, verified %d", v.newest, v.verified)
	}
}

func TestTwoSnapshotsAreBelieved(t *testing.T) {
	v := newView(bare(), "user")
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"))
	v.hear(put("a", 1<<20, 1, "forged"))
	expect(t, v, "a:forged b:1")
	lacking := put("a", 1, 0, "1") // and b has vanished
	v.read(true, lacking)
	v.judged, v.truth = true, 1
	if v.read(true, lacking) {
		t.Error("what the leader confirms is doubted")
	}
	expect(t, v, "a:1 b:1?")
	if v.newest != 1 {
		t.Errorf("newest %d", v.newest)
	}
	// b was only missing in that copy.
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"))
	expect(t, v, "a:1 b:1")
}

// The copy that all reads come from was away, and gets nothing while the stream
// has no leader.
func TestACopyIsNotBelievedThatIsBehindTheLeader(t *testing.T) {
	v := newView(bare(), "user")
	old := []*nats.Msg{put("a", 1, 0, "1"), put("b", 2, 0, "1")}
	v.read(true, old...)
	v.hear(put("a", 3, 1, "2"))
	v.hear(put("c", 4, 0, "1"))
	for i := range 300 {
		v.judged, v.truth = i%2 == 1, 4 // sometimes nobody could be asked
		if !v.read(true, old...) {
			t.Fatal("there is no doubt any more")
		}
		expect(t, v, "a:2 b:1 c:1")
		if v.newest != 4 || v.verified != 2 {
			t.Fatalf("newest %d, verified %d", v.newest, v.verified)
		}
	}
	v.judged = true
	if v.read(true, put("b", 2, 0, "1"), put("a", 3, 0, "2"), put("c", 4, 0, "1")) {
		t.Error("a good copy raises doubt")
	}
	expect(t, v, "a:2 b:1 c:1")
}

// contradicted is a view that has heard more of a than a read has told since.
func contradicted() (v *view, old *nats.Msg) {
	v, old = newView(bare(), "user"), put("a", 1, 0, "1")
	v.read(true, old)
	v.hear(put("a", 3, 1, "2"))
	v.read(true, old)
	return v, old
}

// A read that is begun again has said nothing.
func TestADisputeEndsWithItsRead(t *testing.T) {
	v, old := contradicted()
	v.judged, v.truth = true, 1
	v.begin(true)
	v.mark(old) // and the rest of it is lost
	if v.read(true, put("b", 4, 0, "1")) {
		t.Error("there is doubt")
	}
	expect(t, v, "a:2? b:1") // and not a:1
}

// What a read says first may be older than what it says later, from another copy,
// and than what was heard while it ran.
func TestADisputeDoesNotOutliveWhatIsNewer(t *testing.T) {
	for name, newer := range map[string]func(*view){
		"another copy knows it": func(v *view) { v.mark(put("a", 3, 0, "2")) },
		"it was written":        func(v *view) { v.hear(put("a", 6, 3, "3")) },
		"it has left":           func(v *view) { v.hear(deregistered("a", 6, 3)) },
	} {
		t.Run(name, func(t *testing.T) {
			v, old := contradicted()
			v.judged, v.truth = true, 3
			v.begin(true)
			v.mark(old)
			newer(v)
			want := v.shows()
			v.mark(put("b", 5, 0, "1"))
			v.end()
			expect(t, v, strings.TrimSpace(want+" b:1"))
		})
	}
}

func TestChangesThatComeInAnyOrder(t *testing.T) {
	msgs := []*nats.Msg{put("a", 1, 0, "1"), put("b", 2, 0, "1"), put("a", 3, 1, "2"), deregistered("b", 4, 2), put("a", 5, 3, "3")}
	want := map[string]uint64{"a": 5, "b": 4}
	order := []int{0, 1, 2, 3, 4}
	permute(order, 0, func(order []int) {
		for readFirst := range 3 {
			v := newView(bare(), "user")
			if readFirst == 1 {
				v.read(true)
			}
			for _, i := range order {
				v.hear(msgs[i])
			}
			if readFirst == 2 {
				v.read(true, msgs[4], msgs[3])
			}
			for id, seq := range want {
				if got := v.records["user.r.z."+id].seq; got != seq {
					t.Fatalf("order %v, %d: %s is at %d", order, readFirst, id, got)
				}
			}
			if got := v.shows(); readFirst > 0 && got != "a:3" {
				t.Fatalf("order %v, %d: %s", order, readFirst, got)
			}
		}
	})
}

func permute(a []int, n int, f func([]int)) {
	if n == len(a) {
		f(a)
		return
	}
	for i := n; i < len(a); i++ {
		a[n], a[i] = a[i], a[n]
		permute(a, n+1, f)
		a[n], a[i] = a[i], a[n]
	}
}

func TestWhatAChangeTellsOfOthers(t *testing.T) {
	at := func(seq uint64, m *nats.Msg) *nats.Msg { // later than its sequence says
		m.Header[wire.HdrTimestamp] = []string{time.Unix(2e9+int64(seq), 0).UTC().Format(time.RFC3339Nano)}
		return m
	}
	for name, x := range map[string]struct {
		msg  *nats.Msg
		want finding
	}{
		"the next of the same":              {put("a", 11, 9, "2"), fine},
		"a new one":                         {put("n", 11, 0, "1"), fine},
		"known already":                     {put("a", 9, 5, "1"), fine},
		"older than what is known":          {put("a", 4, 0, "0"), fine},
		"of one that was missed":            {put("n", 11, 10, "1"), missed},
		"one between was missed":            {put("a", 12, 10, "2"), missed},
		"it was removed without a word":     {put("a", 11, 0, "2"), lost},
		"back after its mark has ended":     {put("gone", 11, 0, "2"), fine},
		"of a stream made anew":             {at(2, put("a", 2, 0, "2")), lost},
		"of another, in a stream made anew": {put("n", 3, 0, "1"), lost},
		"no message of the registry":        {&nats.Msg{Subject: "proxima.inst.user.r.z.a"}, fine},
	} {
		t.Run(name, func(t *testing.T) {
			v := newView(bare(), "user")
			v.read(true, deregistered("gone", 7, 0), put("b", 8, 0, "1"), put("a", 9, 0, "1"))
			v.hear(put("b", 10, 8, "2"))
			if got := v.hear(x.msg); got != x.want {
				t.Errorf("it tells %d, want %d", got, x.want)
			}
		})
	}
}

func TestListStaysInOrder(t *testing.T) {
	v := newView(bare(), "user")
	v.read(true, put("d", 1, 0, "1"), put("b", 2, 0, "1"), put("c", 3, 0, "1"))
	expect(t, v, "b:1 c:1 d:1")
	v.hear(put("a", 4, 0, "1"))
	v.hear(put("e", 5, 0, "1"))
	v.hear(deregistered("c", 6, 3))
	expect(t, v, "a:1 b:1 d:1 e:1")
	if !slices.IsSortedFunc(v.services["user"].records, inOrder) {
		t.Error("not in order")
	}
}

func TestWhoWasForgottenIsNotRevived(t *testing.T) {
	v := newView(bare(), "user")
	expired := func(id string, seq, last uint64) *nats.Msg {
		return message(id, seq, last, string(wire.BodyExpired), wire.HdrOperation, wire.Purge)
	}
	all := []*nats.Msg{put("a", 1, 0, "1"), put("b", 2, 0, "1"), put("c", 3, 0, "1")}
	v.read(true, all...)
	v.hear(expired("a", 4, 1))
	v.passVigil()
	expect(t, v, "b:1 c:1")
	v.read(true, all[1:]...) // the mark of a is wiped
	v.hear(expired("b", 5, 2))
	expect(t, v, "b:1? c:1")
	v.hear(put("a", 6, 0, "2"))
	v.hear(put("b", 7, 5, "2"))
	expect(t, v, "a:2 b:2 c:1")
}

func TestWhoExpiredFirstIsRevivedWhenManyFollow(t *testing.T) {
	v := newView(bare(), "user")
	expired := func(id string, seq, last uint64) *nats.Msg {
		return message(id, seq, last, string(wire.BodyExpired), wire.HdrOperation, wire.Purge)
	}
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"), put("c", 3, 0, "1"))
	v.hear(expired("a", 4, 1))
	v.passVigil()
	expect(t, v, "b:1 c:1")
	v.hear(expired("b", 5, 2))
	expect(t, v, "a:1? b:1? c:1")
	v.hear(put("b", 6, 5, "2"))
	expect(t, v, "a:1? b:2 c:1")
	v.hear(expired("a", 7, 4)) // alone by now, but it had no time to come back
	expect(t, v, "a:1? b:2 c:1")
	v.records["user.r.z.a"].suspect = time.Now().Add(-ttl(&events.Instance{}))
	v.hear(expired("a", 8, 7))
	expect(t, v, "b:2 c:1")
}

// Those of a burst are heard one after the other: the first of them is not
// removed for the moment until the second is heard.
func TestTheFirstOfManyThatExpireIsNotRemovedForAMoment(t *testing.T) {
	v := newView(bare(), "user")
	expired := func(id string, seq, last uint64) *nats.Msg {
		return message(id, seq, last, string(wire.BodyExpired), wire.HdrOperation, wire.Purge)
	}
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"), put("c", 3, 0, "1"))
	v.hear(expired("a", 4, 1))
	v.endVigils() // too early
	expect(t, v, "a:1 b:1 c:1")
	v.hear(expired("b", 5, 2))
	v.passVigil()
	expect(t, v, "a:1? b:1? c:1")
	v.hear(put("a", 6, 4, "2"))
	v.hear(put("b", 7, 5, "2"))
	v.hear(expired("c", 8, 3))
	v.hear(put("c", 9, 8, "2")) // it was only late
	v.passVigil()
	expect(t, v, "a:2 b:2 c:2")
}

// When the leader of the stream is lost nobody can renew. Of one zone many
// leases end, of another a few: those are no less alive.
func TestAFewThatExpireWithManyOfAnotherZoneAreSuspect(t *testing.T) {
	v := newView(bare(), "user")
	elsewhere := func(msg *nats.Msg) *nats.Msg {
		msg.Subject = strings.Replace(msg.Subject, ".z.", ".y.", 1)
		msg.Header.Set(wire.HdrSubject, strings.Replace(msg.Header.Get(wire.HdrSubject), ".z.", ".y.", 1))
		msg.Data = bytes.Replace(msg.Data, []byte(`"z"`), []byte(`"y"`), 1)
		return msg
	}
	expired := func(id string, seq, last uint64) *nats.Msg {
		return message(id, seq, last, string(wire.BodyExpired), wire.HdrOperation, wire.Purge)
	}
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"))
	for i, id := range strings.Split("cdefghijklmnopqrst", "") {
		v.hear(elsewhere(put(id, uint64(3+i), 0, "1")))
	}
	v.hear(elsewhere(expired("c", 30, 3)))
	v.hear(expired("a", 31, 1))
	v.hear(expired("b", 32, 2))
	v.hear(elsewhere(expired("d", 33, 4)))
	v.passVigil()
	expect(t, v, "c:1? d:1? e:1 f:1 g:1 h:1 i:1 j:1 k:1 l:1 m:1 n:1 o:1 p:1 q:1 r:1 s:1 t:1 a:1? b:1?")
}
