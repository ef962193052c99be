//go:build unix

package testkit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// roleVar makes the test binary one of the programs below.
const roleVar = "TESTKIT_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(testkit.Main(m))
	case "polite": // ends with 7 at SIGTERM
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		fmt.Println("ready", os.Args[1])
		fmt.Fprintln(os.Stderr, "ready too")
		<-term
		os.Exit(7)
	case "environment":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "reader": // ends with its standard input
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}

// failing is a test that records its failure instead of ending.
type failing struct {
	testing.TB
	text string
}

func (f *failing) Helper()             {}
func (f *failing) Logf(string, ...any) {}
func (f *failing) Fatalf(format string, args ...any) {
	f.text = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failure is what a test that fails is told.
func failure(t *testing.T, f func(testing.TB)) string {
	t.Helper()
	tb := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(tb)
	}()
	<-done
	return tb.text
}

func TestEventuallyReturnsHowLongItTookAndNamesWhatDidNotHappen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		took := testkit.Eventually(t, "3 s pass", func() bool { return time.Since(began) >= 3*time.Second })
		if took < 3*time.Second || took > 3*time.Second+10*time.Millisecond {
			t.Errorf("took %v, want 3 s", took)
		}
		if got, want := failure(t, func(tb testing.TB) {
			testkit.Within(tb, 2*time.Second, "the end of time", func() bool { return false })
		}), "not within 2s: the end of time"; got != want {
			t.Errorf("failed with %q, want %q", got, want)
		}
	})
}

func TestRetryFailsWithTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		testkit.Retry(t, "the third try works", func(context.Context) error {
			if tries++; tries < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		began := time.Now()
		got := failure(t, func(tb testing.TB) {
			testkit.Retry(tb, "an answer", func(ctx context.Context) error {
				<-ctx.Done() // two seconds
				return fmt.Errorf("asked after %v: %w", time.Since(began).Round(time.Second), ctx.Err())
			})
		})
		if want := "not within 1m0s: an answer: asked after 1m"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "deadline exceeded") {
			t.Errorf("failed with %q, want %q", got, want)
		}
	})
}

func TestOutputIsAwaitedByLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o testkit.Output
		log := o.Logger(slog.LevelInfo)
		go func() {
			time.Sleep(time.Second)
			log.Debug("unseen")
			log.Info("listens", "address", "127.0.0.1:1")
		}()
		if got := o.Await(t, `address=(\S+)$`); got != "127.0.0.1:1" {
			t.Errorf("matched %q", got)
		}
		if got := o.Await(t, "^.*INFO"); !strings.HasPrefix(got, "time=") {
			t.Errorf("matched %q", got)
		}
		if !o.Contains("level=INFO") || o.Contains("unseen") {
			t.Errorf("output %q", o.String())
		}
		if got := failure(t, func(tb testing.TB) { o.Await(tb, "unseen") }); !strings.Contains(got, "the output matches unseen") {
			t.Errorf("failed with %q", got)
		}
	})
}

func TestAProcessIsStoppedKilledAndItsOutputKept(t *testing.T) {
	t.Parallel()
	polite := testkit.Command{Args: []string{"7"}, Env: []string{roleVar + "=polite"}}
	p := testkit.Start(t, polite)
	p.Stdout.Await(t, `^ready 7$`)
	p.Stderr.Await(t, `^ready too$`)
	if !p.Running() {
		t.Error("it has ended")
	}
	if code := p.Stop(); code != 7 || p.Running() {
		t.Errorf("exit code %d, running %t", code, p.Running())
	}
	polite.Stdout = new(testkit.Output)
	polite.Stderr = polite.Stdout
	p = testkit.Start(t, polite)
	polite.Stdout.Await(t, `^ready 7$`)
	polite.Stdout.Await(t, `^ready too$`)
	p.Kill()
	p.Kill()
	if code := p.Exit(); code != -1 {
		t.Errorf("exit code %d of a killed process, want -1", code)
	}
}

func TestAProcessGetsACleanEnvironment(t *testing.T) {
	t.Setenv("PROXIMA_REGION", "of the developer")
	p := testkit.Start(t, testkit.Command{Env: []string{roleVar + "=environment"}})
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	env := strings.Fields(p.Stdout.String())
	if slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "PROXIMA_") }) ||
		!slices.Contains(env, "PATH="+os.Getenv("PATH")) || slices.Contains(env, "HOME="+os.Getenv("HOME")) {
		t.Errorf("environment %q", env)
	}
}

func TestAStoppedProcessDiesWithTheTestThatStartedIt(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills a process with its parent")
	}
	t.Parallel()
	const parentVar = "TESTKIT_TEST_PARENT"
	if os.Getenv(parentVar) != "" {
		p := testkit.Start(t, testkit.Command{Env: []string{roleVar + "=reader"}})
		p.Signal(syscall.SIGSTOP)
		fmt.Println("pid", p.PID())
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
		return
	}
	parent := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	parent.Env = append(os.Environ(), parentVar+"=1", "TMPDIR="+t.TempDir()) // it cannot tidy up
	if _, err := parent.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if number, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, _ = strconv.Atoi(number)
		}
	}
	_ = parent.Process.Kill()
	_ = parent.Wait() // says that it was killed
	if pid == 0 {
		t.Fatal("the parent started no process")
	}
	testkit.Eventually(t, "the stopped process is dead", func() bool {
		return syscall.Kill(pid, 0) != nil || zombie(pid)
	})
}

// zombie reports whether a process has ended and its exit code was not read:
// where no process adopts orphans it stays so.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestFreePortsAreReservedUntilTheTestEnds(t *testing.T) {
	taken := map[int]bool{}
	t.Run("reserved", func(t *testing.T) {
		for _, port := range testkit.FreePorts(t, 100) {
			if taken[port] {
				t.Errorf("port %d twice", port)
			}
			taken[port] = true
			if mark, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
				mark.Close()
				t.Errorf("port %d is not reserved", port)
			}
		}
		if c, err := net.Dial("tcp", testkit.FreeAddress(t)); err == nil {
			c.Close()
			t.Error("connected to a free address")
		}
	})
	for port := range taken {
		mark, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatalf("port %d is still reserved: %v", port, err)
		}
		mark.Close()
	}
}
