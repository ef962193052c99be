package kv_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestAServerThatIsTooOldIsRefusedAndNothingIsMade(t *testing.T) {
	natstest.Parallel(t) // most of its time is waiting for a server
	ns := natstest.Start(t, natstest.Listen)
	for _, version := range []string{"2.10.18", "2.12.12", "2.14.3"} {
		nc, err := kv.Connect(natstest.Pretend(t, ns.Addr().String(), version))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		testkit.Eventually(t, "connected", nc.IsConnected)
		_, err = kv.Open(t.Context(), nc, kv.Options{Logger: quiet(nil)})
		if !errors.Is(err, kv.ErrTooOld) || !strings.Contains(err.Error(), version) || !strings.Contains(err.Error(), "upgrade it") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", version, err)
		}
		found, err := kv.Diagnose(t.Context(), nc, kv.Options{})
		if f := finding(found, "version"); err != nil || f.Level != kv.FindingOK { // the servers themselves tell it: they are new
			t.Errorf("%s: %+v, %v", version, found, err)
		}
	}
	nc := natstest.Connect(t, ns)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Stream(t.Context(), "KV_proxima"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the stream: %v", err)
	}
}

func TestAnAnnouncementSaysThatTheServerItFoundLaterIsTooOld(t *testing.T) {
	natstest.Parallel(t) // most of its time is waiting for a server
	address := testkit.FreeAddress(t)
	old := natstest.Pretend(t, address, "2.12.12")
	nc, err := kv.Connect(old)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	log := new(testkit.Output)
	r, err := kv.Open(t.Context(), nc, kv.Options{Logger: log.Logger(slog.LevelWarn)})
	if err != nil {
		t.Fatal(err)
	}
	if !log.Contains("NATS cannot be reached yet") {
		t.Errorf("logged %s", log)
	}
	a, err := r.Announce(instance("a"), kv.AnnounceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Leave(t.Context()) }()
	natstest.Start(t, natstest.ListenAt(address))
	testkit.Eventually(t, "the state says it", func() bool { return errors.Is(a.State().Err, kv.ErrTooOld) })
}

func TestAServerThatIsReplacedByAnOlderOneIsToldOf(t *testing.T) {
	natstest.Parallel(t) // most of its time is waiting for a server
	ns := natstest.Start(t, natstest.Listen)
	first := natstest.NewProxy(t, ns.Addr().String())
	nc, err := kv.Connect(first.URL()+","+natstest.Pretend(t, ns.Addr().String(), "2.12.12"), nats.DontRandomize())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	r, err := kv.Open(t.Context(), nc, kv.Options{Logger: quiet(nil)})
	if err != nil {
		t.Fatal(err)
	}
	if h := r.Check(t.Context()); h.Err != nil || h.WriteErr != nil {
		t.Fatalf("at the first server: %+v", h)
	}
	first.Cut()
	testkit.Eventually(t, "the health says it", func() bool {
		h := r.Check(t.Context())
		return h.Err == nil && errors.Is(h.WriteErr, kv.ErrTooOld) && strings.Contains(h.WriteErr.Error(), "2.12.12")
	})
	first.Heal()
}

func finding(all []kv.Finding, check string) kv.Finding {
	for _, f := range all {
		if f.Check == check {
			return f
		}
	}
	return kv.Finding{}
}

// hubAndLeaf are two servers with JetStream domains of these names, of which the second is
// a leaf node of the first.
func hubAndLeaf(t *testing.T) (hub, leaf *server.Server) {
	t.Helper()
	leafPort := testkit.FreePorts(t, 1)[0]
	hub = natstest.Start(t, natstest.Listen, func(o *server.Options) {
		o.ServerName, o.JetStreamDomain = "hub", "hub"
		o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", leafPort
	})
	leaf = natstest.Start(t, natstest.Listen, func(o *server.Options) {
		o.ServerName, o.JetStreamDomain = "leaf", "leaf"
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats-leaf", Host: fmt.Sprintf("127.0.0.1:%d", leafPort)}}}}
	})
	return hub, leaf
}

func TestWritesGoToTheDomainThatIsRead(t *testing.T) {
	natstest.Parallel(t) // most of its time is waiting for a server
	hub, leaf := hubAndLeaf(t)
	testkit.Eventually(t, "the leaf is connected", func() bool { return hub.NumLeafNodes() == 1 })
	near := natstest.Connect(t, leaf)
	if _, err := kv.Open(t.Context(), near, kv.Options{Domain: "leaf", Logger: quiet(nil)}); err != nil { // a bucket of the same name
		t.Fatal(err)
	}
	r, err := kv.Open(t.Context(), near, kv.Options{Domain: "hub", Logger: quiet(nil)})
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.Announce(instance("a"), kv.AnnounceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for ns, want := range map[*server.Server]uint64{hub: 2, leaf: 0} {
		js, err := jetstream.New(natstest.Connect(t, ns))
		if err != nil {
			t.Fatal(err)
		}
		s, err := js.Stream(t.Context(), "KV_proxima")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.CachedInfo().State.Msgs; got != want { // the record and its lease
			t.Errorf("%s has %d messages, want %d", ns.Name(), got, want)
		}
	}
	if err := a.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	found, err := kv.Diagnose(t.Context(), near, kv.Options{Domain: "hub"})
	if f := finding(found, "domain"); err != nil || f.Level != kv.FindingWarning || !strings.Contains(f.Advice, "connect to a server of domain hub") {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestAnAcknowledgementOfAnotherDomainIsAnError(t *testing.T) {
	natstest.Parallel(t)                         // most of its time is waiting for a server
	nc := natstest.Connect(t, natstest.Start(t)) // has no domain, and a bucket of that name
	if _, err := kv.Open(t.Context(), nc, kv.Options{Logger: quiet(nil)}); err != nil {
		t.Fatal(err)
	}
	r, err := kv.Open(t.Context(), nc, kv.Options{Domain: "west", Logger: quiet(nil)})
	if err != nil {
		t.Fatal(err)
	}
	in := instance("a")
	err = r.Renew(t.Context(), &in, 0)
	if !errors.Is(err, kv.ErrDomain) || !strings.Contains(err.Error(), "connect to a server of domain west") {
		t.Errorf("error %v", err)
	}
}

// cluster starts n servers of a cluster in this process.
func cluster(t *testing.T, n int) []*server.Server {
	t.Helper()
	ports := testkit.FreePorts(t, n)
	var routes []*url.URL
	for _, port := range ports {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	var all []*server.Server
	ready := make(chan struct{})
	for i := range n {
		all = append(all, nil)
		go func() {
			all[i] = natstest.Start(t, natstest.Listen, func(o *server.Options) {
				o.ServerName = fmt.Sprint("n", i+1)
				o.Cluster = server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[i]}
				o.Routes = routes
			})
			ready <- struct{}{}
		}()
	}
	for range n {
		<-ready
	}
	testkit.Eventually(t, "the cluster has a leader and all servers", func() bool {
		for _, ns := range all {
			if ns.JetStreamIsLeader() {
				return len(ns.JetStreamClusterPeers()) == n
			}
		}
		return false
	})
	return all
}

func TestTooFewCopiesAreWarnedOfAtEveryStartAndRepaired(t *testing.T) {
	natstest.Parallel(t) // most of its time is waiting for a server
	nc := natstest.Connect(t, cluster(t, 3)[0])
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	const warning = "the registry has too few copies"
	start := func() (*kv.Registry, string) {
		log := new(testkit.Output)
		r, err := kv.Open(t.Context(), nc, kv.Options{Logger: log.Logger(slog.LevelWarn)})
		if err != nil {
			t.Fatal(err)
		}
		return r, log.String()
	}
	if r, log := start(); strings.Contains(log, warning) || r.Health().MissingReplicas != 0 {
		t.Errorf("with three: %+v\n%s", r.Health(), log)
	}
	set := func(replicas int, change func(*jetstream.StreamConfig)) {
		t.Helper()
		s, err := js.Stream(t.Context(), "KV_proxima")
		if err != nil {
			t.Fatal(err)
		}
		config := s.CachedInfo().Config
		config.Replicas = replicas
		change(&config)
		if _, err := js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	set(1, func(*jetstream.StreamConfig) {})
	for range 2 {
		if r, log := start(); strings.Count(log, warning) != 1 || !strings.Contains(log, "replicas=1 wanted=3 servers=3") || r.Health().MissingReplicas != 2 {
			t.Errorf("with one: %+v\n%s", r.Health(), log)
		}
	}
	set(1, func(c *jetstream.StreamConfig) { c.MaxBytes, c.MaxAge = 1<<20, time.Hour })
	found, err := kv.Diagnose(t.Context(), nc, kv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if f := finding(found, "replicas"); f.Level != kv.FindingWarning || !f.Fixable {
		t.Errorf("%+v", f)
	}
	if f := finding(found, "settings"); f.Level != kv.FindingError || !strings.Contains(f.Text, "max_age of KV_proxima is 1h0m0s") {
		t.Errorf("%+v", f)
	}
	done, err := kv.Repair(t.Context(), nc, kv.Options{})
	if err != nil || len(done) != 3 {
		t.Errorf("%q, %v", done, err)
	}
	if r, log := start(); strings.Contains(log, warning) || r.Health().MissingReplicas != 0 {
		t.Errorf("repaired: %+v\n%s", r.Health(), log)
	}
	if done, err := kv.Repair(t.Context(), nc, kv.Options{}); err != nil || len(done) != 0 {
		t.Errorf("once more: %q, %v", done, err)
	}
}

func TestTheServersReasonIsKnown(t *testing.T) {
	natstest.Parallel(t) // most of its time is waiting for a server
	restricted := func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "all", Password: "x"},
			{Username: "blind", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.DIRECT.GET.>", "$KV.>"}}}},
		}
	}
	ns := natstest.Start(t, restricted)
	if _, err := kv.Open(t.Context(), natstest.Connect(t, ns, nats.UserInfo("all", "x")), kv.Options{Logger: quiet(nil)}); err != nil {
		t.Fatal(err)
	}
	nc := natstest.Connect(t, ns, nats.UserInfo("blind", "x"), silent)
	r, err := kv.Open(t.Context(), nc, kv.Options{NoCreate: true, Logger: quiet(nil)})
	if err != nil {
		t.Fatal(err)
	}
	v := watch(t, r, "user")
	defer v.close()
	testkit.Eventually(t, "the permission is named", func() bool {
		return errors.Is(r.Health().Err, nats.ErrPermissionViolation) && strings.Contains(r.Health().Err.Error(), "$JS.API.DIRECT.GET.KV_proxima")
	})
	if _, err := r.Register(t.Context(), instance("a"), 1); !errors.Is(err, nats.ErrPermissionViolation) || r.Health().WriteErr == nil {
		t.Errorf("%v; %+v", err, r.Health())
	}
}

func TestADiagnosisNamesAPermissionThatJetStreamNeeds(t *testing.T) {
	natstest.Parallel(t) // most of its time is waiting for a server
	ns := natstest.Start(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "blind", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.INFO"}}}}}
	})
	nc := natstest.Connect(t, ns, nats.UserInfo("blind", "x"))
	found, err := kv.Diagnose(t.Context(), nc, kv.Options{})
	if f := finding(found, "jetstream"); err != nil || f.Level != kv.FindingError || !strings.Contains(f.Advice, "allow this user to publish to $JS.API.INFO") {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestACheckFindsThatNoServerHasTheBucketBeforeAWatchDoes(t *testing.T) {
	natstest.Parallel(t) // most of its time is waiting for a server
	ns := natstest.Start(t)
	nc := natstest.Connect(t, ns)
	r, err := kv.Open(t.Context(), nc, kv.Options{Logger: quiet(nil)})
	if err != nil {
		t.Fatal(err)
	}
	if h := r.Check(t.Context()); h.Err != nil || h.WriteErr != nil {
		t.Errorf("%+v", h)
	}
	if err := ns.ShutdownJetStream(); err != nil {
		t.Fatal(err)
	}
	if h := r.Check(t.Context()); h.Err == nil || !strings.Contains(h.Err.Error(), `bucket "proxima"`) || h.WriteErr == nil {
		t.Errorf("%+v", h)
	}
	natstest.Stop(ns)
	if h := r.Check(t.Context()); h.Err == nil || !strings.Contains(h.Err.Error(), "not connected") {
		t.Errorf("%+v", h)
	}
}
