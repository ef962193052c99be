// Quality says how good picks are on real data: it reads round trips that were
// measured between real places, puts instances and callers there, and lets
// pkg/latency and pkg/selector run on virtual time. See README.md.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program: 0 is success, 2 is bad input, 1 any other failure.
func run(args []string, stdout, stderr io.Writer) int {
	c, help, err := parseFlags(args)
	if help != "" {
		fmt.Fprint(stdout, help)
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "quality:", err)
		return 2
	}
	d, err := load(c.files, c.unit)
	if err == nil {
		err = c.fits(d)
	}
	if err != nil {
		fmt.Fprintln(stderr, "quality:", err)
		return 2
	}
	r, err := measure(c, d)
	if err == nil {
		if c.json {
			err = r.json(stdout)
		} else {
			err = r.table(stdout)
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "quality:", err)
		return 1
	}
	return 0
}

// measure lives through all rounds, as many at a time as there are processors.
func measure(c config, d dataset) (report, error) {
	begin := time.Now()
	rounds := make([]result, c.rounds)
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range rounds {
		group.Go(func() error {
			return bubble(func(ctx context.Context) error {
				w := newWorld(c, d, c.seed+uint64(i)<<32)
				err := w.run(ctx)
				rounds[i] = w.result
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		return report{}, err
	}
	return summarize(c, d, rounds, time.Since(begin)), nil
}
