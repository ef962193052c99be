package selector_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Many callers have a dead instance beside one that works. Each spends one call a minute on it in
// the end, and none while it answers no probe.
func TestTrialsOfManyCallersAreFew(t *testing.T) {
	const callers = 8
	for name, tt := range map[string]struct {
		err    error // nil: it hangs
		silent bool  // no probe is answered
	}{
		"it fails":                    {err: errors.New("status 500")},
		"it refuses":                  {err: errRefused},
		"it hangs":                    {},
		"it hangs and is unreachable": {silent: true},
		"it refuses probes too":       {err: errRefused, silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var dead atomic.Bool
				var tried, failed atomic.Int64
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				for range callers {
					o := selector.Options{}
					o.Latency.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
						if dead.Load() && tt.silent && address == "i0.example:80" {
							<-ctx.Done()
							return nil, ctx.Err()
						}
						time.Sleep(time.Millisecond)
						return connection{}, nil
					}
					w := start(t, o, instance("i0", home, endpoint(events.TCP, "i0.example:80")), instance("i1", home, endpoint(events.TCP, "i1.example:80")))
					running.Go(func() {
						for ctx.Err() == nil {
							w.open(time.Minute, 5, func() {
								call, cancel := context.WithTimeout(t.Context(), 5*time.Second)
								defer cancel()
								if w.Do(call, "user", func(ctx context.Context, in *events.Instance) error {
									switch {
									case !dead.Load() || in.ID != "i0":
										return serveFor(ctx, 20*time.Millisecond)
									case tt.err == nil:
										tried.Add(1)
										return serveFor(ctx, time.Hour)
									}
									tried.Add(1)
									return tt.err
								}) != nil {
									failed.Add(1)
								}
							})
						}
					})
				}
				time.Sleep(20 * time.Second)
				dead.Store(true)
				time.Sleep(4 * time.Minute) // the times that breakers are open have grown to a minute
				tried.Store(0)
				const minutes = 4
				time.Sleep(minutes * time.Minute)
				most := int64(callers * minutes * 13 / 10)
				if tt.silent {
					most = 0
				}
				if n := tried.Load(); n > most || failed.Load() > 0 {
					t.Errorf("%d calls of %d callers in %d minutes, want at most %d; %d failed", n, callers, minutes, most, failed.Load())
				}
				cancel()
				running.Wait()
			})
		})
	}
}
