//go:build faults && unix

package natstest_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
)

func TestAClusterElectsAndCanBeCut(t *testing.T) {
	c := natstest.StartCluster(t, natstest.ClusterOptions{})
	first := c.Nodes[0]
	at, err := nats.Connect(first.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	away, err := nats.Connect(c.URLs(first))
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	sub, err := at.SubscribeSync("word")
	if err != nil {
		t.Fatal(err)
	}
	arrives := func() bool {
		t.Helper()
		if err := away.Publish("word", nil); err != nil {
			t.Fatal(err)
		}
		_, err := sub.NextMsg(quiet)
		return err == nil
	}
	for end := time.Now().Add(soon); !arrives(); {
		if time.Now().After(end) {
			t.Fatal("servers of a cluster do not talk to each other")
		}
	}
	c.Isolate(first)
	if arrives() {
		t.Error("a message reached a server that is cut off")
	}
	c.Rejoin(first)
	for end := time.Now().Add(soon); !arrives(); {
		if time.Now().After(end) {
			t.Fatal("servers that were cut off do not talk again")
		}
	}
}
