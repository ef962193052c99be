package tail

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

// Two reads are believed when the leader has said nothing for long, and not when
// it says all the time that the copies that are read are behind.
func TestTheLeaderIsAskedAsLongAsItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t)
		if r.needsLeader() {
			t.Fatal("the leader is asked for no reason")
		}
		r.doubted = time.Now()
		for range 10 {
			time.Sleep(leaderTimeout - time.Second)
			if !r.needsLeader() {
				t.Fatal("the leader is not asked")
			}
			r.asked, r.first, r.about = 1, 1, leaderNewest
			r.answer(&nats.Msg{Subject: r.inbox + "1", Data: []byte(`{"message":{"seq":4}}`)})
			if !r.view.Trusted() {
				t.Fatal("the answer of the leader was not noted")
			}
			r.view.End(time.Now()) // a read of a copy that is behind
		}
		// Silence is no answer, and does not go on for ever.
		for silences := 0; r.needsLeader(); silences++ {
			if silences > 20 {
				t.Fatal("the leader is asked for ever")
			}
			r.asked, r.about = 1, leaderNewest
			time.Sleep(r.patience())
			r.silence()
			if r.asked != 0 {
				t.Fatal("it is asked again before it is seen whether that is still needed")
			}
		}
		if !r.view.Trusted() {
			t.Error("two reads are not believed")
		}
	})
}
