package main

import (
	"encoding/json"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestTheDoctorFindsNothingWrongWithAHealthyRegistry(t *testing.T) {
	r := newRegistry(t)
	r.list(t, "user", "u1", "a", nil)
	rt, err := router.New(t.Context(), natstest.Connect(t, r.ns), r, router.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	if err := rt.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := run(t, nil, "doctor", "--nats-url", r.url)
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	if got.code != 0 || got.stderr != "" || len(lines) != 17 {
		t.Fatalf("%d, %d lines\n%s%s", got.code, len(lines), got.stdout, got.stderr)
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "ok ") && !strings.Contains(line, "storage of KV_proxima is Memory") { // as the test made it
			t.Error(line)
		}
	}
	if !strings.Contains(got.stdout, "1 instance of 1 service") || !strings.Contains(got.stdout, "none, as a router sees it") {
		t.Error(got.stdout)
	}
}

func TestTheDoctorSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	r := newRegistry(t)
	nc := natstest.Connect(t, r.ns)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key, body string) {
		t.Helper()
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "$KV.proxima." + key, Data: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	r.list(t, "user", "nowhere", "", nil)
	ghost := events.Instance{Service: "user", ID: "ghost", TTL: time.Hour, Endpoints: map[string]string{"http": testkit.FreeAddress(t)}, Status: events.Up, Weight: 100}
	ghost.Location.Region, ghost.Location.Zone = "r1", "a"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	alive := ghost
	alive.ID, alive.Endpoints = "alive", map[string]string{"http": l.Addr().String()}
	for _, in := range []events.Instance{ghost, alive} {
		record, err := events.Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		put(in.Key().Inst(), string(record))
	}
	put("inst.user.r1.a.broken", "{")
	s, err := js.Stream(t.Context(), "KV_proxima")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.MaxBytes = 1 << 20
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	got := run(t, nil, "doctor", "--nats-url", r.url)
	for _, want := range []string{
		`^warning +settings +max_bytes of KV_proxima is 1048576\. Do: router doctor --fix$`,
		`^warning +decoding +1 record that cannot be read: inst\.user\.r1\.a\.broken\. Do: `,
		`^warning +locations +1 instance without region or zone: user\.r1\._\.nowhere\. Do: .*PROXIMA_ZONE`,
		`^warning +leases +2 ids with only a record or only a lease: user\.r1\.a\.alive, user\.r1\.a\.ghost`,
		`^warning +ghosts +1 instance of these cannot be reached from here: user\.r1\.a\.ghost \(` + regexp.QuoteMeta(ghost.Endpoints["http"]) + `\)\. Do: `,
		`^ok +suspects +no router answers`,
	} {
		if !regexp.MustCompile("(?m)" + want).MatchString(got.stdout) {
			t.Errorf("not found: %s", want)
		}
	}
	if got.code != 0 || got.stderr != "" {
		t.Errorf("only warnings, and the exit code is %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	before := lastSequence(t, js)
	got = run(t, nil, "doctor", "--fix", "--json", "--nats-url", r.url)
	var d diagnosis
	if err := json.Unmarshal([]byte(got.stdout), &d); err != nil || len(d.Fixed) != 1 || !strings.Contains(d.Fixed[0], "max_bytes") || d.Errors != 0 || d.Warnings == 0 {
		t.Errorf("%v\n%s", err, got.stdout)
	}
	if after := lastSequence(t, js); after != before {
		t.Errorf("the doctor has written: %d messages, then %d", before, after)
	}
}

func lastSequence(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), "KV_proxima")
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

func TestTheDoctorEndsWithAnErrorWhereSomethingDoesNotWork(t *testing.T) {
	plain := natstest.Start(t, natstest.Listen, func(o *server.Options) { o.JetStream = false })
	empty := natstest.Start(t, natstest.Listen)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--nats-url", "nats://" + testkit.FreeAddress(t), "--connect-timeout", "300ms"}, `^error +connection .*connection refused.*Do: start NATS`},
		{[]string{"--nats-url", plain.ClientURL()}, `^error +jetstream .*Do: start the server with JetStream enabled`},
		{[]string{"--nats-url", empty.ClientURL()}, `^error +bucket +there is no bucket proxima .*Do: start an announcer`},
	} {
		got := run(t, nil, append([]string{"doctor"}, tt.args...)...)
		if got.code != 1 || got.stderr != "" || !regexp.MustCompile("(?m)"+tt.want).MatchString(got.stdout) {
			t.Errorf("%q: %d\n%s%s", tt.args, got.code, got.stdout, got.stderr)
		}
	}
	if got := run(t, nil, "doctor", "--nats-url", "http://x"); got.code != 2 || !oneLine(got.stderr) {
		t.Errorf("a bad flag: %d %s", got.code, got.stderr)
	}
}

func TestTheDoctorComparesWhatTheUserMay(t *testing.T) {
	ns := natstest.Start(t, natstest.Listen, func(o *server.Options) {
		may := func(publish, subscribe []string) *server.Permissions {
			return &server.Permissions{Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe}}
		}
		o.Users = []*server.User{
			{Username: "all", Password: "x"},
			{Username: "caller", Password: "x", Permissions: may(
				[]string{"$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.KV_proxima", "$JS.API.STREAM.INFO.KV_proxima", "$JS.API.INFO", "proxima.latency.>", "proxima.ping.>", "$SYS.REQ.>"},
				[]string{"_INBOX.>", "proxima.>", "$JS.EVENT.>"})},
		}
	})
	if _, err := kv.Open(t.Context(), natstest.Connect(t, ns, nats.UserInfo("all", "x")), kv.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	got := run(t, nil, "doctor", "--nats-url", ns.ClientURL(), "--nats-user", "caller", "--nats-password", "x")
	for _, want := range []string{
		`^ok +permissions +this user may be that of callers$`,
		`^warning +permissions +with this user announcers may not publish to \$KV\.proxima\.inst\.service\.region\.zone\.id, nor `,
		`^warning +writing +this user may not write: `,
	} {
		if !regexp.MustCompile("(?m)" + want).MatchString(got.stdout) {
			t.Errorf("not found: %s", want)
		}
	}
	if got.code != 0 {
		t.Errorf("%d\n%s%s", got.code, got.stdout, got.stderr)
	}
}

func TestACommandRefusesAServerThatIsTooOldWithOneLine(t *testing.T) {
	ns := natstest.Start(t, natstest.Listen)
	url := natstest.Pretend(t, ns.Addr().String(), "2.12.12")
	for _, args := range [][]string{{"serve", "--http", "127.0.0.1:0", "--log-level", "error"}, {"services"}} {
		got := run(t, nil, append(args, "--nats-url", url)...)
		if got.code != 1 || !oneLine(got.stderr) || !strings.Contains(got.stderr, "is version 2.12.12, and leases need 2.14.4 or later: upgrade it") {
			t.Errorf("%q: %d %s", args, got.code, got.stderr)
		}
	}
	js, err := jetstream.New(natstest.Connect(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	if account, err := js.AccountInfo(t.Context()); err != nil || account.Streams != 0 {
		t.Errorf("%+v, %v", account, err)
	}
}
