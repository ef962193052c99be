package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestAHangupDoesNotEndAnAnnouncerWithoutACommand(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := start(t, nil, "run", "--nats-url", r.url, "--service", "user", "--id", "u1", "--endpoint", "http=127.0.0.1:9", "--drain", "0s")
	p.registered()
	p.Signal(syscall.SIGHUP)
	p.logs("SIGHUP changes nothing")
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	r.awaitGone(events.Key{Service: "user", ID: "u1"})
	p.logs("stopping: not ready")
	p.logs("msg=stopped")
}

// The system tells of changes of files that it does not see, as on some network file
// systems: then only the signal makes the announcer read at once. Here the file is
// behind a symbolic link in another directory, which is not watched.
func TestAHangupHasTheAnnouncerReadItsFileAndTellSystemd(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	entry := func(id string) string {
		return fmt.Sprintf(`{"service":"user","id":%q,"endpoints":{"http":"127.0.0.1:9"},"drain":"0s"}`, id)
	}
	file, link := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "link")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("[" + entry("u1") + "]")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	path, heard := testkit.NotifySocket(t)
	p := start(t, []string{"NOTIFY_SOCKET=" + path}, "file", link, "--nats-url", r.url, "--poll", "1h")
	p.registered()
	heard.Await(t, "^READY=1$")
	heard.Await(t, "^STATUS=working$")

	write("[" + entry("u1") + "," + entry("u2") + "]")
	p.Signal(syscall.SIGHUP)
	r.await(events.Key{Service: "user", ID: "u2"}, events.Up)
	heard.Await(t, `^RELOADING=1\nMONOTONIC_USEC=\d+\nREADY=1$`)
	write("{")
	p.Signal(syscall.SIGHUP)
	p.logs("the file is invalid, the instances stay as they are")
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	heard.Await(t, `^STOPPING=1\nSTATUS=stopping$`)
	r.awaitGone(events.Key{Service: "user", ID: "u2"})
}

func TestTheThirdSignalEndsAnAnnouncerAtOnce(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	proxy := natstest.NewProxy(t, strings.TrimPrefix(r.url, "nats://"))
	p := start(t, nil, "run", "--nats-url", "nats://"+proxy.Addr(), "--service", "user", "--id", "u1", "--endpoint", "http=127.0.0.1:9", "--drain", "1h")
	p.registered()
	p.Signal(syscall.SIGTERM)
	p.logs("draining")
	proxy.Lose(natstest.Up | natstest.Down) // so that it cannot deregister
	p.Signal(syscall.SIGTERM)
	p.Signal(os.Interrupt)
	if code := p.Exit(); code != 1 {
		t.Errorf("exit code %d", code)
	}
}

// A command runs and is ready, as far as systemd is concerned, also while NATS is
// away. It gets no variables that are for the announcer.
func TestSystemdHearsOfAnAnnouncerAndNotOfItsCommand(t *testing.T) {
	t.Parallel()
	path, heard := testkit.NotifySocket(t)
	admin := testkit.FreeAddress(t)
	p := start(t, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=200000"},
		"run", "--nats-url", "nats://"+testkit.FreeAddress(t), "--service", "user", "--id", "u1", "--endpoint", "http=127.0.0.1:9", "--admin", admin, "--drain", "0s",
		"--", "sh", "-c", `echo "socket $NOTIFY_SOCKET, watchdog $WATCHDOG_USEC."; exec sleep 1000`)
	p.prints("socket , watchdog .")
	heard.Await(t, "^READY=1$")
	heard.Await(t, "^STATUS=1 of 1 not registered: user/u1: .*$")
	heard.Await(t, "^WATCHDOG=1$")
	resp, err := http.Get("http://" + admin + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("ready without NATS: %d", resp.StatusCode)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	heard.Await(t, `^STOPPING=1\nSTATUS=stopping$`)
}
