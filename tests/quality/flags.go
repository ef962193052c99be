package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// config is what the flags say.
type config struct {
	files          []string
	unit           float64 // of the files, in milliseconds
	candidates     int
	callersPerNode int
	zones          int
	labels         bool
	share          bool
	coordinates    bool
	probes         int
	warmup         time.Duration
	sliceTime      time.Duration
	seed           uint64
	services       int
	rounds         int
	strategy       selector.Strategy
	ahead          int
	jitter         float64
	json           bool
}

const usage = `Usage: go run ./tests/quality -file FILE [flags]

Says how good picks are on round trips that were measured between real places.

`

// newcomers says whether first picks are those of new processes, which can ask
// others on their node.
func (c *config) newcomers() bool { return c.callersPerNode > 1 && c.share }

// parseFlags returns the text of -h instead, if that is asked for.
func parseFlags(args []string) (c config, help string, err error) {
	set := flag.NewFlagSet("quality", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	set.Func("file", "`FILE` of round trips, packed with gzip or not: a CSV matrix (from,<name>,…), square matrices of numbers one after another, the weekly form of the IBM file, or source,destination,min,avg,max,mdev; repeat it for consecutive slices of time", func(s string) error {
		c.files = append(c.files, s)
		return nil
	})
	unit := set.String("unit", "ms", "`UNIT` of the files, ms or s")
	set.IntVar(&c.candidates, "candidates", 10, "instances of each service, on different nodes")
	set.IntVar(&c.callersPerNode, "callers-per-node", 10, "callers on each node")
	set.IntVar(&c.zones, "zones", 0, "zones that the nodes are put into, by their real distances; 0: each node is a zone")
	set.BoolVar(&c.labels, "labels", true, "callers and instances know their region and zone")
	set.BoolVar(&c.share, "share", true, "callers share what they measure")
	set.BoolVar(&c.coordinates, "coordinates", true, "callers use network coordinates")
	set.IntVar(&c.probes, "probes", 10, "budget of probes per caller and minute")
	minutes := set.Float64("minutes", 2, "minutes until picks are judged; in a series, how long the first slice lasts")
	sliceMinutes := set.Float64("slice-minutes", 1, "minutes that each further slice of a series lasts")
	set.Uint64Var(&c.seed, "seed", 1, "of where instances and callers are; the round trips drawn differ from run to run")
	set.IntVar(&c.services, "services", 0, "services that each caller calls; with more than one there are four times as many in all, and the callers of each node call some of them. Default 1, or 3 with -callers-per-node 1 or -share=false, where first picks are those of services that a caller does not know")
	set.IntVar(&c.rounds, "rounds", 2, "worlds with other placements; the figures are over all of them")
	strategy := set.String("strategy", string(selector.Nearest), "the selector's strategy; success asks for the very nearest, which only nearest aims at")
	set.IntVar(&c.ahead, "ahead", 1, "in a series, the picks at the end of a slice are judged by that many slices later")
	set.Float64Var(&c.jitter, "jitter", 0, "relative standard deviation of round trips where the file does not say how they scatter; lognormal, the file's value is the mean")
	set.BoolVar(&c.json, "json", false, "print one JSON object")

	err = set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		var b bytes.Buffer
		b.WriteString(usage)
		set.SetOutput(&b)
		set.PrintDefaults()
		return c, b.String(), nil
	}
	if err != nil {
		return c, "", err
	}
	if set.NArg() > 0 {
		return c, "", fmt.Errorf("argument %.40q, want flags only, see -h", set.Arg(0))
	}
	if c.strategy, err = selector.ParseStrategy(*strategy); err != nil {
		return c, "", err
	}
	given := make(map[string]bool)
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["services"] {
		c.services = 1
		if !c.newcomers() {
			c.services = 3
		}
	}
	switch *unit {
	case "ms":
		c.unit = 1
	case "s":
		c.unit = 1000
	default:
		return c, "", fmt.Errorf("-unit %.20q, want ms or s", *unit)
	}
	c.warmup, err = inMinutes("minutes", *minutes)
	if err == nil {
		c.sliceTime, err = inMinutes("slice-minutes", *sliceMinutes)
	}
	if err == nil {
		err = c.validate()
	}
	return c, "", err
}

// inMinutes rounds to the tick of the world.
func inMinutes(name string, minutes float64) (time.Duration, error) {
	if !(minutes >= 0.1 && minutes <= 24*60) {
		return 0, fmt.Errorf("-%s %v, want 0.1 to 1440", name, minutes)
	}
	return time.Duration(minutes * float64(time.Minute)).Round(tick), nil
}

func (c *config) validate() error {
	if len(c.files) == 0 {
		return errors.New("no -file, see -h")
	}
	for _, f := range []struct {
		name       string
		value      int
		least, max int
	}{
		{"candidates", c.candidates, 1, maxNodes},
		{"callers-per-node", c.callersPerNode, 1, 1000},
		{"zones", c.zones, 0, maxNodes},
		{"probes", c.probes, 1, 100_000},
		{"services", c.services, 1, 1000},
		{"rounds", c.rounds, 1, 1000},
		{"ahead", c.ahead, 0, maxCells},
	} {
		if f.value < f.least || f.value > f.max {
			return fmt.Errorf("-%s %d, want %d to %d", f.name, f.value, f.least, f.max)
		}
	}
	if !(c.jitter >= 0 && c.jitter <= 10) || math.IsNaN(c.jitter) {
		return fmt.Errorf("-jitter %v, want 0 to 10", c.jitter)
	}
	return nil
}

// fits refuses what the data has no room for.
func (c *config) fits(d dataset) error {
	n, file := len(d.names), strings.Join(c.files, ", ")
	switch {
	case c.candidates > n:
		return fmt.Errorf("-candidates %d, but %s has %d nodes", c.candidates, file, n)
	case c.zones > n:
		return fmt.Errorf("-zones %d, but %s has %d nodes", c.zones, file, n)
	case len(d.slices) > 1 && c.ahead >= len(d.slices):
		return fmt.Errorf("-ahead %d, but %s has %d slices", c.ahead, file, len(d.slices))
	}
	return nil
}
