package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// config is what the flags say.
type config struct {
	Sections      []string      `json:"sections"`
	Instances     int           `json:"instances"`
	Services      int           `json:"services"`
	Announcements int           `json:"announcements"`
	Leases        int           `json:"leases"`
	Watchers      []int         `json:"watchers"`
	Large         []int         `json:"large"`
	Changes       int           `json:"changes"`
	ChurnTime     time.Duration `json:"churn_ns"`
	Block         time.Duration `json:"block_ns"`
	Fanout        int           `json:"fanout"`
	Expiring      int           `json:"expiring"`
	Callers       int           `json:"callers"`
	Outage        time.Duration `json:"outage_ns"`
	Live          int           `json:"live"`
	Steady        time.Duration `json:"steady_ns"`

	json    bool
	profile string
}

const help = `Usage: go run ./tests/scale [flags]

Says what Proxima costs where there is much of it, next to the figures of its
peers. The defaults take about eight minutes, -quick one or two. See tests/scale/README.md.

`

// numbers is a flag of several whole numbers joined by commas.
type numbers struct{ all *[]int }

func (n numbers) String() string {
	if n.all == nil {
		return ""
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(*n.all), " ", ","), "[]")
}

func (n numbers) Set(s string) error {
	*n.all = nil
	for part := range strings.SplitSeq(s, ",") {
		i, err := strconv.Atoi(part)
		if err != nil || i < 0 || i > 1_000_000 {
			return fmt.Errorf("%.20q, want numbers of 0 to 1000000 joined by commas", part)
		}
		*n.all = append(*n.all, i)
	}
	return nil
}

// parseFlags returns the text of -h instead, if that is asked for.
func parseFlags(args []string) (c config, text string, err error) {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	set := flag.NewFlagSet("scale", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	which := set.String("sections", strings.Join(names, ","), "what to run, joined by commas")
	quick := set.Bool("quick", false, "smaller sizes and shorter times, unless given: a minute or two in all")
	c.Watchers, c.Large = []int{0, 100, 1000}, []int{5000, 10_000}
	set.IntVar(&c.Instances, "instances", 100_000, "fleet: instances that are listed")
	set.IntVar(&c.Services, "services", 1000, "fleet: services that they are of")
	set.IntVar(&c.Announcements, "announcements", 10_000, "announce: announcements that one process keeps")
	set.IntVar(&c.Leases, "leases", 10_000, "heartbeats: leases that are renewed every 5 s")
	set.Var(numbers{&c.Watchers}, "watchers", "heartbeats: watching connections, `N,…`")
	set.Var(numbers{&c.Large}, "large", "service: instances of one service, `N,…`; churn takes the first")
	set.IntVar(&c.Changes, "changes", 500, "churn: changes a second")
	set.DurationVar(&c.ChurnTime, "churn-time", time.Minute, "churn, fanout: how long")
	set.DurationVar(&c.Block, "block", 10*time.Second, "churn: how long a slow caller's consumer is blocked")
	set.IntVar(&c.Fanout, "fanout", 2000, "fanout: connections that watch one service")
	set.IntVar(&c.Expiring, "expiring", 10_000, "expiry: instances that expire together")
	set.IntVar(&c.Callers, "callers", 1000, "start, storm: callers at once; storm: half as many more")
	set.DurationVar(&c.Outage, "outage", 10*time.Second, "outage: how long the server is killed, or frozen; the ttl is half of that")
	set.IntVar(&c.Live, "live", 100, "outage: live instances, and watchers")
	set.DurationVar(&c.Steady, "steady", 15*time.Second, "announce, heartbeats: how long CPU is measured")
	set.StringVar(&c.profile, "profile", "", "write profiles of all processes into `DIR`, for go tool pprof")
	set.BoolVar(&c.json, "json", false, "print one JSON object")

	err = set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		var b bytes.Buffer
		b.WriteString(help)
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
	given := map[string]bool{}
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if *quick {
		c.shrink(given)
	}
	for name := range strings.SplitSeq(*which, ",") {
		if !slices.Contains(names, name) {
			return c, "", fmt.Errorf("-sections: %.20q is none of %s", name, strings.Join(names, ", "))
		}
		c.Sections = append(c.Sections, name)
	}
	return c, "", c.validate()
}

// shrink makes what was not given small.
func (c *config) shrink(given map[string]bool) {
	small := func(name string, n *int, to int) {
		if !given[name] {
			*n = to
		}
	}
	short := func(name string, d *time.Duration, to time.Duration) {
		if !given[name] {
			*d = to
		}
	}
	small("instances", &c.Instances, 10_000)
	small("services", &c.Services, 100)
	small("announcements", &c.Announcements, 1000)
	small("leases", &c.Leases, 2000)
	small("changes", &c.Changes, 300)
	small("fanout", &c.Fanout, 200)
	small("expiring", &c.Expiring, 2000)
	small("callers", &c.Callers, 100)
	small("live", &c.Live, 20)
	if !given["watchers"] {
		c.Watchers = []int{0, 50}
	}
	if !given["large"] {
		c.Large = []int{2000}
	}
	short("churn-time", &c.ChurnTime, 5*time.Second)
	short("block", &c.Block, 2*time.Second)
	short("outage", &c.Outage, 3*time.Second)
	short("steady", &c.Steady, 3*time.Second)
}

func (c *config) validate() error {
	for _, f := range []struct {
		name       string
		value      int
		least, max int
	}{
		{"instances", c.Instances, 1, 1_000_000},
		{"services", c.Services, 1, c.Instances},
		{"announcements", c.Announcements, 1, 1_000_000},
		{"leases", c.Leases, 10, 1_000_000},
		{"changes", c.Changes, writers, 100_000},
		{"fanout", c.Fanout, 1, 15_000},
		{"expiring", c.Expiring, 1, 1_000_000},
		{"callers", c.Callers, 1, 10_000},
		{"live", c.Live, 1, 5000},
	} {
		if f.value < f.least || f.value > f.max {
			return fmt.Errorf("-%s %d, want %d to %d", f.name, f.value, f.least, f.max)
		}
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"churn-time", c.ChurnTime}, {"block", c.Block}, {"outage", c.Outage}, {"steady", c.Steady}} {
		if f.value < 100*time.Millisecond || f.value > 24*time.Hour {
			return fmt.Errorf("-%s %v, want 100ms to 24h", f.name, f.value)
		}
	}
	if slices.Contains(c.Large, 0) {
		return errors.New("-large 0, want services with instances")
	}
	return nil
}
