package daemon_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

// notices is the socket of systemd.
func notices(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		buf := make([]byte, 100)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestSystemdIsToldWhatTheProgramDoes(t *testing.T) {
	next := notices(t)
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lives := make(chan struct{}, 1)
	daemon.Ready(ctx, log, func() { lives <- struct{}{} })
	if got := next(); got != "READY=1" {
		t.Errorf("first %q", got)
	}
	for range 3 {
		<-lives
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("then %q", got)
		}
	}
	lives <- struct{}{}                // it hangs from now on
	time.Sleep(150 * time.Millisecond) // so that notices of a program that hangs would come
	daemon.Stopping(log)
	if got := next(); got != "STOPPING=1" {
		t.Errorf("a program that hangs was said to live: %q", got)
	}
	<-lives
}

func TestAHangupIsNoEnd(t *testing.T) {
	heard := make(chan struct{}, 1)
	stop := daemon.OnHangup(func() { heard <- struct{}{} })
	defer stop()
	for range 2 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		<-heard
	}
}

// The test runs itself with a socket that systemd would have opened.
func TestASocketOfSystemdIsTaken(t *testing.T) {
	if os.Getenv("PROXIMA_TEST_SOCKET") != "" {
		l, err := daemon.Listen("--http", "127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("hello"))
		conn.Close()
		return
	}
	for _, name := range []string{"http", "router.socket"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		file, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		// A shell becomes the test: LISTEN_PID is its own number.
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestASocketOfSystemdIsTaken$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "PROXIMA_TEST_SOCKET=1", "LISTEN_FDS=1", "LISTEN_FDNAMES="+name)
		cmd.ExtraFiles = []*os.File{file}
		var out testkit.Output
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "hello" {
			t.Errorf("%s: %q, %v", name, buf[:n], err)
		}
		conn.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
		l.Close()
		file.Close()
	}
}
