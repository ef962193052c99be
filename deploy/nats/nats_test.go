// Package nats_test starts the configurations of this folder, for real, and
// checks that they offer what the registry is made of.
package nats_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// patience is how long something may take that takes seconds: a first
// election, a new leader. Nothing below waits longer than it must.
const patience = time.Minute

func TestNothingIsReachableFromOutsideUntilSomebodySaysSo(t *testing.T) {
	t.Setenv("NATS_STORE_DIR", t.TempDir())
	opts, err := server.ProcessConfigFile("single.conf")
	if err != nil {
		t.Fatal(err)
	}
	for what, host := range map[string]string{"clients": opts.Host, "monitoring": opts.HTTPHost} {
		if addr, err := netip.ParseAddr(host); err != nil || !addr.IsLoopback() {
			t.Errorf("the address for %s is %q, not loopback", what, host)
		}
	}
}

func TestAClusterDoesNotStartHalfConfigured(t *testing.T) {
	all := map[string]string{
		"NATS_NAME": "n1", "NATS_LISTEN": "127.0.0.1:4222", "NATS_CLUSTER_LISTEN": "127.0.0.1:6222",
		"NATS_ROUTES": "[nats://127.0.0.1:6222]", "NATS_HTTP": "127.0.0.1:8222", "NATS_STORE_DIR": t.TempDir(),
	}
	for missing := range all {
		t.Run(missing, func(t *testing.T) {
			for name, value := range all {
				if name != missing {
					t.Setenv(name, value)
				}
			}
			_, err := server.ProcessConfigFile("cluster.conf")
			if err == nil || !strings.Contains(err.Error(), missing) {
				t.Errorf("got error %v, want one that names %s", err, missing)
			}
		})
	}
}

func TestOneNodeRunsTheRegistryAndKeepsItOverAKill(t *testing.T) {
	t.Parallel()
	n := startSingle(t)
	nc := connect(t, n)
	js := createRegistry(t, nc, 1)
	seq := put(t, js, "user", "before the kill")
	leasesExpire(t, nc, js)

	n.kill()
	n.start(t)

	if got := get(t, js, "user"); got.Sequence != seq || string(got.Data) != "before the kill" {
		t.Errorf("after the restart: sequence %d, %q; want %d", got.Sequence, got.Data, seq)
	}
	put(t, js, "user", "after the kill")
	leasesExpire(t, nc, js)
}

func TestThreeNodesRunTheRegistryAndLoseOneWithoutLosingAWrite(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	nc := connect(t, nodes...)
	js := createRegistry(t, nc, len(nodes))
	seq := put(t, js, "user", "before the kill")
	leasesExpire(t, nc, js)

	// The worst of the three: the one that leads the stream.
	leader, others := split(t, nodes, clusterOf(t, js).Leader)
	watcher := connect(t, others[0])
	heard := subscribe(t, watcher)
	leader.kill()
	killed := time.Now()
	put(t, js, "order", "without a leader")
	t.Logf("written %.1f s after the leader was killed", time.Since(killed).Seconds())

	if got := get(t, js, "user"); got.Sequence != seq {
		t.Errorf("the record is at sequence %d after the kill, want %d", got.Sequence, seq)
	}
	if msg := next(t, heard); msg.Subject != "proxima.inst.order" {
		t.Errorf("a watcher of another node heard of %s", msg.Subject)
	}
	leasesExpire(t, nc, js)

	leader.start(t)
	eventually(t, "the killed node catches up", func(context.Context) error {
		for _, r := range clusterOf(t, js).Replicas {
			if !r.Current || r.Offline {
				return fmt.Errorf("replica %s is %d behind, offline %t", r.Name, r.Lag, r.Offline)
			}
		}
		return nil
	})
}

// connect connects to the nodes as the commands do: for ever, and without a
// buffer of stale messages.
func connect(t *testing.T, nodes ...*node) *nats.Conn {
	t.Helper()
	urls := make([]string, len(nodes))
	for i, n := range nodes {
		urls[i] = n.url
	}
	nc, err := nats.Connect(strings.Join(urls, ","),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ReconnectBufSize(-1), nats.PingInterval(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// createRegistry makes a stream with every feature that the registry's has,
// once JetStream has a leader.
func createRegistry(t *testing.T, nc *nats.Conn, replicas int) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "JetStream has a leader", func(ctx context.Context) error {
		_, err := js.AccountInfo(ctx)
		return err
	})
	eventually(t, "the stream is made", func(ctx context.Context) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{
			Name: "KV_proxima", Subjects: []string{"$KV.proxima.>"}, Replicas: replicas,
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld,
			AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Hour, AllowMsgSchedules: true,
			AllowRollup: true, AllowDirect: true, DenyDelete: true,
			RePublish: &jetstream.RePublish{Source: "$KV.proxima.inst.>", Destination: "proxima.inst.>"},
		})
		return err
	})
	return js
}

// put writes a record until a server has acknowledged it.
func put(t *testing.T, js jetstream.JetStream, id, data string) uint64 {
	t.Helper()
	var seq uint64
	eventually(t, "a record is written", func(ctx context.Context) error {
		ack, err := js.Publish(ctx, "$KV.proxima.inst."+id, []byte(data), jetstream.WithMsgTTL(time.Hour))
		if err == nil {
			seq = ack.Sequence
		}
		return err
	})
	return seq
}

func get(t *testing.T, js jetstream.JetStream, id string) *jetstream.RawStreamMsg {
	t.Helper()
	var msg *jetstream.RawStreamMsg
	eventually(t, "a record is read", func(ctx context.Context) error {
		stream, err := js.Stream(ctx, "KV_proxima")
		if err != nil {
			return err
		}
		msg, err = stream.GetLastMsgForSubject(ctx, "$KV.proxima.inst."+id)
		return err
	})
	return msg
}

// leasesExpire checks that a record goes when its schedule fires, and that
// watchers hear of it.
func leasesExpire(t *testing.T, nc *nats.Conn, js jetstream.JetStream) {
	t.Helper()
	heard := subscribe(t, nc)
	put(t, js, "mortal", "a second to live")
	if msg := next(t, heard); msg.Subject != "proxima.inst.mortal" || string(msg.Data) != "a second to live" {
		t.Fatalf("heard %q on %s, want the record", msg.Data, msg.Subject)
	}
	lease := &nats.Msg{Subject: "$KV.proxima.lease.mortal", Header: nats.Header{"Kv-Operation": {"PURGE"}}}
	eventually(t, "a lease is written", func(ctx context.Context) error {
		_, err := js.PublishMsg(ctx, lease,
			jetstream.WithScheduleEvery(time.Second), jetstream.WithScheduleTTL(time.Hour),
			jetstream.WithScheduleTarget("$KV.proxima.inst.mortal"), jetstream.WithMsgTTL(time.Minute))
		return err
	})
	for msg := next(t, heard); msg.Header.Get("Nats-Scheduler") != lease.Subject; msg = next(t, heard) {
		if msg.Subject != "proxima.inst.mortal" || len(msg.Data) == 0 {
			t.Fatalf("heard of %s, header %v; want its removal by the lease", msg.Subject, msg.Header)
		}
	}

	// Removes record and schedule in one message, as a deregistration does.
	eventually(t, "the schedule is removed", func(ctx context.Context) error {
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: "$KV.proxima.inst.mortal", Header: nats.Header{
			"Kv-Operation": {"PURGE"}, "Nats-Schedule-Next": {"purge"}, "Nats-Scheduler": {lease.Subject},
		}}, jetstream.WithMsgTTL(time.Hour))
		return err
	})
	eventually(t, "the lease is gone", func(ctx context.Context) error {
		stream, err := js.Stream(ctx, "KV_proxima")
		if err != nil {
			return err
		}
		_, err = stream.GetLastMsgForSubject(ctx, lease.Subject)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return nil
		case err != nil:
			return err
		default:
			return errors.New("it is still there")
		}
	})
}

// subscribe hears of the registry's changes.
func subscribe(t *testing.T, nc *nats.Conn) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync("proxima.inst.>")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	eventually(t, "the subscription stands", nc.FlushWithContext)
	return sub
}

func next(t *testing.T, sub *nats.Subscription) *nats.Msg {
	t.Helper()
	msg, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatalf("no change was heard: %v", err)
	}
	return msg
}

// clusterOf is who keeps the stream.
func clusterOf(t *testing.T, js jetstream.JetStream) *jetstream.ClusterInfo {
	t.Helper()
	var cluster *jetstream.ClusterInfo
	eventually(t, "the stream has a leader", func(ctx context.Context) error {
		stream, err := js.Stream(ctx, "KV_proxima")
		if err != nil {
			return err
		}
		cluster = stream.CachedInfo().Cluster
		if cluster == nil || cluster.Leader == "" {
			return errors.New("no leader")
		}
		return nil
	})
	return cluster
}

// split takes the node of that name out of the list.
func split(t *testing.T, nodes []*node, name string) (one *node, others []*node) {
	t.Helper()
	for _, n := range nodes {
		if n.name == name {
			one = n
		} else {
			others = append(others, n)
		}
	}
	if one == nil {
		t.Fatalf("there is no node %q", name)
	}
	return one, others
}

// eventually tries until it works. What takes too long fails the test.
func eventually(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		one, done := context.WithTimeout(ctx, 2*time.Second)
		err := try(one)
		done()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %v still not: %s: %v", patience, what, err)
		case <-again.C:
		}
	}
}
