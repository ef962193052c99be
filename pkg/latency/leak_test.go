package latency_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// A process may ask for any number of services in its life. Each leaves nothing behind,
// whether it had instances or not.
func TestClosedGroupsLeaveNothingBehind(t *testing.T) {
	const groups = 10_000
	synctest.Test(t, func(t *testing.T) {
		b, n := newBus(t), newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{}, latency.Caller{Bus: b, Location: zoneA})
		use := func(i int) {
			g := p.Group(fmt.Sprint("s", i), nil)
			_ = g.Share(t.Context())
			if i%10 == 0 {
				g.Set(members(p.Path(latency.Target{Address: address(0)})))
				time.Sleep(20 * time.Second)
				g.Set(nil)
			}
			g.Close()
		}
		use(0)
		synctest.Wait()
		before, goroutines := heap(), runtime.NumGoroutine()
		for i := range groups {
			use(i)
		}
		synctest.Wait()
		if got := b.subscriptions(); got > 0 {
			t.Errorf("%d subscriptions are left", got)
		}
		if got := runtime.NumGoroutine(); got > goroutines+5 { // those of the runtime and of other tests
			t.Errorf("%d goroutines, %d before", got, goroutines)
		}
		b.forget()
		n.dialled()
		if perGroup := (heap() - before) / groups; perGroup > 20 {
			t.Errorf("%d bytes a group are kept", perGroup)
		}
	})
}

func TestAGroupWithoutMembersPublishesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(t)
		p := start(t, newNetwork(time.Millisecond), latency.Options{}, latency.Caller{Bus: b, Location: zoneA})
		g := p.Group("user", nil)
		if err := g.Share(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got, _ := b.sent(); got > 0 {
			t.Errorf("%d messages of a group that never had members", got)
		}
		g.Set(members(p.Path(target(0))))
		time.Sleep(time.Minute)
		if got, _ := b.sent(); got == 0 {
			t.Error("nothing is shared when it has members")
		}
		g.Close()
	})
}

// forget forgets what was published and who listened.
func (b *bus) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last, b.listeners = make(map[string]message), make(map[string]map[*listener]bool)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
