package daemon_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

// managed is a manager whose messages are heard.
func managed(t *testing.T) (*daemon.Manager, *testkit.Output) {
	t.Helper()
	path, heard := testkit.NotifySocket(t)
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	p := &daemon.Process{Getenv: os.Getenv}
	return p.Manager(slog.New(slog.DiscardHandler)), heard
}

func TestAProgramThatHangsGivesNoSignsOfLife(t *testing.T) {
	m, heard := managed(t)
	hanging, resume := make(chan struct{}), make(chan struct{})
	calls := 0
	end := m.Watch(t.Context(), func() error {
		if calls++; calls == 5 {
			close(hanging)
			<-resume
		}
		return nil
	})
	<-hanging
	lives := strings.Count(heard.String(), "WATCHDOG=1\n")
	if lives > 4 {
		t.Errorf("%d signs of life in %d looks", lives, calls)
	}
	close(resume)
	testkit.Eventually(t, "signs of life again", func() bool { return strings.Count(heard.String(), "WATCHDOG=1\n") > 5 })
	end()
	if got := heard.String(); strings.Count(got, "READY=1") != 1 || strings.Count(got, "STATUS=") != 1 {
		t.Errorf("heard\n%s", got)
	}
}

func TestStatesAreToldInOneLineAndReadinessOnce(t *testing.T) {
	m, heard := managed(t)
	ctx, stop := context.WithCancel(t.Context())
	states := make(chan error)
	end := m.Watch(ctx, func() error { return <-states })
	states <- errors.New("not\nyet")
	heard.Await(t, "^STATUS=not; yet$")
	m.Reload(func(done func()) { done() }) // it has not started
	states <- nil
	heard.Await(t, "^READY=1$")
	heard.Await(t, "^STATUS=working$")
	m.Reload(func(done func()) { done() })
	heard.Await(t, `^RELOADING=1\nMONOTONIC_USEC=\d+\nREADY=1$`)
	stop()
	close(states)
	heard.Await(t, `^STOPPING=1\nSTATUS=stopping$`)
	end()
	if got := heard.String(); strings.Index(got, "RELOADING") < strings.Index(got, "READY=1\n") {
		t.Errorf("heard\n%s", got)
	}
}

func TestWithoutSystemdNothingIsTold(t *testing.T) {
	m := (&daemon.Process{Getenv: func(string) string { return "" }}).Manager(slog.New(slog.DiscardHandler))
	m.Ready()
	reloaded := false
	m.Reload(func(done func()) { reloaded = true; done() })
	m.Watch(t.Context(), func() error { return nil })()
	if !reloaded {
		t.Error("not reloaded")
	}
}
