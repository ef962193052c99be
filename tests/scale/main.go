// Scale says what Proxima costs where there is much of it: instances, leases,
// changes, callers, outages. It runs NATS servers and callers as processes of
// their own. See README.md.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"
)

func main() {
	if name := os.Getenv(roleEnv); name != "" {
		os.Exit(play(name))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// sections are the parts of the program, in the order in which they run.
var sections = []struct {
	name string
	run  func(context.Context, *stage) error
}{
	{"fleet", fleet},
	{"announce", announce},
	{"heartbeats", heartbeats},
	{"service", service},
	{"churn", churn},
	{"fanout", fanout},
	{"expiry", expiry},
	{"start", start},
	{"outage", outage},
	{"storm", storm},
}

// run is the program: 0 is success, 1 a promise that was broken or any other
// failure, 2 bad flags.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, help, err := parseFlags(args)
	if help != "" {
		fmt.Fprint(stdout, help)
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "scale:", err)
		return 2
	}
	if c.profile != "" {
		_ = os.Setenv(profileEnv, c.profile) // children get it with the rest
		defer profile("main")()
	}
	r := report{Config: c, Processors: runtime.GOMAXPROCS(0), Load: load()}
	began := time.Now()
	for _, section := range sections {
		if !slices.Contains(c.Sections, section.name) {
			continue
		}
		fmt.Fprintf(stderr, "%5.0f s  %s\n", time.Since(began).Seconds(), section.name)
		s := &stage{config: c, section: section.name, report: &r}
		err := section.run(ctx, s)
		s.end()
		if err != nil {
			fmt.Fprintf(stderr, "scale: %s: %v\n", section.name, err)
			r.Failed = append(r.Failed, section.name)
		}
		if ctx.Err() != nil {
			break
		}
	}
	r.WallSeconds = time.Since(began).Seconds()
	if c.json {
		err = r.json(stdout)
	} else {
		err = r.table(stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "scale:", err)
		return 1
	}
	if len(r.Failed) > 0 || r.broken() > 0 {
		return 1
	}
	return 0
}
