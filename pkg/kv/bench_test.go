package kv_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// serverEnv makes this test binary a NATS server, so that a benchmark can tell
// the server's work from its own.
const serverEnv = "KV_TEST_SERVER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverEnv); dir != "" {
		serve(dir)
		return
	}
	flag.Parse()
	if os.Getenv("GOGC") == "" && flag.Lookup("test.bench").Value.String() == "" {
		debug.SetGCPercent(400) // the servers of the tests allocate much and keep little
	}
	os.Exit(m.Run())
}

// serve runs a server until standard input ends, and prints its address.
func serve(dir string) {
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		os.Exit(1)
	}
	fmt.Println(ns.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	natstest.Stop(ns)
}

// process starts a server in a process of its own.
func process(b *testing.B) (url string, cpu func() time.Duration) {
	b.Helper()
	p := testkit.Start(b, testkit.Command{Env: []string{serverEnv + "=" + b.TempDir()}})
	return p.Stdout.Await(b, "^nats://.+$"), func() time.Duration { return processTime(b, p.PID()) }
}

// processTime is the CPU time of a process, 0 where /proc does not tell.
func processTime(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] { // of user and system, 100 a second
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func dial(b *testing.B, url string) *nats.Conn {
	b.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return nc
}

// delays collects how long it took until a change was seen.
type delays struct {
	mu  sync.Mutex
	all []time.Duration
}

func (d *delays) add(x time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, x)
}

func (d *delays) report(b *testing.B) {
	slices.Sort(d.all)
	if n := len(d.all); n > 0 {
		b.ReportMetric(float64(d.all[n/2].Nanoseconds())/1e6, "p50-ms")
		b.ReportMetric(float64(d.all[n*99/100].Nanoseconds())/1e6, "p99-ms")
	}
}

// BenchmarkPropagation is the time from announcing a change to its snapshot in
// another connection, next to a bare message of the same size.
func BenchmarkPropagation(b *testing.B) {
	for _, watchers := range []int{1, 100} {
		b.Run(fmt.Sprintf("watchers=%d/registry", watchers), func(b *testing.B) {
			url, _ := process(b)
			r := open(b, dial(b, url), kv.Options{})
			var d delays
			var seen sync.WaitGroup
			var began time.Time
			var ready sync.WaitGroup
			ready.Add(watchers)
			ctx, cancel := context.WithCancel(b.Context())
			var ended sync.WaitGroup
			for range watchers {
				w := open(b, dial(b, url), kv.Options{})
				ended.Go(func() {
					last := -1
					_ = w.Watch(ctx, "user", func(s events.Snapshot) {
						if last < 0 {
							last = 0
							ready.Done()
						}
						if len(s.Entries) > 0 && s.Entries[0].Weight != last { // a change, not the same again
							last = s.Entries[0].Weight
							d.add(time.Since(began))
							seen.Done()
						}
					})
				})
			}
			ready.Wait()
			seen.Add(watchers)
			idle := make(chan struct{}, 1) // the announcer has its answers
			a, err := r.Announce(instance("a"), kv.AnnounceOptions{Logger: quiet(nil), OnState: func(s kv.State) {
				if s.Registered() {
					idle <- struct{}{}
				}
			}})
			if err != nil {
				b.Fatal(err)
			}
			seen.Wait()
			<-idle
			d.all = nil
			for weight := 1; b.Loop(); weight++ {
				seen.Add(watchers)
				began = time.Now()
				if err := a.Update(func(in *events.Instance) { in.Weight = 1 + weight%9999 }); err != nil {
					b.Fatal(err)
				}
				seen.Wait()
				<-idle
			}
			_ = a.Leave(b.Context())
			cancel()
			ended.Wait()
			d.report(b)
		})
		b.Run(fmt.Sprintf("watchers=%d/raw", watchers), func(b *testing.B) {
			url, _ := process(b)
			var d delays
			var seen sync.WaitGroup
			var began time.Time
			for range watchers {
				nc := dial(b, url)
				if _, err := nc.Subscribe("x", func(*nats.Msg) {
					d.add(time.Since(began))
					seen.Done()
				}); err != nil {
					b.Fatal(err)
				}
				if err := nc.Flush(); err != nil {
					b.Fatal(err)
				}
			}
			nc := dial(b, url)
			data, err := events.Encode(instance("a"))
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				seen.Add(watchers)
				began = time.Now()
				if err := nc.Publish("x", data); err != nil {
					b.Fatal(err)
				}
				seen.Wait()
			}
			d.report(b)
		})
	}
}

// BenchmarkHeartbeat is what a heartbeat costs the server, with and without watches.
// The instances have a connection each; one alone, that waits for each answer,
// would measure how an idle server wakes up.
func BenchmarkHeartbeat(b *testing.B) {
	for _, watchers := range []int{0, 100} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			url, cpu := process(b)
			const n = 100
			type one struct {
				r   *kv.Registry
				in  events.Instance
				rev uint64
			}
			all := make(chan one, n)
			for i := range n {
				x := one{r: open(b, dial(b, url), kv.Options{}), in: instance(fmt.Sprint("i", i))}
				var err error
				if x.rev, err = x.r.Register(b.Context(), x.in, 0); err != nil {
					b.Fatal(err)
				}
				all <- x
			}
			for range watchers {
				v := watch(b, open(b, dial(b, url), kv.Options{}), "user")
				v.until("all", 10*time.Second, count(n))
			}
			before := cpu()
			b.ResetTimer()
			b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0)))
			b.RunParallel(func(pb *testing.PB) {
				x := <-all
				defer func() { all <- x }()
				for pb.Next() {
					if err := x.r.Renew(b.Context(), &x.in, x.rev); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "server-cpu-µs/op")
		})
	}
}

func BenchmarkRegister(b *testing.B) {
	for _, memory := range []bool{true, false} {
		b.Run(fmt.Sprintf("memory=%v", memory), func(b *testing.B) {
			url, _ := process(b)
			r := open(b, dial(b, url), kv.Options{Memory: memory})
			for i := 0; b.Loop(); i++ {
				if _, err := r.Register(b.Context(), instance(fmt.Sprint("i", i)), 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fill writes n records as fast as the server takes them.
func fill(b *testing.B, nc *nats.Conn, n int) {
	b.Helper()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		in := instance(fmt.Sprintf("i%06d", i))
		in.Incarnation, in.Version, in.Started = "ABCDEFGHIJKL", "1.4.2", time.Now()
		in.Location.Host, in.Location.Rack = fmt.Sprint("node-", i%500), fmt.Sprint("r", i%40)
		in.Endpoints = map[string]string{events.HTTP: fmt.Sprintf("10.%d.%d.5:8080", i/200%200, i%200), events.GRPC: fmt.Sprintf("10.%d.%d.5:9090", i/200%200, i%200)}
		in.Metadata = map[string]string{"team": "a"}
		data, err := events.Encode(in)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "$KV.proxima." + in.Key().Inst(), Data: data}); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
}

func BenchmarkSnapshot(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			url, _ := process(b)
			nc := dial(b, url)
			r := open(b, nc, kv.Options{})
			fill(b, nc, n)
			b.ReportAllocs()
			for b.Loop() {
				s, err := r.Snapshot(b.Context(), "user")
				if err != nil || len(s) != 1 || len(s[0].Entries) != n {
					b.Fatalf("%d snapshots, %v", len(s), err)
				}
			}
			b.ReportMetric(held(b, r, n), "B/instance")
		})
	}
}

// held is the memory a view holds for each of n instances.
func held(b *testing.B, r *kv.Registry, n int) float64 {
	b.Helper()
	before := heap()
	v := watch(b, r, "user")
	v.until("all", time.Minute, count(n))
	after := heap()
	v.close()
	return float64(after-before) / float64(n)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
