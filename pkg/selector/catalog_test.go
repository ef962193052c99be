package selector_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximatest"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func member(id string) events.Instance {
	return events.Instance{Service: "user", ID: id, Location: home}
}

func ids(s events.Snapshot) string {
	var all []string
	for _, e := range s.Entries {
		all = append(all, e.ID)
	}
	return strings.Join(all, " ")
}

func TestAWatchSeesEveryChangeThatItHasTimeFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := proximatest.New(t, member("a"))
		s := f.Selector(selector.Options{Location: home})
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan string, 10)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for snapshot := range s.Watch(ctx, "user") {
				got <- ids(snapshot)
				if len(snapshot.Entries) == 3 {
					time.Sleep(time.Minute) // it is slow: what changes meanwhile is one change
				}
			}
		}()
		synctest.Wait()
		f.Add(member("b"))
		synctest.Wait()
		f.Add(member("c"))
		synctest.Wait()
		f.Kill("user", "a")
		f.Kill("user", "b")
		time.Sleep(2 * time.Minute)
		f.Kill("user", "c")
		synctest.Wait()
		cancel()
		<-ended
		close(got)
		var all []string
		for ids := range got {
			all = append(all, ids)
		}
		if want := []string{"a", "a b", "a b c", "c", ""}; fmt.Sprint(all) != fmt.Sprint(want) {
			t.Errorf("saw %q, want %q", all, want)
		}
	})
}

func TestAWatchEndsWithItsLoopAndWithTheSelector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := proximatest.New(t, member("a"))
		s := f.Selector(selector.Options{Location: home})
		for range s.Watch(t.Context(), "user") {
			break
		}
		for range s.Watch(t.Context(), "not a name") {
			t.Error("a snapshot of what is no name")
		}
		seen := 0
		for range s.Watch(t.Context(), "user") {
			seen++
			_ = s.Close()
		}
		if seen != 1 {
			t.Errorf("%d snapshots", seen)
		}
	})
}

// A service without instances is forgotten when it is not asked for. One that is watched is.
func TestAWatchOfAServiceThatComesMuchLaterSeesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := proximatest.New(t)
		s := f.Selector(selector.Options{Location: home})
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Hour)
		defer cancel()
		time.AfterFunc(3*time.Hour, func() { f.Add(member("a")) })
		var all []string
		for snapshot := range s.Watch(ctx, "user") {
			all = append(all, ids(snapshot))
		}
		if len(all) != 2 || all[0] != "" || all[1] != "a" {
			t.Errorf("saw %q", all)
		}
	})
}

func TestInstancesAreTheOnesThatAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := proximatest.New(t, member("a"), member("b"))
		s := f.Selector(selector.Options{Location: home})
		list := func() (all []string) {
			for e := range s.Instances("user") {
				all = append(all, e.ID)
			}
			return all
		}
		if got := list(); len(got) != 0 {
			t.Errorf("%q before the first snapshot", got)
		}
		synctest.Wait()
		f.Fail("user", "a")
		if got := list(); fmt.Sprint(got) != "[a b]" {
			t.Errorf("%q are listed", got)
		}
		for range s.Instances("user") {
			break
		}
		for range s.Instances("not a name") {
			t.Error("an instance of what is no name")
		}
	})
}

func TestReadyWaitsForInstancesThatAreUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := proximatest.New(t, member("a"))
		s := f.Selector(selector.Options{Location: home})
		if err := s.Ready(t.Context(), "user", 1); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f.Add(member("b"))
		f.Fail("user", "b")
		err := s.Ready(ctx, "user", 2)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 of 2 instances of user are usable") {
			t.Errorf("got %v", err)
		}
		time.AfterFunc(time.Minute, func() { f.Recover("user", "b") })
		begin := time.Now()
		if err := s.Ready(t.Context(), "user", 2); err != nil || time.Since(begin) < time.Minute || time.Since(begin) > time.Minute+time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if err := s.Ready(t.Context(), "not a name", 1); err == nil {
			t.Error("what is no name is ready")
		}
	})
}
