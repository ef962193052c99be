//go:build faults && unix

package faults_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/tests/faults"
)

// heartbeat is how long it takes until every announcer of a long lease has
// renewed it, or has noticed that it is gone.
const heartbeat = long/3 + 2*time.Second

func TestOperatorsAct(t *testing.T) {
	t.Parallel()
	w := faults.Start(t, faults.Options{})
	w.Announce(60, long)
	w.Callers(6)

	w.Case("all servers are restarted, one after the other", faults.Bounds{}, func() {
		for _, n := range w.Nodes {
			w.Terminate(n)
			w.Pass(time.Second)
			w.Restart(n)
		}
	})

	w.Case("the lead is handed over ten times", faults.Bounds{}, func() {
		for range 10 {
			w.StepDown(nil)
			w.Pass(200 * time.Millisecond)
		}
	})

	// What vanishes without a word is suspect until its announcer notices that
	// its record is gone, with its next heartbeat.
	w.Case("the stream is purged", faults.Bounds{Blind: 10 * time.Second}, func() {
		w.Break("purge", func() {
			if err := w.Stream().Purge(t.Context()); err != nil {
				t.Error(err)
			}
		})
		w.Pass(heartbeat)
	})

	w.Case("the stream is rolled up into one message", faults.Bounds{Blind: 10 * time.Second}, func() {
		w.Break("roll-up", func() {
			msg := &nats.Msg{Subject: "$KV.proxima.x", Header: nats.Header{"Nats-Rollup": {"all"}}}
			if _, err := w.JetStream().PublishMsg(t.Context(), msg); err != nil {
				t.Error(err)
			}
		})
		w.Pass(heartbeat)
	})

	w.Case("the stream is deleted", faults.Bounds{Blind: 15 * time.Second}, func() {
		w.NewLife()
		w.Break("delete", func() {
			if err := w.JetStream().DeleteStream(t.Context(), "KV_proxima"); err != nil {
				t.Error(err)
			}
		})
		w.Pass(heartbeat)
	})

	w.Case("the stream is deleted and made again at once", faults.Bounds{Blind: 15 * time.Second}, func() {
		w.NewLife()
		config := w.Stream().CachedInfo().Config
		w.Break("delete and create", func() {
			if err := w.JetStream().DeleteStream(t.Context(), config.Name); err != nil {
				t.Error(err)
			}
			if _, err := w.JetStream().CreateStream(t.Context(), config); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				t.Error(err)
			}
		})
		w.Pass(heartbeat)
	})

	// A caller that starts while JetStream has no leader at all can neither
	// ask about the bucket nor make it, and need not.
	w.Case("a caller starts without the leader of JetStream", faults.Bounds{Blind: 10 * time.Second}, func() {
		meta := w.MetaLeader()
		w.Kill(meta)
		began := time.Now()
		c := w.CallerAt(w.URLs(meta))
		started := time.Since(began)
		known := w.Until("it knows all that live", c.Whole)
		w.Log("the caller was started after %v and knew all instances %v later", started, known)
		w.Pass(10 * time.Second)
		w.Restart(meta)
	})
}
