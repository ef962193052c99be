//go:build unix

package natstest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
)

// parentVar makes this binary run only the test that it names, as a parent
// that is to be killed.
const parentVar = "PROXIMA_TEST_PARENT"

func TestMain(m *testing.M) { natstest.Main(m) }

func single(t *testing.T) *natstest.Process {
	t.Helper()
	port := natstest.FreePorts(t, 1)[0]
	conf := filepath.Join(t.TempDir(), "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:%d\"\njetstream { store_dir: %q }\n", port, t.TempDir())
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &natstest.Process{Name: "single", Conf: conf, URL: fmt.Sprintf("nats://127.0.0.1:%d", port)}
	p.Start(t)
	p.Ready(t)
	return p
}

func TestAProcessIsKilledStoppedAndEnded(t *testing.T) {
	p := single(t)
	nc, err := nats.Connect(p.URL, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()

	p.Stop(t)
	for end := time.Now().Add(soon); nc.FlushTimeout(quiet) == nil; { // each of its threads stops by itself
		if time.Now().After(end) {
			t.Fatal("a stopped server answers")
		}
	}
	p.Continue(t)
	if err := nc.FlushTimeout(soon); err != nil {
		t.Errorf("a server that goes on does not answer: %v", err)
	}

	for what, end := range map[string]func(){"killed": p.Kill, "terminated": func() { p.Terminate(t) }} {
		end()
		if p.Running() {
			t.Errorf("a server that was %s runs", what)
		}
		p.Start(t)
		p.Ready(t)
	}
	if !strings.Contains(p.Log(), "Server Exiting") {
		t.Errorf("a terminated server did not say goodbye:\n%s", p.Log())
	}
}

func TestAStoppedServerDiesWithTheTestThatStartedIt(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills a process with its parent")
	}
	if os.Getenv(parentVar) != "" {
		p := single(t)
		p.Stop(t)
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
		t.Fatal("the parent started no server")
	}
	for end := time.Now().Add(soon); syscall.Kill(pid, 0) == nil && !zombie(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("the stopped server lives %v after its parent was killed", soon)
		}
	}
}

// zombie says whether a process has ended and nobody has asked how: where
// nobody adopts orphans it stays so.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	return strings.Contains(string(stat), ") Z ")
}
