package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// sockets are those that systemd has opened for this process, by name.
var sockets = sync.OnceValues(activation.ListenersWithNames)

// inherited returns the socket that systemd has opened for a flag, nil if there is none.
func inherited(name string) (net.Listener, error) {
	byName, err := sockets()
	if err != nil {
		return nil, fmt.Errorf("the sockets of systemd: %w", err)
	}
	if len(byName[name]) > 0 {
		return byName[name][0], nil
	}
	if len(byName) == 1 && name == "http" {
		for other, list := range byName {
			if len(list) == 1 && list[0] != nil && other != "admin" {
				return list[0], nil
			}
		}
	}
	return nil, nil
}

// Ready tells systemd that the program serves. With WatchdogSec= in its unit it also says
// so again and again, as long as alive returns in time, until ctx ends. Without systemd it
// does nothing.
func Ready(ctx context.Context, log *slog.Logger, alive func()) {
	notify(log, daemon.SdNotifyReady)
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return
	}
	go func() { // ends with ctx
		ticker := time.NewTicker(every / 2)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				alive() // if it hangs, systemd is not told
				notify(log, daemon.SdNotifyWatchdog)
			}
		}
	}()
}

// Stopping tells systemd that the program is about to end.
func Stopping(log *slog.Logger) { notify(log, daemon.SdNotifyStopping) }

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd cannot be told", "state", state, "error", err)
	}
}

// OnHangup calls f for each SIGHUP until stop is called. Without it the signal would end
// the program, and people send it to have files read again.
func OnHangup(f func()) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ended := make(chan struct{})
	go func() { // ends with stop
		for {
			select {
			case <-hangups:
				f()
			case <-ended:
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(ended)
	}
}
