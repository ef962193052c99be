package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// write replaces a file by renaming.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// list is the text of a file with instances that need no check.
func list(entries ...string) string { return "[" + strings.Join(entries, ",\n") + "]" }

func item(id, more string) string {
	return fmt.Sprintf(`{"service":"user","id":%q,"endpoints":{"http":"10.0.0.5:80"},"ttl":"2s","check":"none","drain":"100ms"%s}`, id, more)
}

func key(id string) events.Key { return events.Key{Service: "user", Zone: "a", ID: id} }

// startFile runs the announcer on a file with that text.
func startFile(t *testing.T, r *registry, text string, more ...string) (p process, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "instances.json")
	write(t, path, text)
	return start(t, nil, append([]string{"file", path, "--nats-url", r.url, "--zone", "a", "--check-interval", "50ms", "--poll", "1h"}, more...)...), path
}

func TestTheRegistryFollowsTheFile(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p, path := startFile(t, r, list(item("one", ""), item("two", ""), item("three", `,"location":{"zone":"b"}`)), "--admin", "127.0.0.1:0")
	one, two := r.await(key("one"), events.Up), r.await(key("two"), events.Up)
	r.await(events.Key{Service: "user", Zone: "b", ID: "three"}, events.Up)
	admin := "http://" + p.logs(`msg="serving health and metrics" address=(\S+)`)
	testkit.Eventually(t, "the announcer to be ready", func() bool { code, _ := get(t, admin+"/readyz"); return code == 200 })

	// One changes, two goes, four comes.
	p.logs("msg=registered service=user instance=two")
	seen := r.watch(key("two"))
	write(t, path, list(
		item("one", `,"weight":7,"metadata":{"team":"a"},"location":{"rack":"r1"}`),
		item("three", `,"location":{"zone":"b"}`), item("four", "")))
	r.await(key("four"), events.Up)
	r.awaitGone(key("two"))
	testkit.Eventually(t, "the change of one", func() bool { return r.find(key("one")).Weight == 7 })
	now := r.find(key("one"))
	if now.Incarnation != one.Incarnation || !now.Started.Equal(one.Started) || now.Metadata["team"] != "a" || now.Location.Rack != "r1" {
		t.Errorf("one is %+v, was %+v", now, one)
	}
	testkit.Eventually(t, "two to drain", func() bool { return seen.String() == "up draining absent" })

	// Two comes back, three moves, four's lease gets longer.
	write(t, path, list(item("one", ""), item("two", ""), item("three", ""), strings.Replace(item("four", ""), `"ttl":"2s"`, `"ttl":"3s"`, 1)))
	if again := r.await(key("two"), events.Up); again.Incarnation == two.Incarnation {
		t.Error("two came back as the same incarnation")
	}
	r.await(key("three"), events.Up)
	r.awaitGone(events.Key{Service: "user", Zone: "b", ID: "three"})
	testkit.Eventually(t, "four's new lease", func() bool { in := r.find(key("four")); return in != nil && in.TTL == 3*time.Second })

	// No instance was lost.
	testkit.Eventually(t, "all to be ready", func() bool { code, _ := get(t, admin+"/readyz"); return code == 200 })
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	snapshots, err := r.kv.Snapshot(t.Context(), "")
	if err != nil || len(snapshots) != 0 {
		t.Errorf("still listed: %v, error %v", snapshots, err)
	}
}

func TestABadFileChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p, path := startFile(t, r, list(item("one", "")))
	r.await(key("one"), events.Up)
	for _, tt := range []struct{ text, want string }{
		{"[", "line 1: unexpected end"},
		{list(item("two", ""), item("a b", "")), `entry 2: id .*a b`},
		{list(item("two", ""), item("two", "")), `entry 2: id .*two.*: entry 1 of service user has it already`},
	} {
		write(t, path, tt.text)
		p.logs(`level=ERROR msg="the file is invalid, the instances stay as they are" .*` + tt.want)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	p.logs("the file is invalid.*no such file")
	if r.find(key("one")) == nil || r.find(key("two")) != nil {
		t.Errorf("one is %v, two is %v", r.find(key("one")), r.find(key("two")))
	}
	write(t, path, list(item("two", "")))
	r.await(key("two"), events.Up)
	confirm(t, p, path)
	r.awaitGone(key("one"))
	write(t, path, "[]")
	confirm(t, p, path)
	r.awaitGone(key("two"))
}

// confirm writes the file again, after it has lost most of its instances.
func confirm(t *testing.T, p process, path string) {
	t.Helper()
	p.logs("the file has lost most of its instances at once.*")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // a second writing in haste is none
	write(t, path, string(data))
	p.logs("the file has confirmed its list.*")
}

func TestAConfigMapIsFollowed(t *testing.T) {
	t.Parallel()
	// As a kubelet does it: the file is a link through ..data, which is
	// replaced as a whole.
	r := newRegistry(t)
	dir := t.TempDir()
	publish := func(version, text string) {
		t.Helper()
		data := filepath.Join(dir, "..data")
		for _, err := range []error{
			os.Mkdir(filepath.Join(dir, version), 0o700),
			os.WriteFile(filepath.Join(dir, version, "instances.json"), []byte(text), 0o600),
			os.Symlink(version, data+"_tmp"),
			os.Rename(data+"_tmp", data),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	publish("..1", list(item("one", "")))
	path := filepath.Join(dir, "instances.json")
	if err := os.Symlink(filepath.Join("..data", "instances.json"), path); err != nil {
		t.Fatal(err)
	}
	start(t, nil, "file", path, "--nats-url", r.url, "--zone", "a", "--poll", "1h", "--allow-empty")
	r.await(key("one"), events.Up)
	publish("..2", list(item("two", "")))
	r.await(key("two"), events.Up)
	r.awaitGone(key("one"))
}

// The system reports no change in a directory that was renamed, even when it is back.
func TestSIGHUPHasAReplacedDirectoryWatched(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	dir := filepath.Join(t.TempDir(), "config")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "instances.json")
	write(t, path, list(item("one", "")))
	p := start(t, nil, "file", path, "--nats-url", r.url, "--zone", "a", "--poll", "1h")
	r.await(key("one"), events.Up)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	p.logs("the file is invalid")
	if err := os.Rename(dir+".old", dir); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGHUP)
	p.logs("the file has changed")
	write(t, path, list(item("one", ""), item("two", "")))
	r.await(key("two"), events.Up)
}

func TestAPollFindsAChangeThatTheSystemDoesNotReport(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "instances.json")
	write(t, elsewhere, list(item("one", "")))
	path := filepath.Join(dir, "instances.json")
	if err := os.Symlink(elsewhere, path); err != nil {
		t.Fatal(err)
	}
	start(t, nil, "file", path, "--nats-url", r.url, "--zone", "a", "--poll", "100ms")
	r.await(key("one"), events.Up)
	write(t, elsewhere, list(item("one", ""), item("two", ""))) // in a directory that is not watched
	r.await(key("two"), events.Up)
}

func TestTheCheckOfAnEntryMayChange(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	backend := newHTTPServer(t)
	backend.answer(503)
	with := func(check string) string {
		return list(fmt.Sprintf(`{"service":"user","id":"one","endpoints":{"http":%q},"check":%q}`, backend.Addr(), check))
	}
	p, path := startFile(t, r, with("http://"+backend.Addr().String()+"/healthz"))
	p.logs("waiting for the check to pass.*503")
	write(t, path, with("none"))
	before := r.await(key("one"), events.Up)
	write(t, path, with("http://"+backend.Addr().String()+"/healthz"))
	r.await(key("one"), events.NotReady)
	write(t, path, with(""))
	if now := r.await(key("one"), events.Up); now.Incarnation != before.Incarnation {
		t.Error("a new incarnation after a change of the check")
	}
}

func TestTheDrainOfAnEntryMayChange(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	long := strings.Replace(item("one", ""), "100ms", "1m", 1)
	p, path := startFile(t, r, list(long))
	r.await(key("one"), events.Up)
	write(t, path, list(item("one", `,"weight":2`)))
	testkit.Eventually(t, "the change", func() bool { return r.find(key("one")).Weight == 2 })
	write(t, path, "[]")
	confirm(t, p, path)
	r.awaitGone(key("one"))
}

func TestASecondSignalHurriesAFile(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p, _ := startFile(t, r, list(strings.Replace(item("one", ""), "100ms", "1m", 1)))
	r.await(key("one"), events.Up)
	p.registered()
	p.Signal(syscall.SIGTERM)
	r.await(key("one"), events.Draining)
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if in := r.find(key("one")); in != nil {
		t.Errorf("still listed as %s", in.Status)
	}
}

func TestAFileThatCannotBeUsedAtTheStartIsOneLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.json")
	write(t, bad, list(item("one", ""), `{"service":"user","id":"two"}`))
	loop := filepath.Join(dir, "loop.json")
	write(t, loop, list(item("one", ""), strings.Replace(item("two", ""), "10.0.0.5", "localhost", 1)))
	good := filepath.Join(dir, "good.json")
	write(t, good, list(item("one", "")))
	nowhere := "nats://" + deadAddress(t)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"none", nil, 2, `expected "<file>"`},
		{"missing", []string{filepath.Join(dir, "missing.json")}, 2, "missing.json: no such file"},
		{"directory", []string{dir}, 2, "is a directory"},
		{"bad entry", []string{bad}, 2, bad + `: entry 2: endpoints "": want at least one`},
		{"loopback, NATS elsewhere", []string{loop, "--nats-url", "nats://10.255.0.1"}, 2, loop + `: entry 2: endpoints.http "localhost:80": callers on other machines cannot reach it`},
		{"loopback, allowed", []string{loop, "--nats-url", "nats://10.255.0.1", "--allow-loopback", "--connect-timeout=300ms"}, 1, "cannot reach NATS"},
		{"loopback, NATS here", []string{loop, "--connect-timeout=300ms", "--nats-url", nowhere}, 1, "cannot reach NATS"},
		{"drain", []string{good, "--drain=-1s"}, 2, "--drain -1s: want 0 or more"},
		{"poll", []string{good, "--poll=0s"}, 2, "--poll 0s: want more than 0"},
		{"zone", []string{good, "--zone=a b"}, 2, `--zone "a b": want`},
		{"no server", []string{good, "--connect-timeout=300ms", "--nats-url", nowhere}, 1, "cannot reach NATS at " + nowhere},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := runToEnd(t, append([]string{"file"}, tt.args...)...)
			if p.code != tt.code {
				t.Errorf("exit code %d, want %d", p.code, tt.code)
			}
			lines := complaints(p.stderr)
			if len(lines) != 1 || !strings.HasPrefix(lines[0], "announcer: ") || !strings.Contains(lines[0], tt.want) {
				t.Errorf("stderr %q, want one line with %q", p.stderr, tt.want)
			}
		})
	}
}

func TestAnInstanceThatMovesIsListedAllTheTime(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	backend := newHTTPServer(t) // what the check asks after a move
	with := func(ttl, zone string) string {
		check := "none"
		if zone != "a" {
			check = "http://" + backend.Addr().String() + "/"
		}
		return list(fmt.Sprintf(`{"service":"user","id":"one","endpoints":{"http":"10.0.0.5:80"},"ttl":%q,"location":{"zone":%q},"drain":"1m","check":%q}`, ttl, zone, check))
	}
	in := func(zone string) events.Key { return events.Key{Service: "user", Zone: zone, ID: "one"} }
	p, path := startFile(t, r, with("2s", "a"), "--admin", "127.0.0.1:0")
	first := r.await(in("a"), events.Up)
	always := r.always("user")
	admin := "http://" + p.logs(`msg="serving health and metrics" address=(\S+)`)

	// Another ttl is the same announcement.
	write(t, path, with("3s", "a"))
	testkit.Eventually(t, "the new lease", func() bool { in := r.find(in("a")); return in.TTL == 3*time.Second })
	if now := r.find(in("a")); now.Incarnation != first.Incarnation {
		t.Error("another incarnation after a change of the ttl")
	}

	// It stays where it is until it may be listed elsewhere.
	backend.answer(503)
	write(t, path, with("3s", "b"))
	p.logs(`msg="the instance moves: it stays where it is until it is registered there" service=user instance=one from=_/a to=_/b`)
	p.logs(`waiting for the check to pass.*location=_/b.*503`)
	if r.find(in("a")) == nil || r.find(in("b")) != nil {
		t.Errorf("moved before the check passed")
	}
	if code, body := get(t, admin+"/readyz"); code != 503 || !strings.Contains(body, "1 of 2 not registered: user/one: checking") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	// It changes its mind twice, and the last word counts.
	write(t, path, with("3s", "c"))
	p.logs(`waiting for the check to pass.*location=_/c.*503`)
	write(t, path, with("3s", "d"))
	p.logs(`waiting for the check to pass.*location=_/d.*503`)
	backend.answer(200)
	r.await(in("d"), events.Up)
	r.awaitGone(in("a"))
	testkit.Eventually(t, "all to be ready", func() bool { code, _ := get(t, admin+"/readyz"); return code == 200 })
	if _, metrics := get(t, admin+"/metrics"); !strings.Contains(metrics, `proxima_announcer_registered{instance="one",`) || strings.Contains(metrics, `phase="left"`) {
		t.Errorf("it is not in the metrics, or has left:\n%s", metrics)
	}
	if !always() {
		t.Error("there was a moment without an instance")
	}

	// Back, and away when the check fails for everything.
	write(t, path, with("3s", "a"))
	r.await(in("a"), events.Up)
	r.awaitGone(in("d"))
	backend.answer(503)
	write(t, path, with("3s", "e"))
	p.logs(`waiting for the check to pass.*location=_/e.*503`)
	p.Signal(syscall.SIGTERM)
	r.await(in("a"), events.Draining)
	p.Signal(syscall.SIGTERM)
	p.Exit()
	if r.find(in("a")) != nil || r.find(in("e")) != nil {
		t.Error("still listed")
	}
}

func TestAFileThatLosesAllIsHeld(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	all := list(item("one", ""), item("two", ""), item("three", ""))
	p, path := startFile(t, r, all, "--admin", "127.0.0.1:0", "--poll", "50ms")
	for _, id := range []string{"one", "two", "three"} {
		r.await(key(id), events.Up)
	}
	admin := "http://" + p.logs(`msg="serving health and metrics" address=(\S+)`)
	shows := func(what, ready, metrics string) {
		t.Helper()
		testkit.Eventually(t, what, func() bool {
			code, body := get(t, admin+"/readyz")
			_, counts := get(t, admin+"/metrics")
			return code == 200 && strings.Contains(body, ready) && strings.Contains(counts, metrics)
		})
	}
	shows("three instances", `"source":{"kind":"file","instances":3,"held":0,"refused":0,`, `proxima_source_instances{source="file"} 3`)
	for _, odd := range []string{"null", "{}", "7", `"x"`, "", "[{", "[null]", "[[]]", "\x00"} {
		write(t, path, odd)
		p.logs(`the file is invalid, the instances stay as they are`)
		shows("a refusal of "+odd, `"instances":3,"held":0,"refused":`, "proxima_source_refused_total{")
		shows("the reason of it", `"error":"`, "")
		write(t, path, all)
		testkit.Eventually(t, "the good file", func() bool {
			_, body := get(t, admin+"/readyz")
			return !strings.Contains(body, `"error"`)
		})
	}
	write(t, path, "[]")
	shows("the doubt", `"instances":3,"held":3,`, "proxima_source_held_instances{")
	time.Sleep(1500 * time.Millisecond) // polls that find nothing new confirm nothing
	for _, id := range []string{"one", "two", "three"} {
		if in := r.find(key(id)); in == nil || in.Status != events.Up {
			t.Errorf("%s is %v", id, in)
		}
	}
	write(t, path, all)
	shows("the end of the doubt", `"instances":3,"held":0,`, "")
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestAnnouncersTakeTurnsWithoutAGap(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	items := strings.ReplaceAll(list(item("one", ""), item("two", "")), `"ttl":"2s"`, `"ttl":"6s"`)
	p, path := startFile(t, r, items, "--leave-listed")
	first := r.await(key("one"), events.Up)
	r.await(key("two"), events.Up)
	p.registered()
	always := r.always("user")
	p.Signal(syscall.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.logs(`msg="left listed until its lease ends" service=user instance=one`)
	time.Sleep(2 * time.Second) // while no announcer runs
	start(t, nil, "file", path, "--nats-url", r.url, "--zone", "a", "--check-interval", "50ms", "--leave-listed")
	testkit.Within(t, 20*time.Second, "the next announcer's records", func() bool {
		in := r.find(key("one"))
		return in != nil && in.Incarnation != first.Incarnation
	})
	if !always() {
		t.Error("there was a moment without an instance")
	}
}
