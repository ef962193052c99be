//go:build unix

package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// What follows is what an operator sees and does.

const streamName = "KV_" + kv.DefaultBucket

// JetStream is that of a connection of the announcers.
func (w *World) JetStream() jetstream.JetStream {
	w.t.Helper()
	js, err := jetstream.New(w.conns[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return js
}

// Stream is the bucket's.
func (w *World) Stream() jetstream.Stream {
	w.t.Helper()
	var s jetstream.Stream
	testkit.Retry(w.t, "the stream answers", func(ctx context.Context) (err error) {
		s, err = w.stream(ctx)
		return err
	})
	return s
}

// stream asks the first server that answers.
func (w *World) stream(ctx context.Context) (jetstream.Stream, error) {
	err := errors.New("no announcer is connected")
	for _, nc := range w.conns {
		if !nc.IsConnected() {
			continue
		}
		var js jetstream.JetStream
		if js, err = jetstream.New(nc); err != nil {
			return nil, err
		}
		var s jetstream.Stream
		if s, err = js.Stream(ctx, streamName); err == nil {
			return s, nil
		}
	}
	return nil, err
}

func (w *World) cluster(ctx context.Context) (*jetstream.ClusterInfo, error) {
	s, err := w.stream(ctx)
	if err != nil {
		return nil, err
	}
	c := s.CachedInfo().Cluster
	if len(w.Nodes) > 1 && (c == nil || c.Leader == "") {
		return nil, errors.New("the stream has no leader")
	}
	return c, nil
}

// Leader is the server that leads the stream.
func (w *World) Leader() *natstest.Process {
	w.t.Helper()
	var name string
	testkit.Retry(w.t, "the stream has a leader", func(ctx context.Context) error {
		c, err := w.cluster(ctx)
		if err == nil {
			name = c.Leader
		}
		return err
	})
	return w.Node(w.t, name)
}

// MetaLeader is the server that leads JetStream.
func (w *World) MetaLeader() *natstest.Process {
	w.t.Helper()
	var name string
	testkit.Retry(w.t, "JetStream has a leader", func(context.Context) error {
		var j struct {
			Meta struct {
				Leader string `json:"leader"`
			} `json:"meta_cluster"`
		}
		if err := w.Nodes[0].Ask("/jsz", &j); err != nil {
			return err
		}
		if name = j.Meta.Leader; name == "" {
			return errors.New("no leader is known")
		}
		return nil
	})
	return w.Node(w.t, name)
}

// StepDown hands the lead of the stream over, to n if it is not nil, and waits
// until it is done.
func (w *World) StepDown(n *natstest.Process) {
	w.t.Helper()
	before := w.Leader()
	if n == before {
		return
	}
	var to []byte
	if n != nil {
		to = fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, n.Name)
	}
	testkit.Retry(w.t, "the leader steps down", func(ctx context.Context) error {
		if _, err := w.conns[0].RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+streamName, to); err != nil {
			return err
		}
		if now := w.Leader(); now == before || n != nil && now != n {
			return fmt.Errorf("the leader is %s", now.Name)
		}
		return nil
	})
	w.Note("%s leads the stream, after %s", w.Leader().Name, before.Name)
}

// Agree waits until all copies of the stream hold as many messages, and end at
// the same one.
func (w *World) Agree() {
	w.t.Helper()
	testkit.Retry(w.t, "all copies of the stream agree", func(context.Context) error {
		states := map[string]state{}
		for _, n := range w.Nodes {
			s, err := copyOf(n)
			if err != nil {
				return err
			}
			states[n.Name] = s
		}
		for _, s := range states {
			if s != states[w.Nodes[0].Name] {
				return fmt.Errorf("they differ: %+v", states)
			}
		}
		return nil
	})
}

// state is what a server says of its copy of the stream.
type state struct {
	Messages uint64 `json:"messages"`
	LastSeq  uint64 `json:"last_seq"`
}

func copyOf(n *natstest.Process) (state, error) {
	var j struct {
		Accounts []struct {
			Streams []struct {
				Name  string `json:"name"`
				State state  `json:"state"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := n.Ask("/jsz?accounts=true&streams=true", &j); err != nil {
		return state{}, err
	}
	for _, a := range j.Accounts {
		for _, s := range a.Streams {
			if s.Name == streamName {
				return s.State, nil
			}
		}
	}
	return state{}, fmt.Errorf("%s has no copy", n.Name)
}

// CountWrites counts what is written to the bucket from now on, until the
// function that it returns is called: writes in each 100 ms.
func (w *World) CountWrites() (stop func() []int) {
	w.t.Helper()
	var mu sync.Mutex
	var counts []int
	var first time.Time
	// A connection that is there as soon as the others are.
	sub, err := w.conns[0].Subscribe("$KV."+kv.DefaultBucket+".>", func(*nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if first.IsZero() {
			first = time.Now()
		}
		slot := int(time.Since(first) / (100 * time.Millisecond))
		for len(counts) <= slot {
			counts = append(counts, 0)
		}
		counts[slot]++
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return func() []int {
		_ = sub.Unsubscribe() // fails only if the connection is closed
		mu.Lock()
		defer mu.Unlock()
		return counts
	}
}
