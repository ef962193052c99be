//go:build faults && linux

package lifecycle

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// The announcer of an instance that runs beside it is killed. The instance goes
// on, and is called until its lease ends: then it is no longer listed, though it
// lives. An announcer that is started again lists it again.
func TestAnAnnouncerIsKilledAndItsInstanceLives(t *testing.T) {
	t.Parallel()
	// Long enough that the second one's lease does not end before it is taken over.
	const ttl, longer = 3 * time.Second, 9 * time.Second
	f := newFleet(t, 5*time.Second)
	ttls := map[string]string{"user-1": ttl.String(), "user-2": longer.String(), "user-3": longer.String()}
	ids := []string{"user-1", "user-2", "user-3"}
	var addresses []string
	var announcers []*testkit.Process
	for i, id := range ids {
		addresses = append(addresses, address(t, 20+i))
		service(t, addresses[i])
		announcers = append(announcers, f.announce(id, addresses[i], "--ttl", ttls[id]))
	}
	lives := make(map[string]string)
	for _, id := range ids {
		_, lives[id] = f.up(id, "")
	}
	calls := begin(t, 100, f.call)

	// Started again after its lease has ended.
	began := time.Now()
	announcers[0].Signal(syscall.SIGKILL)
	testkit.Eventually(t, "its lease to end", func() bool { _, listed := f.find("user-1"); return !listed })
	gone := time.Since(began)
	if gone < ttl/4 || gone > ttl+5*time.Second {
		t.Errorf("no longer listed after %v, want about %v", gone, ttl)
	}
	time.Sleep(200 * time.Millisecond)
	began = time.Now()
	f.announce("user-1", addresses[0], "--ttl", ttl.String())
	took, _ := f.up("user-1", lives["user-1"])
	t.Logf("killed, and started again after its lease had ended (%v): listed again after %v", gone.Round(time.Millisecond), took.Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("listed again after %v, want less than a second", took)
	}
	calls.answers(t, "user-1", 1, began)

	// Started again at once: the old record stands until it is taken over.
	announcers[1].Signal(syscall.SIGKILL)
	announcers[1].Exit()
	f.announce("user-2", addresses[1], "--ttl", longer.String())
	took, _ = f.up("user-2", lives["user-2"])
	t.Logf("killed, and started again at once: taken over after %v", took.Round(time.Millisecond))
	if took > longer {
		t.Errorf("taken over after %v, want less than half of %v", took, longer)
	}
	time.Sleep(longer + time.Second - took) // the lease of the old life would have ended by now
	if f.vanished("user-2") {
		t.Error("it was not listed for a while, though it was taken over in time")
	}
	if retries := calls.check(t, "all the time"); retries > 3 {
		t.Errorf("%d retries, want none: all instances live", retries)
	}
}

// The announcer that wraps an instance is killed: the instance goes on by itself.
func TestAnAnnouncerIsKilledAndWhatItWrapsLives(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	f := newFleet(t, 5*time.Second)
	at, other := address(t, 30), address(t, 31)
	service(t, other)
	f.announce("other", other, "--ttl", ttl.String())
	announcer := f.wrap("user", at, "--ttl", ttl.String())
	f.up("other", "")
	_, life := f.up("user", "")
	pid := pidAt(at)
	if pid == 0 || pid == announcer.PID() {
		t.Fatalf("process %d serves", pid)
	}
	calls := begin(t, 100, f.call)
	announcer.Signal(syscall.SIGKILL)
	announcer.Exit()
	testkit.Eventually(t, "its lease to end", func() bool { _, listed := f.find("user"); return !listed })
	if now := pidAt(at); now != pid {
		t.Fatalf("process %d serves, want %d as before: it was only wrapped", now, pid)
	}
	began := time.Now()
	f.announce("user", at, "--ttl", ttl.String()) // beside it
	took, _ := f.up("user", life)
	t.Logf("listed again %v after an announcer was started beside it", took.Round(time.Millisecond))
	calls.answers(t, "user", 1, began)
	calls.check(t, "all the time")
}

// An instance hangs: it accepts connections and says nothing.
func TestAHungInstanceIsLeftAndComesBack(t *testing.T) {
	for name, args := range map[string][]string{
		"its announcer's check fails":        {"--check-interval", "500ms"},
		"without a check, callers notice it": {"--check", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const perAttempt = time.Second // the other one answers in time, however busy the machine is
			checks := args[0] != "--check"
			f := newFleet(t, perAttempt)
			at, other := address(t, 40), address(t, 41)
			hangs := service(t, at)
			service(t, other)
			if checks {
				args = append(args, "--check", "http://"+at+"/healthz")
			}
			f.announce("hangs", at, args...)
			f.announce("other", other)
			f.up("hangs", "")
			f.up("other", "")
			calls := begin(t, 200, f.read)
			calls.answers(t, "hangs", 5, time.Time{})

			began := time.Now()
			hangs.Signal(syscall.SIGSTOP)
			if checks {
				took := testkit.Eventually(t, "it to be not_ready", func() bool { e, ok := f.find("hangs"); return ok && e.Status == "not_ready" })
				t.Logf("not_ready after %v", took.Round(time.Millisecond))
			}
			time.Sleep(3 * time.Second)
			t.Logf("%d attempts in vain in %v, the last ended after %v", calls.count(calls.inVain, "hangs", began),
				time.Since(began).Round(time.Second), calls.last(calls.inVain, "hangs", began).Round(time.Millisecond))
			resumed := time.Now()
			hangs.Signal(syscall.SIGCONT)
			calls.answers(t, "hangs", 1, resumed)
			back := time.Since(resumed)
			t.Logf("called again %v after it has resumed", back.Round(time.Millisecond))
			if back > 15*time.Second {
				t.Errorf("called again after %v, want 5s", back)
			}
			f.up("hangs", "")
			vain := calls.count(calls.inVain, "hangs", began)
			retries := calls.check(t, "all the time")
			// A hundred calls a second were its share; half a second of them, and the trials.
			if all := vain + calls.count(calls.inVain, "other", began); vain > 200 || retries > all {
				t.Errorf("%d attempts in vain, %d of them of the one that hangs; %d retries", all, vain, retries)
			}
			if late := calls.longerThan(3 * perAttempt); late > 3 {
				t.Errorf("%d calls took longer than three attempts", late)
			}
		})
	}
}

// An instance is killed under 1,000 calls a second.
func TestAKilledInstanceCostsAttemptsAndNoCall(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5*time.Second)
	var dies *testkit.Process
	for i, id := range []string{"dies", "user-2", "user-3"} {
		at := address(t, 50+i)
		p := service(t, at)
		if i == 0 {
			dies = p
		}
		f.announce(id, at)
	}
	for _, id := range []string{"dies", "user-2", "user-3"} {
		f.up(id, "")
	}
	calls := begin(t, 1000, f.read)
	calls.answers(t, "dies", 30, time.Time{})
	inFlight := f.inFlight("dies")
	killed := time.Now()
	dies.Signal(syscall.SIGKILL)
	time.Sleep(2 * time.Second)
	vain := calls.count(calls.inVain, "dies", killed)
	t.Logf("%d attempts in vain, about %d were in flight; the last after %v", vain, inFlight, calls.last(calls.inVain, "dies", killed).Round(time.Millisecond))
	if retries := calls.check(t, "all the time"); retries > 100 || vain > 100 {
		t.Errorf("%d retries, %d attempts in vain, want few more than were in flight", retries, vain)
	}
}

// A router dies in the middle of a call: the caller gets no answer, or an error,
// never two answers, and the call was executed once.
func TestARouterDiesInTheMiddleOfACall(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5*time.Second)
	at := address(t, 60)
	slow := service(t, at)
	f.announce("slow", at)
	f.up("slow", "")
	first, door := f.router()
	nc, err := nats.Connect(f.url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	replies, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(wait string) {
		t.Helper()
		if err := nc.PublishMsg(&nats.Msg{
			Subject: "proxima.route.user", Reply: replies.Subject, Header: nats.Header{"Proxima-Method": {"POST"}, "Proxima-Path": {"/?wait=" + wait}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	ask("1500")
	var proxied error
	var end sync.WaitGroup
	end.Go(func() {
		_, proxied = get(t.Context(), http.DefaultClient, http.MethodPost, door+"/proxy/user/?wait=1500")
	})
	testkit.Eventually(t, "both calls to be made", func() bool { return strings.Count(slow.Stdout.String(), "POST waits 1500") == 2 })
	first.Signal(syscall.SIGKILL)
	end.Wait()
	if proxied == nil {
		t.Error("the HTTP call was answered by a router that is dead")
	}
	f.router()
	ask("0")
	msg, err := replies.NextMsg(testkit.Patience)
	if err != nil {
		t.Fatalf("no answer by the other router: %v", err)
	}
	if code := msg.Header.Get("Nats-Service-Error-Code"); code != "" {
		t.Errorf("the other router answers %s", code)
	}
	if msg, err := replies.NextMsg(2 * time.Second); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("one answer more, %q, %v", msg.Data, err)
	}
	if got := strings.Count(slow.Stdout.String(), "POST waits"); got != 3 {
		t.Errorf("%d calls were executed, want 3:\n%s", got, slow.Stdout)
	}
}
