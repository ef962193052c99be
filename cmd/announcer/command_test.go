package main

import (
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// ready waits until the command has started, and returns its process id.
func (p process) ready() int {
	p.t.Helper()
	pid, err := strconv.Atoi(p.prints(`ready (\d+)`))
	if err != nil {
		p.t.Fatal(err)
	}
	return pid
}

func TestTheCommandIsListedOnceItListens(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	backend := newPort(t)
	address := backend.addr
	backend.release()
	seen := r.watch(user1)
	p := start(t, nil, append(announce(r.url, address, "--drain", "1s"), wrapped("polite", address)...)...)
	p.ready()
	r.await(user1, events.Up)
	p.registered()
	p.logs("(?m)^ready too$") // standard error goes straight through, too
	p.Signal(syscall.SIGTERM)
	p.prints("got terminated")
	if in := r.find(user1); in != nil {
		t.Errorf("got its signal while listed as %s", in.Status)
	}
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	testkit.Eventually(t, "the whole history", func() bool { return seen.String() == "absent up draining absent" })
}

func TestTheCommandServesWhileItIsDraining(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	backend := newPort(t)
	address := backend.addr
	backend.release()
	p := start(t, nil, append(announce(r.url, address, "--drain", "2s"), wrapped("polite", address)...)...)
	r.await(user1, events.Up)
	p.registered()
	call, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer call.Close() // it lasts longer than the draining
	began := time.Now()
	p.Signal(syscall.SIGTERM)
	for r.await(user1, events.Draining); r.find(user1) != nil; time.Sleep(5 * time.Millisecond) { // a call every 5 ms
		conn, err := net.Dial("tcp", address)
		if err != nil {
			if r.find(user1) == nil {
				break // it left since it was looked for
			}
			t.Fatalf("listed, and %v", err)
		}
		conn.Close()
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("drained for %v only", took)
	}
	p.Exit()
}

func TestTheExitCodeIsThatOfTheCommand(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for _, tt := range []struct {
		name    string
		command []string
		code    int
	}{
		{"0", []string{"exit", "0"}, 0},
		{"7", []string{"exit", "7"}, 7},
		{"killed", []string{"die", "9"}, 128 + 9},
		{"terminated from outside", []string{"die", "15"}, 128 + 15},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, nil, append(announce(r.url, deadAddress(t), "--drain", "1m"), wrapped(tt.command...)...)...)
			if code := p.Exit(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
		})
	}
}

func TestACommandThatEndsByItselfIsDeregisteredAtOnce(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := start(t, nil, append(announce(r.url, deadAddress(t), "--check", "none", "--drain", "1m"), wrapped("signals")...)...)
	pid := p.ready()
	r.await(user1, events.Up)
	p.registered()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} { // the second ends it; the announcer gets none
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
		p.prints("got " + s.String())
	}
	if code := p.Exit(); code != 9 {
		t.Errorf("exit code %d", code)
	}
	if in := r.find(user1); in != nil {
		t.Errorf("still listed as %s", in.Status)
	}
}

func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := start(t, nil, append(announce(r.url, deadAddress(t), "--check", "none"), wrapped("signals")...)...)
	p.ready()
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT} {
		p.Signal(s)
		p.prints("got " + s.String())
	}
	r.await(user1, events.Up) // none of them ends it
	p.Signal(syscall.SIGINT)
	p.prints("got interrupt")
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 9 {
		t.Errorf("exit code %d", code)
	}
	if got := p.Stdout.String(); !strings.HasSuffix(got, "got interrupt\ngot terminated\n") {
		t.Errorf("stdout %q", got)
	}
}

func TestASecondSignalHurries(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := start(t, nil, append(announce(r.url, deadAddress(t), "--check", "none", "--drain", "1m"), wrapped("signals")...)...)
	p.ready()
	r.await(user1, events.Up)
	p.registered()
	p.Signal(syscall.SIGTERM)
	r.await(user1, events.Draining)
	if strings.Contains(p.Stdout.String(), "got") {
		t.Errorf("stdout %q", p.Stdout)
	}
	p.Signal(syscall.SIGINT)
	p.prints("got interrupt")
	p.logs("msg=deregistered")
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 9 {
		t.Errorf("exit code %d", code)
	}
	if got := p.Stdout.String(); !strings.HasSuffix(got, "\ngot interrupt\ngot terminated\n") || strings.Count(got, "got") != 2 {
		t.Errorf("stdout %q: the first signal must not be passed on too", got)
	}
	if in := r.find(user1); in != nil {
		t.Errorf("still listed as %s", in.Status)
	}
}

func TestASecondSignalHurriesWithoutACommand(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := start(t, nil, announce(r.url, deadAddress(t), "--check", "none", "--drain", "1m")...)
	r.await(user1, events.Up)
	p.registered()
	p.Signal(syscall.SIGTERM)
	r.await(user1, events.Draining)
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if in := r.find(user1); in != nil {
		t.Errorf("still listed as %s", in.Status)
	}
}

func TestACommandThatDiesOfThePassedSignalHasNotFailed(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := start(t, nil, append(announce(r.url, deadAddress(t), "--check", "none"), "--", "sleep", "100")...)
	r.await(user1, events.Up)
	p.registered()
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p = start(t, nil, append(announce(r.url, deadAddress(t), "--check", "none", "--drain", "1m"), "--", "sleep", "100")...)
	r.await(user1, events.Up)
	p.registered()
	p.Signal(syscall.SIGTERM)
	r.await(user1, events.Draining)
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 128+15 {
		t.Errorf("hurried: exit code %d", code)
	}
}

func TestTheCommandRunsWithoutNATS(t *testing.T) {
	t.Parallel()
	for name, adjust := range map[string]func(*server.Options){
		"nowhere":      nil,
		"refused":      func(o *server.Options) { o.Username, o.Password = "a", "b" },
		"no JetStream": func(o *server.Options) { o.JetStream = false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := "nats://" + deadAddress(t)
			if adjust != nil {
				url = natstest.Start(t, natstest.Listen, adjust).ClientURL()
			}
			p := start(t, nil, append(announce(url, deadAddress(t), "--check", "none", "--admin", "127.0.0.1:0"), wrapped("signals")...)...)
			p.ready()
			admin := "http://" + p.logs(`msg="serving health and metrics" address=(\S+)`)
			testkit.Eventually(t, "a reason why it is not ready", func() bool {
				code, body := get(t, admin+"/readyz")
				return code == 503 && strings.Contains(body, "reason")
			})
			p.logs("cannot (reach NATS|announce), retrying")
			began := time.Now()
			p.Signal(syscall.SIGTERM)
			p.prints("got terminated")
			p.Signal(syscall.SIGTERM)
			if code := p.Exit(); code != 9 {
				t.Errorf("exit code %d", code)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestTheCommandIsListedWhenNATSComesLater(t *testing.T) {
	t.Parallel()
	later := newPort(t)
	url := "nats://" + later.addr
	p := start(t, nil, append(announce(url, deadAddress(t), "--check", "none"), wrapped("signals")...)...)
	p.ready()
	p.logs("cannot reach NATS, retrying")
	later.release()
	ns := natstest.Start(t, natstest.ListenAt(url))
	r := &registry{t: t, kv: openRegistry(t, ns)}
	r.await(user1, events.Up)
	p.logs("msg=registered")
}
