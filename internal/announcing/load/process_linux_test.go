package load

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// TestMain makes this binary the command that is measured, too: burn MiB keeps
// a processor busy, and so much memory, until its standard input ends.
func TestMain(m *testing.M) {
	if len(os.Args) != 3 || os.Args[1] != "burn" {
		os.Exit(m.Run())
	}
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	mib, _ := strconv.Atoi(os.Args[2])
	for held := make([]byte, mib<<20); ; {
		for i := 0; i < len(held); i += 1 << 10 {
			held[i]++
		}
	}
}

// limits reports whether this process and its children are in a cgroup with
// limits, in which all processes count.
func limits() bool {
	m, err := newMeter("/", os.Getpid(), nil, time.Minute)
	if err != nil {
		panic(err)
	}
	_, _, cpu := m.limited("cpu.max")
	_, _, memory := m.limited("memory.max")
	return cpu || memory
}

// measured starts a command, measures it twice a second and returns the first
// load for which right returns true.
func measured(t *testing.T, what string, right func(events.Beat) bool, command ...string) events.Beat {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}()
	load, err := Measure(cmd.Process.Pid, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		time.Sleep(500 * time.Millisecond) // what the load is measured over
		if b, ok := load(); ok && right(b) {
			return b
		}
	}
	t.Fatalf("not within 20 s: %s", what)
	return events.Beat{}
}

func TestTheLoadOfACommandIsThatOfItsProcesses(t *testing.T) {
	const mib = 200
	cpus := float64(runtime.NumCPU())
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		t.Fatal(err)
	}
	info, err := proc.Meminfo()
	if err != nil {
		t.Fatal(err)
	}
	total := float64(*info.MemTotalBytes)
	least := (mib << 20) / total
	// The busy process is a child of the command. It gets a small part of a processor
	// when other tests run; the other command uses none.
	const busy = 0.02
	working := measured(t, "a busy processor, and memory that is held", func(b events.Beat) bool {
		return b.CPU >= busy/cpus && b.Memory >= least
	}, "sh", "-c", `"$0" burn "$1"; exit 5`, os.Args[0], fmt.Sprint(mib))
	sleeping := measured(t, "no load", func(b events.Beat) bool { return b.CPU < busy/cpus || limits() }, "sleep", "100")
	if working.InFlight != 0 || working.Queue != 0 {
		t.Errorf("calls without a connection: %+v", working)
	}
	if working.Memory > 10*least && !limits() {
		t.Errorf("%d MiB of %.0f bytes are %v of memory, want %v and a little", mib, total, working.Memory, least)
	}
	if !limits() && (sleeping.Memory <= 0 || sleeping.Memory > working.Memory/2) {
		t.Errorf("%v of memory asleep, %v at work", sleeping.Memory, working.Memory)
	}
	t.Logf("at work %+v, asleep %+v", working, sleeping)
}
