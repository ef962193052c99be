package latency

import (
	"context"
	"log/slog"
	"net"
	"time"
)

const (
	// maxRTT is the longest round trip that is believed.
	maxRTT = 10 * time.Second
	// soon is the pause before a failed or doubted probe is repeated.
	soon = time.Second
	// recovery is the longest pause after failures: within it, and its
	// jitter, a path that works again is noticed.
	recovery = 25 * time.Second
	// step is the time between the first probes of paths that are new
	// together.
	step = 2 * time.Millisecond
	// quiet is the least pause between two calls of OnChange for one group.
	quiet = 100 * time.Millisecond
)

// Options of a [Prober]. The zero value is ready to use.
type Options struct {
	// Interval is the time between two probes of a path, ±20 %. Default 10s.
	Interval time.Duration
	// Timeout of one probe. Default 2s. A path whose distance is known gets
	// less: four times that and 250ms.
	Timeout time.Duration
	// Concurrency is how many probes may be in flight. Default 16.
	Concurrency int
	// MaxPaths is how many paths of a group are probed. Default 64.
	MaxPaths int
	// Fresh is how long a sample counts. Default 30s, or three Intervals if
	// that is longer.
	Fresh time.Duration
	// Window is the largest number of samples in the median. Default 5.
	Window int
	// Dial opens the connection that is timed. It must end with its context.
	// Default: a [net.Dialer]; a host name is then resolved before the clock
	// starts, so that the name server's distance is not taken for the
	// instance's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// OnChange is called after something about a path of the group changed
	// that may change the order of its instances: the estimate has another
	// source, or moved by more than 10 % and 0.2 ms, or the path's probes
	// began to fail, or to succeed again. The first change is told at once,
	// those of the next 100 ms together. Calls come one at a time with no
	// lock held; they may use the Prober, but not close it.
	// A group that has just ended may be named once more.
	OnChange func(group string)
	// Logger hears of paths that fail, at level debug. Default
	// [slog.Default].
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	orDefault(&o.Interval, 10*time.Second)
	orDefault(&o.Timeout, 2*time.Second)
	orDefault(&o.Concurrency, 16)
	orDefault(&o.MaxPaths, 64)
	orDefault(&o.Fresh, max(30*time.Second, 3*o.Interval))
	orDefault(&o.Window, 5)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// maxUnproven is how many probes in flight may be of paths that did not answer
// the last time.
func (o *Options) maxUnproven() int { return (o.Concurrency + 1) / 2 }

// timeout is how long a probe may take.
func (o *Options) timeout(measured time.Duration) time.Duration {
	if measured <= 0 {
		return o.Timeout
	}
	return min(4*measured+250*time.Millisecond, o.Timeout)
}

// retry is the pause after that many failures in a row.
func (o *Options) retry(failures int) time.Duration {
	longest := max(o.Interval, min(6*o.Interval, recovery))
	d := min(soon, o.Interval)
	for range failures - 1 {
		if d >= longest {
			break
		}
		d *= 2
	}
	return min(d, longest)
}
