package load

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// meter measures the load of a command as the kernel sees it.
//
// What the command may use is the limit of its cgroup (v2), or of the nearest
// cgroup above that has a limit. Then everything that runs in that cgroup counts
// as used: it leaves the command less. Without a limit the command may use the
// machine: the processors that it may run on, and the memory. Then the command
// and its descendants count.
//
// Its calls are connections to the ports of its endpoints, in its network
// namespace: accepted ones are in flight, those that wait to be accepted are the
// queue. Many calls may share a connection, and a connection may be idle.
type meter struct {
	root     string // where proc and sys are
	proc     procfs.FS
	pid      int
	ports    []uint16
	patience time.Duration // between two readings that are compared

	last reading
}

// reading is how much processor time was used until at.
type reading struct {
	at   time.Time
	of   string        // the cgroup that used it, "" for the processes
	used time.Duration // on all processors
	cpus float64       // that may be used, 0 when nothing could be read
}

// Measure measures the process pid and its descendants, beginning now. Its calls
// are the connections to ports. Two calls of the function that are further apart
// than patience give no load: an average over so long says nothing of now.
func Measure(pid int, ports []uint16, patience time.Duration) (Func, error) {
	if self, err := os.Readlink("/proc/self"); err != nil {
		return nil, err
	} else if self != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("/proc shows another PID namespace")
	}
	m, err := newMeter("/", pid, ports, patience)
	if err != nil {
		return nil, err
	}
	m.load()
	return m.load, nil
}

func newMeter(root string, pid int, ports []uint16, patience time.Duration) (*meter, error) {
	proc, err := procfs.NewFS(filepath.Join(root, "proc"))
	return &meter{root: root, proc: proc, pid: pid, ports: ports, patience: patience}, err
}

func (m *meter) load() (events.Beat, bool) {
	tree := sync.OnceValue(m.tree)
	now, before := m.read(tree), m.last
	m.last = now
	elapsed := now.at.Sub(before.at)
	if now.cpus == 0 || before.cpus == 0 || now.of != before.of || elapsed <= 0 || elapsed > m.patience {
		return events.Beat{}, false
	}
	memory, ok := m.memory(tree)
	if !ok {
		return events.Beat{}, false
	}
	// It is less than before when a descendant has ended whose parent did not wait
	// for it.
	used := max(0, now.used-before.used)
	b := events.Beat{CPU: min(1, used.Seconds()/elapsed.Seconds()/now.cpus), Memory: min(1, memory)}
	b.InFlight, b.Queue, _ = m.calls()
	return b, true
}

// InFlight returns the function for kv.AnnounceOptions.InFlight that counts the calls to
// the process pid: connections to the ports of its endpoints, also those that it has not
// accepted yet. An idle connection counts. So does one call as long as the calls are not
// known: a port has no listener where the process runs. The function is nil when
// connections are not all of its calls.
func InFlight(pid int, endpoints map[string]string) func() int {
	ports := Ports(endpoints)
	m, err := newMeter("/", pid, ports, 0)
	if len(ports) != len(endpoints) || len(ports) == 0 || err != nil {
		return nil
	}
	return m.inFlight
}

func (m *meter) inFlight() int {
	accepted, waiting, known := m.calls()
	if !known {
		return 1
	}
	return accepted + waiting
}

// read reads the processor time.
func (m *meter) read(tree func() []usage) reading {
	now := reading{at: time.Now()}
	cpus := m.cpus()
	if dir, limit, ok := m.limited("cpu.max"); ok {
		if usec, ok := number(filepath.Join(dir, "cpu.stat"), "usage_usec "); ok {
			now.of, now.used, now.cpus = dir, time.Duration(usec)*time.Microsecond, min(cpus, limit)
			return now
		}
	}
	for _, u := range tree() {
		now.used += u.time
		now.cpus = cpus
	}
	return now
}

// memory is the share that is used of what may be used.
func (m *meter) memory(tree func() []usage) (share float64, ok bool) {
	info, err := m.proc.Meminfo()
	if err != nil || info.MemTotalBytes == nil || *info.MemTotalBytes == 0 {
		return 0, false
	}
	total := float64(*info.MemTotalBytes)
	if dir, limit, ok := m.limited("memory.max"); ok {
		current, ok1 := number(filepath.Join(dir, "memory.current"), "")
		// Files that were read some time ago: the kernel drops them when it
		// needs room.
		dropped, ok2 := number(filepath.Join(dir, "memory.stat"), "inactive_file ")
		if ok1 && ok2 {
			return max(0, current-dropped) / min(limit, total), true
		}
	}
	used := 0
	for _, u := range tree() {
		used += u.memory
	}
	return float64(used) / total, true
}

// cpus is the number of processors that the process may run on.
func (m *meter) cpus() float64 {
	// GOMAXPROCS also has the limits of cgroups v1, in whole processors.
	n := min(runtime.NumCPU(), runtime.GOMAXPROCS(0))
	if p, err := m.proc.Proc(m.pid); err == nil {
		if status, err := p.NewStatus(); err == nil && len(status.CpusAllowedList) > 0 {
			n = min(n, len(status.CpusAllowedList))
		}
	}
	return float64(n)
}

// usage is what one process of a tree uses.
type usage struct {
	time   time.Duration // of it, and of its children that have ended
	memory int           // bytes that are resident
}

// tick is the unit of processor time in /proc, the same on all architectures
// that Go runs on.
const tick = time.Second / 100

// tree is the process and its descendants, nothing when it has ended.
func (m *meter) tree() []usage {
	var all []usage
	for todo, seen := []int{m.pid}, map[int]bool{}; len(todo) > 0; todo = todo[1:] {
		pid := todo[0]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		p, err := m.proc.Proc(pid)
		if err != nil {
			continue // it has ended
		}
		stat, err := p.Stat()
		if err != nil {
			continue
		}
		ticks := int(stat.UTime) + int(stat.STime) + stat.CUTime + stat.CSTime
		all = append(all, usage{time.Duration(ticks) * tick, stat.ResidentMemory()})
		todo = append(todo, m.children(pid)...)
	}
	return all
}

// children are the processes that the threads of a process have started. With
// procfs alone all processes of the machine would have to be read.
func (m *meter) children(pid int) []int {
	files, _ := filepath.Glob(filepath.Join(m.root, "proc", strconv.Itoa(pid), "task", "*", "children"))
	var all []int
	for _, file := range files {
		data, _ := os.ReadFile(file) // none: it has just ended
		for text := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(text); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// States of a TCP socket in /proc/net/tcp.
const (
	established = 0x01
	listening   = 0x0A
)

// calls counts the connections to the ports: those accepted, and those that wait
// to be accepted. They are known when each port has a listener.
func (m *meter) calls() (accepted, waiting int, known bool) {
	if len(m.ports) == 0 {
		return 0, 0, false
	}
	// The directory of a process has the sockets of its network namespace.
	process, err := procfs.NewFS(filepath.Join(m.root, "proc", strconv.Itoa(m.pid)))
	if err != nil {
		return 0, 0, false // it has ended
	}
	// Netlink, which procfs recommends instead, shows only the sockets of the
	// announcer's own network namespace.
	v4, _ := process.NetTCP()  //nolint:staticcheck // deprecated, see above
	v6, _ := process.NetTCP6() //nolint:staticcheck // deprecated, see above; fails without IPv6
	unheard := slices.Clone(m.ports)
	for _, s := range slices.Concat(v4, v6) {
		switch {
		case !slices.Contains(m.ports, uint16(s.LocalPort)):
		case s.St == established && s.Inode != 0: // without an inode it waits
			accepted++
		case s.St == listening: // its queue is the number of those that wait
			waiting += int(s.RxQueue)
			unheard = slices.DeleteFunc(unheard, func(port uint16) bool { return port == uint16(s.LocalPort) })
		}
	}
	const most = 1_000_000 // in a beat
	return min(accepted, most), min(waiting, most), len(unheard) == 0
}
