package load

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// files is a tree of files with a meter of process 7.
type files struct {
	t    *testing.T
	root string
	*meter
}

func newFiles(t *testing.T, all ...map[string]string) files {
	t.Helper()
	f := files{t, t.TempDir(), nil}
	for _, some := range all {
		f.write(some)
	}
	var err error
	if f.meter, err = newMeter(f.root, 7, []uint16{8080, 9090}, time.Minute); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f files) write(all map[string]string) {
	f.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		file := filepath.Join(f.root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			f.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(all[name]), 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
}

// wants waits a second and then compares the load.
func (f files) wants(what string, want events.Beat) {
	f.t.Helper()
	time.Sleep(time.Second)
	got, ok := f.load()
	if !ok || math.Abs(got.CPU-want.CPU) > 1e-9 || math.Abs(got.Memory-want.Memory) > 1e-9 || got.InFlight != want.InFlight || got.Queue != want.Queue {
		f.t.Errorf("%s: %+v, %t, want %+v", what, got, ok, want)
	}
}

// stat is a process by its ticks of user, system, children's user and
// children's system time, and its pages.
func stat(name string, utime, stime, cutime, cstime, pages int) string {
	return fmt.Sprintf("7 (%s) S 1 7 7 0 -1 4194304 100 0 0 0 %d %d %d %d 20 0 1 0 155004 3133440 %d 18446744073709551615"+strings.Repeat(" 1", 27)+"\n", name, utime, stime, cutime, cstime, pages)
}

// cpu1 lets the process run on one processor of the machine, whatever it has.
var cpu1 = map[string]string{
	"proc/7/status": "Name:\tx\nCpus_allowed:\t00000000,00000010\nCpus_allowed_list:\t4\n",
	"proc/meminfo":  "MemTotal:       4000 kB\nMemFree: 1 kB\n",
}

func TestTheLoadIsAShareOfTheLimitOfTheCgroup(t *testing.T) {
	cgroup := func(dir, cpu, memory string) map[string]string {
		dir = "sys/fs/cgroup/" + dir + "/"
		return map[string]string{
			dir + "cpu.max": cpu, dir + "cpu.stat": "usage_usec 5000000\nuser_usec 1\n",
			dir + "memory.max": memory, dir + "memory.current": "1500000\n",
			dir + "memory.stat": "anon 1\ninactive_anon 7\ninactive_file 500000\n",
		}
	}
	for _, tt := range []struct {
		name  string
		path  string
		files []map[string]string
		grows string // the cgroup whose processor time does
		want  events.Beat
	}{
		{"its own", "0::/a/b\n", []map[string]string{cgroup("a/b", "50000 100000\n", "2000000\n")}, "a/b", events.Beat{CPU: 0.4, Memory: 0.5}},
		{"of v2 beside v1", "4:memory:/x\n1:cpu:/x\n0::/a/b\n", []map[string]string{cgroup("a/b", "50000 100000\n", "2000000\n")}, "a/b", events.Beat{CPU: 0.4, Memory: 0.5}},
		{"the next above", "0::/a/b/c\n", []map[string]string{cgroup("a/b/c", "max 100000\n", "max\n"), cgroup("a", "50000 100000\n", "2000000\n")}, "a", events.Beat{CPU: 0.4, Memory: 0.5}},
		{"a container's", "0::/\n", []map[string]string{cgroup("", "50000 100000\n", "2000000\n")}, "", events.Beat{CPU: 0.4, Memory: 0.5}},
		{"a container's, named as outside", "0::/docker/7\n", []map[string]string{cgroup("", "50000 100000\n", "2000000\n")}, "", events.Beat{CPU: 0.4, Memory: 0.5}},
		{"outside of the visible tree", "0::/../../etc\n", []map[string]string{cgroup("", "50000 100000\n", "2000000\n")}, "", events.Beat{CPU: 0.4, Memory: 0.5}},
		{"more than the machine has", "0::/a\n", []map[string]string{cgroup("a", "800000 100000\n", "8000000000\n")}, "a", events.Beat{CPU: 0.2, Memory: 1e6 / 4096e3}},
		{"of processors only", "0::/a\n", []map[string]string{cgroup("a", "50000 100000\n", "max\n")}, "a", events.Beat{CPU: 0.4, Memory: 100. * float64(os.Getpagesize()) / 4096e3}},
		{"none", "0::/a\n", []map[string]string{cgroup("a", "max 100000\n", "max\n")}, "a", events.Beat{CPU: 0.1, Memory: 100. * float64(os.Getpagesize()) / 4096e3}},
		{"unreadable", "0::/a\n", []map[string]string{cgroup("a", "-1\n", "lots\n")}, "a", events.Beat{CPU: 0.1, Memory: 100. * float64(os.Getpagesize()) / 4096e3}},
		{"of zero", "0::/a\n", []map[string]string{cgroup("a", "0 0\n", "0\n")}, "a", events.Beat{CPU: 0.1, Memory: 100. * float64(os.Getpagesize()) / 4096e3}},
		{"v1 only", "1:cpu:/a\n", []map[string]string{cgroup("a", "50000 100000\n", "2000000\n")}, "a", events.Beat{CPU: 0.1, Memory: 100. * float64(os.Getpagesize()) / 4096e3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFiles(t, append(tt.files, cpu1, map[string]string{"proc/7/cgroup": tt.path, "proc/7/stat": stat("x", 300, 200, 0, 0, 100)})...)
				if b, ok := f.load(); ok {
					t.Errorf("a load after one reading: %+v", b)
				}
				f.write(map[string]string{
					"sys/fs/cgroup/" + tt.grows + "/cpu.stat": "usage_usec 5200000\n",
					"proc/7/stat": stat("x", 306, 204, 0, 0, 100),
				})
				f.wants(tt.name, tt.want)
				f.wants("and nothing after", events.Beat{Memory: tt.want.Memory})
			})
		})
	}
}

func TestDescendantsCountAlsoAfterTheirEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		page := float64(os.Getpagesize()) / 4096e3
		f := newFiles(t, cpu1, map[string]string{
			"proc/7/stat": stat("sh", 10, 0, 0, 0, 10), "proc/7/task/7/children": "8 ", "proc/7/task/70/children": "9 8 7\n",
			"proc/8/stat": stat(") R 1 (", 100, 100, 0, 0, 20), "proc/8/task/8/children": "",
			"proc/9/stat": stat("a b", 0, 0, 0, 0, 30), "proc/9/task/9/children": "10 11 x",
			"proc/10/stat": stat("", 0, 0, 0, 0, 40),
			"proc/12/stat": stat("a stranger", 0, 0, 0, 0, 1000),
		})
		f.load()
		f.write(map[string]string{"proc/10/stat": stat("", 5, 5, 0, 0, 40), "proc/9/stat": stat("a b", 10, 0, 0, 0, 30), "proc/12/stat": stat("a stranger", 90, 0, 0, 0, 1000)})
		f.wants("grandchildren", events.Beat{CPU: 0.2, Memory: 100 * page})
		// 8 ends, and 7 waits for it.
		if err := os.RemoveAll(filepath.Join(f.root, "proc/8")); err != nil {
			t.Fatal(err)
		}
		f.write(map[string]string{"proc/7/stat": stat("sh", 10, 0, 120, 110, 10)})
		f.wants("the time of 8 is in 7", events.Beat{CPU: 0.3, Memory: 80 * page})
		// 9 and 10 end, and their parents do not wait for them.
		f.write(map[string]string{"proc/7/task/70/children": ""})
		f.wants("their time is lost", events.Beat{Memory: 10 * page})
		f.write(map[string]string{"proc/7/stat": stat("sh", 500, 0, 120, 110, 5000)})
		f.wants("more than there is", events.Beat{CPU: 1, Memory: 1})
		if err := os.RemoveAll(filepath.Join(f.root, "proc/7")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if b, ok := f.load(); ok {
			t.Errorf("the load of a process that has ended is %+v", b)
		}
	})
}

func TestNoLoadIsMeasuredOverALongTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t, cpu1, map[string]string{"proc/7/stat": stat("x", 0, 0, 0, 0, 0)})
		f.load()
		f.wants("after a second", events.Beat{})
		time.Sleep(2 * time.Minute)
		f.write(map[string]string{"proc/7/stat": stat("x", 10_000, 0, 0, 0, 0)})
		if b, ok := f.load(); ok {
			t.Errorf("over two minutes: %+v", b)
		}
		f.write(map[string]string{"proc/7/stat": stat("x", 10_030, 0, 0, 0, 0)})
		f.wants("a second later", events.Beat{CPU: 0.3})
		// A new limit: the cgroup has used time before.
		f.write(map[string]string{"proc/7/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "10000 100000", "sys/fs/cgroup/cpu.stat": "usage_usec 1000000000"})
		time.Sleep(time.Second)
		if b, ok := f.load(); ok {
			t.Errorf("compared the process with the cgroup: %+v", b)
		}
		f.write(map[string]string{"sys/fs/cgroup/cpu.stat": "usage_usec 1000050000"})
		f.wants("of the cgroup", events.Beat{CPU: 0.5})
	})
}

func TestOnlyConnectionsToItsPortsAreItsCalls(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	const rest = " 00:00000000 00000000     0        0 "
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t, cpu1, map[string]string{
			"proc/7/stat": stat("x", 0, 0, 0, 0, 0),
			"proc/7/net/tcp": head +
				"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003" + rest + "1529 1\n" + // listens
				"   1: 0100007F:1F91 00000000:0000 0A 00000000:00000009" + rest + "1530 1\n" + // on another port
				"   2: 0100007F:1F90 0100007F:B2C4 01 00000000:00000000" + rest + "1531 1\n" + // accepted
				"   3: 0100007F:1F90 0100007F:B2C5 01 00000000:00000010" + rest + "0 1\n" + // not yet
				"   4: 0100007F:B2C4 0100007F:1F90 01 00000000:00000000" + rest + "1532 1\n" + // the other end
				"   5: 0100007F:1F90 0100007F:B2C6 06 00000000:00000000" + rest + "0 1\n", // TIME_WAIT
			"proc/7/net/tcp6": head +
				"   0: 00000000000000000000000000000000:2382 00000000000000000000000000000000:0000 0A 00000000:0000000B" + rest + "1 1\n" +
				"   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:B2C7 01 00000000:00000000" + rest + "2 1\n",
		})
		f.load()
		inFlight := func(what string, want int) {
			t.Helper()
			if got := f.inFlight(); got != want {
				t.Errorf("%s: %d in flight, want %d", what, got, want)
			}
		}
		f.wants("four and six", events.Beat{InFlight: 2, Queue: 14})
		inFlight("four and six", 16)
		f.ports = Ports(map[string]string{"http": "10.0.0.5:8080", "tcp": "[::1]:9091", "nats": "a.b"})
		f.wants("one port", events.Beat{InFlight: 2, Queue: 3})
		f.ports = []uint16{0x1F91}
		inFlight("nothing but a queue", 9)
		// The port is mapped by another host: its connections are not seen here.
		f.ports = []uint16{0x1F90, 9091}
		inFlight("a port without a listener", 1)
		f.ports = Ports(map[string]string{"nats": "a.b"})
		f.wants("no port", events.Beat{})
	})
}

func TestConnectionsAreAllCallsOnlyWithoutOtherEndpoints(t *testing.T) {
	for _, tt := range []struct {
		endpoints map[string]string
		want      bool
	}{
		{map[string]string{"http": "10.0.0.5:8080", "grpc": "10.0.0.5:9090"}, true},
		{map[string]string{"http": "10.0.0.5:8080", "nats": "user"}, false}, // its calls by NATS are not seen
		{map[string]string{"nats": "user"}, false},
		{nil, false},
	} {
		if got := InFlight(os.Getpid(), tt.endpoints) != nil; got != tt.want {
			t.Errorf("%v: counted %t, want %t", tt.endpoints, got, tt.want)
		}
	}
}
