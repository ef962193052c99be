package refcount

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestItRunsWhileItHasUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Run
		began, running := 0, false
		run := func(ctx context.Context) {
			began, running = began+1, true
			<-ctx.Done()
			running = false
		}
		for want := 1; want <= 2; want++ {
			r.Join(run)
			r.Join(run)
			synctest.Wait()
			r.Leave()()
			if began != want || !running {
				t.Errorf("with one user left: begun %d times, running %t", began, running)
			}
			r.Leave()()
			if running {
				t.Error("it runs without users")
			}
		}
	})
}
