package kv

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
		w := bareWatcher(t)
		if w.undecided() {
			t.Fatal("the leader is asked for no reason")
		}
		w.doubted = time.Now()
		for range 10 {
			time.Sleep(judgement - time.Second)
			if !w.undecided() {
				t.Fatal("the leader is not asked")
			}
			w.asked, w.first, w.about = 1, 1, truth
			w.answer(&nats.Msg{Subject: w.inbox + "1", Data: []byte(`{"message":{"seq":4}}`)})
			if !w.judged || w.truth != 4 {
				t.Fatalf("judged %t, %d", w.judged, w.truth)
			}
			w.conclude() // by a read of a copy that is behind
		}
		// Silence is no answer, and does not go on for ever.
		for silences := 0; w.undecided(); silences++ {
			if silences > 20 {
				t.Fatal("the leader is asked for ever")
			}
			w.asked, w.about = 1, truth
			time.Sleep(w.patience())
			w.silence()
			if w.asked != 0 {
				t.Fatal("it is asked again before it is seen whether that is still needed")
			}
		}
		if !w.judged || w.truth != 0 {
			t.Errorf("judged %t, %d", w.judged, w.truth)
		}
	})
}
