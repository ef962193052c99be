package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// Manager tells the service manager that has started the process, which is systemd,
// how the process is. Nil, for a process that no such manager has started, is ready
// to use too.
type Manager struct {
	log      *slog.Logger
	watchdog time.Duration // 0: off
	ready    sync.Once
	failed   sync.Once
	started  chan struct{} // closed after READY=1
}

// Manager returns nil when no service manager wants to know.
func (p *Process) Manager(log *slog.Logger) *Manager {
	if p.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	m := &Manager{log: log, started: make(chan struct{})}
	var err error
	if m.watchdog, err = systemd.SdWatchdogEnabled(false); err != nil {
		log.Warn("cannot serve the watchdog of systemd", "error", err)
	}
	return m
}

// send sends lines of the protocol of sd_notify.
func (m *Manager) send(lines ...string) {
	if _, err := systemd.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		m.failed.Do(func() { m.log.Warn("cannot send the state of this process to systemd", "error", err) })
	}
}

// Ready says that the program has started. Later calls do nothing.
func (m *Manager) Ready() {
	if m != nil {
		m.ready.Do(func() {
			m.send(systemd.SdNotifyReady)
			close(m.started)
		})
	}
}

// Reload says that do reads the configuration again. Do calls its argument when that
// is done.
func (m *Manager) Reload(do func(done func())) {
	if m == nil {
		do(func() {})
		return
	}
	select {
	case <-m.started:
		m.send(systemd.SdNotifyReloading, strings.TrimSpace(systemd.SdNotifyMonotonicUsec()))
		do(func() { m.send(systemd.SdNotifyReady) })
	default:
		do(func() {})
	}
}

// Watch says whenever it changes what state returns: that the program works, or why it
// does not. It says that the program is ready when state has returned nil for the
// first time, and that it stops when ctx has ended. While state returns at all, the
// watchdog gets its signs of life: state shall use what a stuck program cannot.
// End ends that.
func (m *Manager) Watch(ctx context.Context, state func() error) (end func()) {
	if m == nil {
		return func() {}
	}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() { // end waits for it
		defer close(done)
		m.watch(ctx, state, ended)
	}()
	return func() {
		close(ended)
		<-done
	}
}

func (m *Manager) watch(ctx context.Context, state func() error, ended <-chan struct{}) {
	look := time.NewTicker(statusInterval)
	defer look.Stop()
	var alive <-chan time.Time
	if m.watchdog > 0 {
		t := time.NewTicker(m.watchdog / 2)
		defer t.Stop()
		alive = t.C
	}
	said := ""
	tell := func() {
		status := "working"
		err := state()
		if err != nil {
			status = oneLine(err)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			m.Ready()
		}
		if status != said {
			said = status
			m.send("STATUS=" + status)
		}
	}
	tell()
	stopping := ctx.Done()
	for {
		select {
		case <-look.C:
			tell()
		case <-alive:
			tell()
			m.send(systemd.SdNotifyWatchdog)
		case <-stopping:
			stopping = nil
			m.send(systemd.SdNotifyStopping, "STATUS=stopping")
		case <-ended:
			if stopping != nil && ctx.Err() != nil {
				m.send(systemd.SdNotifyStopping, "STATUS=stopping")
			}
			return
		}
	}
}

// sockets are those that systemd has passed to this process and that are not used yet.
var sockets = sync.OnceValue(func() *passed { return &passed{files: activation.Files(true)} })

type passed struct {
	mu    sync.Mutex // guards what follows
	files []*os.File
}

// take returns the socket for a flag, nil when none was passed: the only one, or that of
// the flag's name.
func (p *passed) take(flag string) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := strings.TrimLeft(flag, "-")
	i := slices.IndexFunc(p.files, func(f *os.File) bool { return len(p.files) == 1 || f.Name() == name })
	if i < 0 {
		if len(p.files) > 0 {
			return nil, Usagef("systemd has passed %d sockets: want one, or FileDescriptorName=%s for %s", len(p.files), name, flag)
		}
		return nil, nil
	}
	f := p.files[i]
	p.files = slices.Delete(p.files, i, i+1)
	defer f.Close() // the listener is a copy
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("%s: the socket that systemd has passed takes no connections: %w (want ListenStream= and Accept=no)", flag, err)
	}
	return l, nil
}
