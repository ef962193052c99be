package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
)

var user1 = events.Key{Service: "user", ID: "user-1"}

// announce are the arguments for instance user-1 at address.
func announce(url, address string, more ...string) []string {
	return append([]string{
		"run", "--nats-url", url, "--service", "user", "--id", "user-1", "--endpoint", "http=" + address,
		"--ttl", "2s", "--check-interval", "50ms", "--drain", "100ms",
	}, more...)
}

// wrapped is the test's child as the command of the announcer.
func wrapped(args ...string) []string { return append([]string{"--", os.Args[0], childArg}, args...) }

func TestAnInstanceIsListedAndLeavesInOrder(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	backend := newHTTPServer(t)
	key := events.Key{Service: "user", Region: "us-east-1", Zone: "us-east-1a", ID: "user-1"}
	seen := r.watch(key)
	p := start(t, []string{"SERVICE_ZONE=us-east-1a"}, announce(r.url, backend.Addr().String(), "--endpoint", "nats=user.calls",
		"--region", "us-east-1", "--rack", "r12", "--host", "node-3",
		"--metadata", "team=a", "--metadata", "note=a=b,c", "--weight", "50", "--service-version", "1.4.2",
		"--check", "http://"+backend.Addr().String()+"/healthz", "--admin", "127.0.0.1:0", "--drain", "1s")...)
	in := r.await(key, events.Up)
	if in.Weight != 50 || in.Version != "1.4.2" || in.TTL != 2*time.Second || in.Metadata["note"] != "a=b,c" || in.Metadata["team"] != "a" ||
		in.Endpoints["nats"] != "user.calls" || in.Location.Rack != "r12" || in.Location.Host != "node-3" || in.Incarnation == "" || in.Started.IsZero() {
		t.Errorf("announced %+v", in)
	}
	p.logs(`msg=registered service=user instance=user-1 endpoints="http=.*,nats=user.calls" location=us-east-1/us-east-1a/r12/node-3 zone_by="env SERVICE"`)
	admin := "http://" + p.logs(`msg="serving health and metrics" address=(\S+)`)
	if code, body := get(t, admin+"/readyz"); code != 200 || body != "{\"ready\":true}\n" {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, _ := get(t, admin+"/healthz"); code != 200 {
		t.Errorf("/healthz: %d", code)
	}
	if _, body := get(t, admin+"/metrics"); !regexp.MustCompile(`(?m)^proxima_announcer_registered\{.*instance="user-1".*\} 1$`).MatchString(body) {
		t.Errorf("/metrics:\n%s", body)
	}
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if in := r.find(key); in != nil {
		t.Errorf("still listed as %s", in.Status)
	}
	testkit.Eventually(t, "the whole history", func() bool { return seen.String() == "absent up draining absent" })
}

func TestAnIDIsMadeUpWhenNoneIsGiven(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := start(t, nil, "run", "--nats-url", r.url, "--service", "user", "--endpoint", "nats=user.calls", "--drain", "0s")
	id := p.logs(`msg=registered service=user instance=(\S+)`)
	if !regexp.MustCompile(`^user-[a-z2-7]{8}$`).MatchString(id) {
		t.Errorf("id %q", id)
	}
	if in := r.find(events.Key{Service: "user", ID: id}); in == nil || in.TTL != 15*time.Second || in.Weight != 100 {
		t.Errorf("announced %+v", in)
	}
	p.logs("the zone is unknown")
	p.Signal(os.Interrupt)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestNothingIsListedBeforeItListens(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	backend := newPort(t)
	p := start(t, nil, announce(r.url, backend.addr, "--check", "tcp://"+backend.addr, "--admin", "127.0.0.1:0")...)
	admin := "http://" + p.logs(`msg="serving health and metrics" address=(\S+)`)
	p.logs(`msg="waiting for the check to pass" .*tcp://` + backend.addr + `: connect: connection refused`)
	if in := r.find(user1); in != nil {
		t.Errorf("listed %+v", in)
	}
	if code, body := get(t, admin+"/readyz"); code != 503 || !strings.Contains(body, "1 of 1 not registered: user/user-1: checking: ") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	backend.listen()
	r.await(user1, events.Up)
}

func TestWithoutACheckItIsListedAtOnce(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	start(t, nil, announce(r.url, deadAddress(t))...)
	r.await(user1, events.Up)
}

func TestACommandThatNeverListensIsListedAfterAWhile(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := start(t, nil, announce(r.url, deadAddress(t), "--", "sleep", "60")...)
	p.logs(`msg="waiting for the check to pass"`)
	r.await(user1, events.Up)
	p.registered()
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestAFailingCheckMakesItNotReadyUntilItPasses(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	backend := newHTTPServer(t)
	p := start(t, nil, announce(r.url, backend.Addr().String(), "--check", "http://"+backend.Addr().String()+"/")...)
	r.await(user1, events.Up)
	backend.answer(503)
	r.await(user1, events.NotReady)
	p.logs("not ready: callers avoid the instance")
	p.logs("got 503 Service Unavailable, want 2xx or 3xx")
	backend.answer(200)
	r.await(user1, events.Up)
	p.logs(`msg="status changed" .* status=up`)
}

func TestTheDeadAreGoneAfterTheirTTL(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := start(t, nil, announce(r.url, deadAddress(t), "--check", "none", "--ttl", "1s")...)
	r.await(user1, events.Up)
	p.registered()
	began := time.Now()
	p.Signal(os.Kill)
	r.awaitGone(user1)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("gone after %v", took)
	}
}

func TestASecondAnnouncerWithTheSameIDReportsAConflict(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	first := announce(r.url, deadAddress(t), "--check", "none")
	start(t, nil, first...)
	before := r.await(user1, events.Up)
	p := start(t, nil, append(first, "--admin", "127.0.0.1:0")...)
	p.logs(`level=ERROR msg="not registered: another live instance has this id, give each one its own \(--id\)" service=user instance=user-1`)
	admin := "http://" + p.logs(`msg="serving health and metrics" address=(\S+)`)
	if code, body := get(t, admin+"/readyz"); code != 503 || !strings.Contains(body, "conflict") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if now := r.find(user1); now == nil || now.Incarnation != before.Incarnation {
		t.Errorf("listed is %+v, was %+v", now, before)
	}
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if r.find(user1) == nil {
		t.Error("the second took the first with it")
	}
}

func TestAnInstanceIsRegisteredAgainAfterAnOutage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url := "nats://" + testkit.FreeAddress(t)
	ns := natstest.Start(t, natstest.ListenAt(url), func(o *server.Options) { o.StoreDir = dir })
	p := start(t, nil, announce(url, deadAddress(t), "--check", "none")...)
	p.logs("msg=registered")
	natstest.Stop(ns)
	p.logs("lost the connection to NATS")
	p.logs("the lease is not renewed, retrying")
	if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil { // and it has forgotten everything
		t.Fatal(err)
	}
	ns = natstest.Start(t, natstest.ListenAt(url), func(o *server.Options) { o.StoreDir = dir })
	r := &registry{t: t, kv: openRegistry(t, ns)}
	r.await(user1, events.Up)
	p.logs("the announcement works again")
}

func TestNATSBeingAwayDoesNotHoldTheStopUp(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"down", "silent"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := natstest.Start(t, natstest.Listen)
			nats := newProxy(t, ns.ClientURL())
			p := start(t, nil, announce(nats.url, deadAddress(t), "--check", "none", "--drain", "1m")...)
			p.logs("msg=registered")
			if name == "down" {
				natstest.Stop(ns)
			} else {
				nats.freeze()
			}
			began := time.Now()
			p.Signal(syscall.SIGTERM)
			if code := p.Exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if took := time.Since(began); took > 7*time.Second {
				t.Errorf("took %v", took)
			}
			p.logs("not deregistered, its lease ends by itself")
		})
	}
}

func TestAClosedLogDoesNotEndTheAnnouncer(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	backend := newHTTPServer(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], announce(r.url, backend.Addr().String(), "--check", "http://"+backend.Addr().String()+"/")...)
	cmd.Env, cmd.Stderr = []string{roleVar + "=1"}, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	write.Close()
	read.Close()
	r.await(user1, events.Up)
	backend.answer(503) // logs a line, and another one
	r.await(user1, events.NotReady)
	backend.answer(200)
	r.await(user1, events.Up)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestAnErrorIsOneLineAndAnExitCode(t *testing.T) {
	t.Parallel()
	noJetStream := natstest.Start(t, natstest.Listen, func(o *server.Options) { o.JetStream = false })
	locked := natstest.Start(t, natstest.Listen, func(o *server.Options) { o.Username, o.Password = "a", "b" })
	taken := newHTTPServer(t).Addr().String()
	nowhere := "nats://" + deadAddress(t)
	good := []string{"--service", "user", "--endpoint", "http=10.0.0.5:80"}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no subcommand", nil, 2, `expected one of "run", "file"`},
		{"no flags", []string{"run"}, 2, "missing flags: --endpoint=PROTOCOL=ADDRESS, --service=NAME"},
		{"unknown flag", []string{"run", "--bogus", "user"}, 2, "unknown flag --bogus"},
		{"unknown flag before the command", append([]string{"run"}, append(good, "--bogus", "true")...), 2, "unknown flag --bogus"},
		{"service", []string{"run", "--service", "User", "--endpoint", "http=h:80"}, 2, `--service "User": want a DNS label`},
		{"id", append([]string{"run", "--id", "a.b"}, good...), 2, `--id "a.b": want 1 to 63`},
		{"endpoint without protocol", []string{"run", "--service", "user", "--endpoint", "h:80"}, 2, `--endpoint: "h:80": want key=value`},
		{"endpoint without port", []string{"run", "--service", "user", "--endpoint", "http=h"}, 2, `--endpoint "http=h": want host:port`},
		{"loopback endpoint, NATS elsewhere", []string{"run", "--nats-url", "nats://10.255.0.1", "--service", "user", "--endpoint", "http=127.0.0.1:80"}, 2, `--endpoint "http=127.0.0.1:80": callers on other machines cannot reach it, and --nats-url names another machine: want an address of this machine, or --allow-loopback`},
		{"localhost, NATS elsewhere", []string{"run", "--nats-url", "nats.example,10.255.0.1", "--service", "user", "--endpoint", "http=10.0.0.5:80", "--endpoint", "grpc=localhost:81"}, 2, `--endpoint "grpc=localhost:81": callers on other machines`},
		{"loopback endpoint, NATS here", []string{"run", "--nats-url", nowhere + ",10.255.0.1", "--connect-timeout", "300ms", "--service", "user", "--endpoint", "http=[::1]:80"}, 1, "cannot reach NATS"},
		{"loopback endpoint, allowed", []string{"run", "--nats-url", "nats://10.255.0.1", "--allow-loopback", "--connect-timeout", "300ms", "--service", "user", "--endpoint", "http=127.0.0.1:80"}, 1, "cannot reach NATS"},
		{"subject, NATS elsewhere", []string{"run", "--nats-url", "nats://10.255.0.1", "--connect-timeout", "300ms", "--service", "user", "--endpoint", "nats=localhost"}, 1, "cannot reach NATS"},
		{"unknown protocol", []string{"run", "--service", "user", "--endpoint", "htp=h:80"}, 2, `--endpoint "htp`},
		{"endpoint twice", append([]string{"run", "--endpoint", "http=h:81"}, good...), 2, `--endpoint: "http" is given twice`},
		{"ttl", append([]string{"run", "--ttl", "1500ms"}, good...), 2, `--ttl "1.5s": want whole seconds`},
		{"ttl 0", append([]string{"run", "--ttl", "0s"}, good...), 2, `--ttl 0s: want whole seconds`},
		{"ttl text", append([]string{"run", "--ttl", "long"}, good...), 2, `--ttl: expected duration`},
		{"weight", append([]string{"run", "--weight", "-1"}, good...), 2, `--weight`},
		{"weight below 0", append([]string{"run", "--weight=-1"}, good...), 2, `--weight -1: want 0 to 10000`},
		{"drain", append([]string{"run", "--drain=-1s"}, good...), 2, `--drain -1s: want 0 or more`},
		{"check", append([]string{"run", "--check", "localhost:80"}, good...), 2, `--check "localhost:80": want http://`},
		{"check interval", append([]string{"run", "--check-interval", "0s"}, good...), 2, `--check-interval 0s: want more than 0`},
		{"load", append([]string{"run", "--load", "tcp://h:80"}, good...), 2, `--load "tcp://h:80": want http://host:port/path, https://… or none`},
		{"load without host", append([]string{"run", "--load", "/load"}, good...), 2, `--load "/load": want http://`},
		{"load with a bad port", append([]string{"run", "--load", "http://h:0/"}, good...), 2, `--load "http://h:0/": want a port of 1 to 65535`},
		{"load with a password", append([]string{"run", "--load", "http://u:secret@h:x/"}, good...), 2, `--load "…": want http://`},
		{"beat interval", append([]string{"run", "--beat-interval", "50ms"}, good...), 2, `--beat-interval 50ms: want 100ms or more`},
		{"beats that are old before the next", append([]string{"run", "--beat-interval", "16s"}, good...), 2, `--beat-interval 16s: want 15s or less`},
		{"zone", append([]string{"run", "--zone", "a b"}, good...), 2, `--zone "a b": want 1 to 63`},
		{"version", append([]string{"run", "--service-version", "\x01"}, good...), 2, `--service-version "\x01": want`},
		{"metadata", append([]string{"run", "--metadata", "a"}, good...), 2, `--metadata: "a": want key=value`},
		{"bucket", append([]string{"run", "--bucket", "a.b"}, good...), 2, `--bucket "a.b": want 1 to 63`},
		{"url", append([]string{"run", "--nats-url", "http://h"}, good...), 2, `--nats-url http://h: want nats://host:port`},
		{"url, with a command", append(append([]string{"run", "--nats-url", "http://h"}, good...), "--", "true"), 2, `--nats-url http://h: want nats://host:port`},
		{"admin", append([]string{"run", "--admin", "here"}, good...), 2, `--admin here: want host:port`},
		{"admin taken", append([]string{"run", "--admin", taken}, good...), 1, "address already in use"},
		{"nowhere", append([]string{"run", "--connect-timeout", "300ms", "--nats-url", nowhere}, good...), 1, "connection refused (start one, or set --nats-url)"},
		{"refused", append([]string{"run", "--nats-url", locked.ClientURL()}, good...), 1, "refuses this client"},
		{"no JetStream", append([]string{"run", "--nats-url", noJetStream.ClientURL()}, good...), 1, "JetStream"},
		{"empty command", append(append([]string{"run"}, good...), "--"), 2, "want a command after --"},
		{"command without a name", append(append([]string{"run"}, good...), "--", ""), 2, "want a command after --"},
		{"no such command", append(append([]string{"run", "--nats-url", nowhere}, good...), "--", "no-such-command"), 127, `"no-such-command": executable file not found`},
		{"no command at all", append(append([]string{"run", "--nats-url", nowhere}, good...), "--", "/etc"), 126, "/etc: permission denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := runToEnd(t, tt.args...)
			if p.code != tt.code {
				t.Errorf("exit code %d, want %d", p.code, tt.code)
			}
			lines := complaints(p.stderr)
			if len(lines) != 1 || !strings.HasPrefix(lines[0], "announcer: ") || !strings.Contains(lines[0], tt.want) {
				t.Errorf("stderr %q, want one line with %q", p.stderr, tt.want)
			}
			if p.stdout != "" {
				t.Errorf("stdout %q", p.stdout)
			}
		})
	}
}

func TestAProcessWithAWrongFlagEndsWithOneLineAndAnExitCode(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "run", "--bogus", "user")
	if code := p.Exit(); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	if got := p.Stderr.String(); !strings.HasPrefix(got, "announcer: unknown flag --bogus") || strings.Count(got, "\n") != 1 || p.Stdout.String() != "" {
		t.Errorf("stderr %q, stdout %q", got, p.Stdout)
	}
}

// complaints are the lines of standard error, without those of success: a
// server that is reached and then found wanting.
func complaints(stderr string) []string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if !strings.Contains(line, "level=INFO") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

func TestHelpAndVersionAreNoErrors(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-h"}, {"--help"}, {"run", "-h"}, {"file", "-h"}, {"--version"}} {
		p := runToEnd(t, args...)
		if p.code != 0 || p.stdout == "" || p.stderr != "" {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, p.code, p.stdout, p.stderr)
		}
	}
	p := runToEnd(t, "run", "-h")
	for _, flag := range []string{
		"service", "endpoint", "region", "zone", "rack", "host", "id", "ttl", "check", "drain", "metadata", "admin", "nats-url", "weight", "load", "beat-interval", "log-level",
	} {
		if want := "$PROXIMA_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_")); !strings.Contains(p.stdout, "--"+flag+"=") || !strings.Contains(p.stdout, want) {
			t.Errorf("help lacks --%s or %s", flag, want)
		}
	}
}

func TestFlagsAreReadFromTheEnvironment(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	start(t, []string{
		"PROXIMA_NATS_URL=" + r.url, "PROXIMA_SERVICE=user", "PROXIMA_ID=user-1", "PROXIMA_ENDPOINT=http=10.0.0.5:80,grpc=10.0.0.5:90",
		"PROXIMA_CHECK=none", "PROXIMA_ZONE=a", "PROXIMA_METADATA=x=1,y=2", "PROXIMA_TTL=",
	}, "run")
	in := r.await(events.Key{Service: "user", Zone: "a", ID: "user-1"}, events.Up)
	if got := fmt.Sprint(in.Endpoints, in.Metadata, in.TTL); got != "map[grpc:10.0.0.5:90 http:10.0.0.5:80] map[x:1 y:2] 15s" {
		t.Errorf("announced %s", got)
	}
}
