package view

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// note is a Notes that counts.
type note struct{ invalid, forged int }

func (n *note) Invalid(events.Key, error)                { n.invalid++ }
func (n *note) Suspect(string, *events.Instance, ...any) {}
func (n *note) Unconfirmed(*events.Instance, int, bool)  {}
func (n *note) Forged()                                  { n.forged++ }

// bare is a view of service user.
func bare() *View { return New(Options{Service: "user", Notes: new(note)}) }

// change is one of a stream whose clock ticks once a second per sequence.
func change(id string, seq, last uint64) *wire.Change {
	key := events.Key{Service: "user", Region: "r", Zone: "z", ID: id}
	return &wire.Change{Key: key, Name: key.String(), Seq: seq, Last: last, At: (1e9 + int64(seq)) * 1e9}
}

func put(id string, seq, last uint64, incarnation string) *wire.Change {
	c := change(id, seq, last)
	c.Data = []byte(incarnation)
	c.Instance = &events.Instance{
		ID: id, Service: "user", Incarnation: incarnation, Location: topology.Location{Region: "r", Zone: "z"},
		Endpoints: map[string]string{events.HTTP: "10.0.0.5:8080"}, Status: events.Up, Weight: 100, TTL: events.DefaultTTL,
	}
	return c
}

func deregistered(id string, seq, last uint64) *wire.Change {
	c := change(id, seq, last)
	c.Reason = events.ReasonDeregistered
	return c
}

func expired(id string, seq, last uint64) *wire.Change {
	c := change(id, seq, last)
	c.Expired = true
	return c
}

// stamp is the time of a change as the server writes it.
func stamp(c *wire.Change) string { return time.Unix(0, c.At).UTC().Format(time.RFC3339Nano) }

func (v *View) hear(c *wire.Change) Finding { return v.Hear(c, time.Now()) }

// mark merges a message of a read, as package tail does.
func (v *View) mark(c *wire.Change) {
	v.Reach(c.Seq)
	if !v.Confirm(c.Name, c.Seq, stamp(c)) {
		v.List(c, time.Now())
	}
}

// read merges a whole read and says whether another shall follow.
func (v *View) read(full bool, msgs ...*wire.Change) bool {
	v.Begin(full)
	for _, m := range msgs {
		v.mark(m)
	}
	v.End(time.Now())
	return v.doubt
}

// shows is what the view lists, as id:incarnation, with ? for suspects.
func (v *View) shows() string {
	var out []string
	v.touch("user")
	v.Publish(false, time.Time{}, func(s events.Snapshot) {
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

func expect(t *testing.T, v *View, want string) {
	t.Helper()
	if got := v.shows(); got != want {
		t.Errorf("the view shows %q, want %q", got, want)
	}
}

func TestSnapshotsOfACopyThatLagsAreNotBelievedAtOnce(t *testing.T) {
	v := bare()
	old := []*wire.Change{put("a", 1, 0, "1"), put("b", 2, 0, "1")}
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
	v := bare()
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"))
	v.hear(put("a", 1<<20, 1, "forged"))
	expect(t, v, "a:forged b:1")
	lacking := put("a", 1, 0, "1") // and b has vanished
	v.read(true, lacking)
	v.Trust(1)
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
	v := bare()
	old := []*wire.Change{put("a", 1, 0, "1"), put("b", 2, 0, "1")}
	v.read(true, old...)
	v.hear(put("a", 3, 1, "2"))
	v.hear(put("c", 4, 0, "1"))
	for i := range 300 {
		if i%2 == 1 { // sometimes the leader could not be asked
			v.Trust(4)
		}
		if !v.read(true, old...) {
			t.Fatal("there is no doubt any more")
		}
		expect(t, v, "a:2 b:1 c:1")
		if v.newest != 4 || v.verified != 2 {
			t.Fatalf("newest %d, verified %d", v.newest, v.verified)
		}
	}
	v.Trust(4)
	if v.read(true, put("b", 2, 0, "1"), put("a", 3, 0, "2"), put("c", 4, 0, "1")) {
		t.Error("a good copy raises doubt")
	}
	expect(t, v, "a:2 b:1 c:1")
}

// contradicted is a view that has heard more of a than a read has told since.
func contradicted() (v *View, old *wire.Change) {
	v, old = bare(), put("a", 1, 0, "1")
	v.read(true, old)
	v.hear(put("a", 3, 1, "2"))
	v.read(true, old)
	return v, old
}

// A read that is begun again has said nothing.
func TestADisputeEndsWithItsRead(t *testing.T) {
	v, old := contradicted()
	v.Trust(1)
	v.Begin(true)
	v.mark(old) // and the rest of it is lost
	if v.read(true, put("b", 4, 0, "1")) {
		t.Error("there is doubt")
	}
	expect(t, v, "a:2? b:1") // and not a:1
}

// What a read says first may be older than what it says later, from another copy,
// and than what was heard while it ran.
func TestADisputeDoesNotOutliveWhatIsNewer(t *testing.T) {
	for name, newer := range map[string]func(*View){
		"another copy knows it": func(v *View) { v.mark(put("a", 3, 0, "2")) },
		"it was written":        func(v *View) { v.hear(put("a", 6, 3, "3")) },
		"it has left":           func(v *View) { v.hear(deregistered("a", 6, 3)) },
	} {
		t.Run(name, func(t *testing.T) {
			v, old := contradicted()
			v.Trust(3)
			v.Begin(true)
			v.mark(old)
			newer(v)
			want := v.shows()
			v.mark(put("b", 5, 0, "1"))
			v.End(time.Now())
			expect(t, v, strings.TrimSpace(want+" b:1"))
		})
	}
}

func TestChangesThatComeInAnyOrder(t *testing.T) {
	msgs := []*wire.Change{put("a", 1, 0, "1"), put("b", 2, 0, "1"), put("a", 3, 1, "2"), deregistered("b", 4, 2), put("a", 5, 3, "3")}
	want := map[string]uint64{"a": 5, "b": 4}
	order := []int{0, 1, 2, 3, 4}
	permute(order, 0, func(order []int) {
		for readFirst := range 3 {
			v := bare()
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

func TestAChangeShowsWhetherOthersWereMissed(t *testing.T) {
	at := func(seq uint64, m *wire.Change) *wire.Change { // later than its sequence says
		m.At = (2e9 + int64(seq)) * 1e9
		return m
	}
	for name, x := range map[string]struct {
		msg  *wire.Change
		want Finding
	}{
		"the next of the same":              {put("a", 11, 9, "2"), Fine},
		"a new one":                         {put("n", 11, 0, "1"), Fine},
		"known already":                     {put("a", 9, 5, "1"), Fine},
		"older than what is known":          {put("a", 4, 0, "0"), Fine},
		"of one that was missed":            {put("n", 11, 10, "1"), Missed},
		"one between was missed":            {put("a", 12, 10, "2"), Missed},
		"it was removed without a word":     {put("a", 11, 0, "2"), Lost},
		"back after its mark has ended":     {put("gone", 11, 0, "2"), Fine},
		"of a stream made anew":             {at(2, put("a", 2, 0, "2")), Lost},
		"of another, in a stream made anew": {put("n", 3, 0, "1"), Lost},
	} {
		t.Run(name, func(t *testing.T) {
			v := bare()
			v.read(true, deregistered("gone", 7, 0), put("b", 8, 0, "1"), put("a", 9, 0, "1"))
			v.hear(put("b", 10, 8, "2"))
			if got := v.hear(x.msg); got != x.want {
				t.Errorf("it tells %d, want %d", got, x.want)
			}
		})
	}
}

func TestListStaysInOrder(t *testing.T) {
	v := bare()
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

func TestAnExpiredInstanceIsNotRestored(t *testing.T) {
	v := bare()
	all := []*wire.Change{put("a", 1, 0, "1"), put("b", 2, 0, "1"), put("c", 3, 0, "1")}
	v.read(true, all...)
	v.hear(expired("a", 4, 1))
	v.passGrace()
	expect(t, v, "b:1 c:1")
	v.read(true, all[1:]...) // the mark of a is wiped
	v.hear(expired("b", 5, 2))
	expect(t, v, "b:1? c:1")
	v.hear(put("a", 6, 0, "2"))
	v.hear(put("b", 7, 5, "2"))
	expect(t, v, "a:2 b:2 c:1")
}

func TestTheFirstToExpireIsRevivedWhenManyFollow(t *testing.T) {
	v := bare()
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"), put("c", 3, 0, "1"))
	v.hear(expired("a", 4, 1))
	v.passGrace()
	expect(t, v, "b:1 c:1")
	v.hear(expired("b", 5, 2))
	expect(t, v, "a:1? b:1? c:1")
	v.hear(put("b", 6, 5, "2"))
	expect(t, v, "a:1? b:2 c:1")
	v.hear(expired("a", 7, 4)) // alone by now, but it had no time to come back
	expect(t, v, "a:1? b:2 c:1")
	v.records["user.r.z.a"].suspect = time.Now().Add(-events.DefaultTTL)
	v.hear(expired("a", 8, 7))
	expect(t, v, "b:2 c:1")
}

// Those of a burst are heard one after the other: the first of them is not
// removed for the moment until the second is heard.
func TestTheFirstOfManyThatExpireIsNotRemovedForAMoment(t *testing.T) {
	v := bare()
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"), put("c", 3, 0, "1"))
	v.hear(expired("a", 4, 1))
	v.EndGrace(time.Now()) // too early
	expect(t, v, "a:1 b:1 c:1")
	v.hear(expired("b", 5, 2))
	v.passGrace()
	expect(t, v, "a:1? b:1? c:1")
	v.hear(put("a", 6, 4, "2"))
	v.hear(put("b", 7, 5, "2"))
	v.hear(expired("c", 8, 3))
	v.hear(put("c", 9, 8, "2")) // it was only late
	v.passGrace()
	expect(t, v, "a:2 b:2 c:2")
}

// While the stream has no leader no lease can be renewed. Of one zone many
// leases end, of another a few: those are no less alive.
func TestAFewThatExpireWithManyOfAnotherZoneAreSuspect(t *testing.T) {
	v := bare()
	elsewhere := func(c *wire.Change) *wire.Change {
		c.Key.Zone = "y"
		c.Name = c.Key.String()
		if c.Instance != nil {
			c.Instance.Location.Zone = "y"
		}
		return c
	}
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"))
	for i, id := range strings.Split("cdefghijklmnopqrst", "") {
		v.hear(elsewhere(put(id, uint64(3+i), 0, "1")))
	}
	v.hear(elsewhere(expired("c", 30, 3)))
	v.hear(expired("a", 31, 1))
	v.hear(expired("b", 32, 2))
	v.hear(elsewhere(expired("d", 33, 4)))
	v.passGrace()
	expect(t, v, "c:1? d:1? e:1 f:1 g:1 h:1 i:1 j:1 k:1 l:1 m:1 n:1 o:1 p:1 q:1 r:1 s:1 t:1 a:1? b:1?")
}

// left is why instances left, as id:reason.
func (v *View) left() string {
	var out []string
	v.touch("user")
	v.Publish(false, time.Time{}, func(s events.Snapshot) {
		for _, d := range s.Left {
			out = append(out, d.Key.ID+":"+d.Reason)
		}
	})
	return strings.Join(out, " ")
}

func TestASnapshotTellsWhyInstancesLeft(t *testing.T) {
	v := bare()
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"), put("c", 3, 0, "1"), put("d", 4, 0, "1"))
	v.hear(deregistered("a", 5, 1))
	if got := v.left(); got != "a:deregistered" {
		t.Errorf("after one has left: %q", got)
	}
	v.hear(expired("b", 6, 2))
	if got := v.left(); got != "a:deregistered" {
		t.Errorf("before it is believed that one has expired: %q", got)
	}
	v.passGrace()
	for range 2 {
		v.read(true, put("d", 4, 0, "1")) // c has vanished
		v.Trust(4)
	}
	if got := v.left(); got != "a:deregistered b:expired" {
		t.Errorf("while one is suspect: %q", got)
	}
	later := time.Now().Add(maxSuspect)
	v.DropSuspects(later)
	if got := v.left(); got != "c:" {
		t.Errorf("after it was dropped, ten minutes later: %q", got)
	}
	v.DropSuspects(later.Add(keepDeparted))
	if got := v.left(); got != "" {
		t.Errorf("a minute later: %q", got)
	}
}

// What was published does not change when more instances leave.
func TestDeparturesOfASnapshotStayAsTheyAre(t *testing.T) {
	v := bare()
	n := uint64(maxDeparted + 10)
	for i := range n {
		v.List(put(fmt.Sprintf("i%05d", i), i+1, 0, "1"), time.Now())
	}
	v.End(time.Now())
	var first events.Snapshot
	for i := range n {
		v.hear(deregistered(fmt.Sprintf("i%05d", i), n+i+1, i+1))
		if i == 2 {
			v.Publish(false, time.Time{}, func(s events.Snapshot) { first = s })
		}
	}
	if got := len(strings.Fields(v.left())); got != maxDeparted {
		t.Errorf("%d departures", got)
	}
	if len(first.Left) != 3 || first.Left[2].Key.ID != "i00002" {
		t.Errorf("the first snapshot has %+v", first.Left)
	}
}

func TestTheLastInstanceOfAServiceIsSuspectWhenItsLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := bare()
		v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"))
		v.hear(expired("a", 3, 1))
		v.passGrace()
		expect(t, v, "b:1")
		time.Sleep(events.DefaultTTL + time.Second)
		v.hear(expired("b", 4, 2))
		expect(t, v, "b:1?")
		for seq := range uint64(20) {
			time.Sleep(events.DefaultTTL + time.Second)
			v.hear(expired("b", 5+seq, 4+seq)) // the server repeats it
			v.passGrace()
			expect(t, v, "b:1?")
		}

		// Where another instance is up, it is not the last any more.
		v.hear(put("c", 30, 0, "1"))
		expect(t, v, "b:1? c:1")
		v.hear(expired("b", 31, 24))
		expect(t, v, "c:1")

		time.Sleep(events.DefaultTTL + time.Second)
		v.hear(expired("c", 32, 30))
		expect(t, v, "c:1?")
		time.Sleep(maxSuspect)
		v.DropSuspects(time.Now())
		expect(t, v, "")
	})
}

// The other instance may leave while the first one that expired is still listed.
func TestTheInstanceThatBecomesTheLastIsSuspect(t *testing.T) {
	v := bare()
	v.read(true, put("a", 1, 0, "1"), put("b", 2, 0, "1"))
	v.hear(expired("a", 3, 1))
	v.hear(deregistered("b", 4, 2))
	v.passGrace()
	expect(t, v, "a:1?")
}

func TestALastInstanceThatIsNotUpIsRemovedWhenItsLeaseEnds(t *testing.T) {
	for _, status := range []events.Status{events.NotReady, events.Draining} {
		v := bare()
		c := put("a", 1, 0, "1")
		c.Instance.Status = status
		v.read(true, c)
		v.hear(expired("a", 2, 1))
		v.passGrace()
		expect(t, v, "")
	}
	v := bare()
	v.opts.NoSuspects = true
	v.read(true, put("a", 1, 0, "1"))
	v.hear(expired("a", 2, 1))
	v.passGrace()
	expect(t, v, "")
}
