package load

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// meter measures the load of a command as the kernel sees it.
//
// What it may use is what its cgroup (v2) may, or the next above that has a
// limit; then all that runs in that cgroup counts, for it leaves as much less.
// Without a limit it is the machine: the processors that the process may run
// on, and the memory; then the command and its descendants count.
//
// Its calls are connections to the ports of its endpoints, in its network
// namespace: those it has accepted are in flight, those it has not yet are the
// queue. Many calls may share a connection, and a kept one may be idle.
type meter struct {
	root     string // of proc and sys
	pid      int
	ports    []uint16
	patience time.Duration // two readings further apart say nothing of now

	last reading
}

// reading is how much processor time something has used until then.
type reading struct {
	at   time.Time
	of   string        // a cgroup, or "" for the processes
	used time.Duration // of all its processors
	cpus float64       // that it may use
}

// Measure measures the process pid, beginning now.
func Measure(pid int, ports []uint16, patience time.Duration) (Func, error) {
	if self, err := os.Readlink("/proc/self"); err != nil {
		return nil, err
	} else if self != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("/proc shows another PID namespace")
	}
	m := &meter{root: "/", pid: pid, ports: ports, patience: patience}
	m.load()
	return m.load, nil
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
	// Less than before: a descendant has ended that nobody of the command's
	// waited for.
	used := max(0, now.used-before.used)
	b := events.Beat{CPU: min(1, used.Seconds()/elapsed.Seconds()/now.cpus), Memory: min(1, memory)}
	b.InFlight, b.Queue = m.calls()
	return b, true
}

// read reads the processor time. It returns no cpus when it cannot.
func (m *meter) read(tree func() []usage) reading {
	now := reading{at: time.Now()}
	cpus := m.cpus()
	if dir, limit, ok := m.limited("cpu.max"); ok {
		if usec, ok := number(filepath.Join(dir, "cpu.stat"), "usage_usec"); ok {
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

// memory is the share that is used of what may be.
func (m *meter) memory(tree func() []usage) (share float64, ok bool) {
	total, ok := number(filepath.Join(m.root, "proc/meminfo"), "MemTotal:")
	if !ok || total == 0 {
		return 0, false
	}
	total *= 1024
	if dir, limit, ok := m.limited("memory.max"); ok {
		current, ok1 := number(filepath.Join(dir, "memory.current"), "")
		// Files read some time ago, which the kernel drops when it needs room.
		dropped, ok2 := number(filepath.Join(dir, "memory.stat"), "inactive_file")
		if ok1 && ok2 {
			return max(0, current-dropped) / min(limit, total), true
		}
	}
	used := 0.0
	for _, u := range tree() {
		used += u.memory
	}
	return used / total, true
}

// cpus are the processors that the process may run on.
func (m *meter) cpus() float64 {
	// The runtime knows the limits of cgroups v1, too, in whole processors.
	n := min(runtime.NumCPU(), runtime.GOMAXPROCS(0))
	status, err := os.ReadFile(m.proc("status"))
	if err != nil {
		return float64(n)
	}
	if mask, ok := field(string(status), "Cpus_allowed:"); ok {
		allowed := 0
		for word := range strings.SplitSeq(mask, ",") {
			w, _ := strconv.ParseUint(word, 16, 64)
			allowed += bits.OnesCount64(w)
		}
		if allowed > 0 {
			n = min(n, allowed)
		}
	}
	return float64(n)
}

// limited finds the cgroup nearest to the process for which the file has a
// limit. That of cpu.max is in processors, others as they are written.
func (m *meter) limited(file string) (dir string, limit float64, ok bool) {
	cgroups, err := os.ReadFile(m.proc("cgroup"))
	if err != nil {
		return "", 0, false
	}
	for line := range strings.Lines(string(cgroups)) {
		path, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !v2 {
			continue
		}
		top := filepath.Join(m.root, "sys/fs/cgroup")
		// A container may see less of the tree than the path names; then the
		// top is its own.
		for dir := filepath.Join(top, filepath.Join("/", path)); len(dir) >= len(top); dir = filepath.Dir(dir) {
			if limit, ok := readLimit(filepath.Join(dir, file)); ok {
				return dir, limit, true
			}
		}
	}
	return "", 0, false
}

// readLimit reads "max", a number, or a number per another.
func readLimit(file string) (float64, bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	limit, per, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	n, err := strconv.ParseUint(limit, 10, 64) // not "max"
	d := uint64(1)
	if per != "" && err == nil {
		d, err = strconv.ParseUint(per, 10, 64)
	}
	return float64(n) / float64(d), err == nil && n > 0 && d > 0
}

// number reads a file of one number, or the one after a name at the beginning
// of a line.
func number(file, name string) (float64, bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	text := string(data)
	if name != "" {
		var ok bool
		if text, ok = field(text, name); !ok {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return float64(n), err == nil
}

// field is the first word after name, in the line that begins with it.
func field(text, name string) (string, bool) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) > 1 && words[0] == name {
			return words[1], true
		}
	}
	return "", false
}

// proc is a file of the process.
func (m *meter) proc(name string) string {
	return filepath.Join(m.root, "proc", strconv.Itoa(m.pid), name)
}

// usage is what one process of a tree uses.
type usage struct {
	time   time.Duration // used by it, and by its children that have ended
	memory float64       // bytes that it holds in memory
}

// tree is the process and its descendants, nothing when it has ended.
func (m *meter) tree() []usage {
	var all []usage
	todo := []int{m.pid}
	seen := map[int]bool{m.pid: true}
	for len(todo) > 0 {
		dir := filepath.Join(m.root, "proc", strconv.Itoa(todo[0]))
		todo = todo[1:]
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it has ended
		}
		u, err := parseStat(string(stat))
		if err != nil {
			continue
		}
		all = append(all, u)
		// Children belong to the thread that has made them.
		threads, _ := os.ReadDir(filepath.Join(dir, "task")) // none: it has just ended
		for _, thread := range threads {
			children, err := os.ReadFile(filepath.Join(dir, "task", thread.Name(), "children"))
			if err != nil {
				continue
			}
			for child := range strings.FieldsSeq(string(children)) {
				if pid, err := strconv.Atoi(child); err == nil && !seen[pid] {
					seen[pid] = true
					todo = append(todo, pid)
				}
			}
		}
	}
	return all
}

// ticks per second are the same on all architectures that Go runs on.
const ticks = 100

// parseStat reads /proc/PID/stat. The second field is a name in parentheses
// that may hold anything.
func parseStat(stat string) (usage, error) {
	const state, utime, cstime, rss = 3, 14, 17, 24 // as numbered in proc_pid_stat(5)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= rss-state {
		return usage{}, fmt.Errorf("%d fields after the name", len(fields))
	}
	var u usage
	for i := utime; i <= cstime; i++ { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(fields[i-state], 10, 64)
		if err != nil {
			return usage{}, err
		}
		u.time += time.Duration(n) * (time.Second / ticks)
	}
	pages, err := strconv.ParseInt(fields[rss-state], 10, 64)
	u.memory = float64(pages) * float64(os.Getpagesize())
	return u, err
}
