package demo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// show prints or draws the state until ctx ends.
func (d *demo) show(ctx context.Context) error {
	every := time.Second
	if d.o.Live {
		every = 250 * time.Millisecond
		fmt.Fprint(d.o.Out, "\x1b[2J\x1b[?25l") // clear the screen, hide the cursor
		defer fmt.Fprint(d.o.Out, "\x1b[?25h\n")
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	seen := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		e, err := d.selector.Explain(ctx, selector.Request{Service: service})
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			fmt.Fprintf(d.o.Out, "%5.1fs  %v\n", time.Since(d.tally.began).Seconds(), err)
			continue
		}
		if d.o.Live {
			d.draw(e, d.tally.look(0))
			continue
		}
		l := d.tally.look(seen)
		seen += len(l.events)
		for _, ev := range l.events {
			fmt.Fprintf(d.o.Out, "%5.1fs  ** %s\n", ev.at.Seconds(), ev.String())
		}
		d.line(e, l)
	}
}

// line prints one line: the calls, their failures, and the instances that answered
// with their distance.
func (d *demo) line(e selector.Explanation, l look) {
	var parts []string
	for _, c := range e.Instances {
		if n := l.recent[c.ID]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d (%s %.1f ms %s)", c.ID, n, c.Circle, c.DistanceMS, c.DistanceSource))
			delete(l.recent, c.ID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.recent)) {
		parts = append(parts, fmt.Sprintf("%s %d (gone)", id, l.recent[id]))
	}
	fmt.Fprintf(d.o.Out, "%5.1fs  %d calls, %d failed, answered by %s\n",
		time.Since(d.tally.began).Seconds(), l.calls, l.failed, strings.Join(parts, ", "))
}

// draw redraws the whole screen.
func (d *demo) draw(e selector.Explanation, l look) {
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\x1b[K\n", args...) }
	r := d.tally.result()
	b.WriteString("\x1b[H")
	put("\x1b[1mProxima\x1b[0m  a caller in %s calls %q %d times a second; round trips between regions as measured on AWS", caller.Zone, service, perSecond)
	put("")
	put("\x1b[2m%-8s %-17s %-10s %-10s %10s %-9s %-9s %6s  %s\x1b[0m", "INSTANCE", "ZONE", "PROCESS", "CIRCLE", "DISTANCE", "SOURCE", "BREAKER", "CALLS", "LAST ¼ s")
	for _, p := range d.processes {
		i := slices.IndexFunc(e.Instances, func(c selector.Candidate) bool { return c.ID == p.ID })
		n := l.recent[p.ID]
		bar := strings.Repeat("█", min(n, 40))
		if i < 0 {
			put("%-8s %-17s %s%-10s\x1b[0m \x1b[2m%-10s\x1b[0m %40s  %s", p.ID, p.Location.Zone, color(p.current()), p.current(), "not listed", "", bar)
			continue
		}
		c := e.Instances[i]
		put("%-8s %-17s %s%-10s\x1b[0m %-10s %7.2f ms %-9s %s%-9s\x1b[0m %6d  \x1b[32m%s\x1b[0m", p.ID, p.Location.Zone, color(p.current()), p.current(),
			c.Circle, c.DistanceMS, c.DistanceSource, color(c.Breaker), c.Breaker, c.Picks, bar)
	}
	put("")
	put("calls %d   failed after retries %d   success %.2f %%   extra attempts %d   p50 %s   p99 %s",
		r.Calls, r.Failed, r.success(), r.Attempts-r.Calls, short(r.P50), short(r.P99))
	put("")
	for _, ev := range r.events[max(0, len(r.events)-7):] {
		put("%6.1fs  \x1b[33m%s\x1b[0m  %s", ev.at.Seconds(), ev.String(), ev.outcome())
	}
	put("")
	put("\x1b[2mCtrl-C ends it. From another terminal: router explain %s --nats-url %s\x1b[0m", service, d.url)
	b.WriteString("\x1b[J")
	fmt.Fprint(d.o.Out, b.String())
}

func color(state string) string {
	switch state {
	case running, "closed":
		return "\x1b[32m"
	case stopping, "half-open", paused:
		return "\x1b[33m"
	}
	return "\x1b[31m"
}

// summary is the text at the end of the demo.
func summary(r Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d calls, %d failed after retries: %.2f %% success; %d extra attempts; p50 %s, p99 %s\n",
		r.Calls, r.Failed, r.success(), r.Attempts-r.Calls, short(r.P50), short(r.P99))
	answers := 0
	for _, n := range r.Circles {
		answers += n
	}
	var parts []string
	for _, circle := range []string{"zone", "region", "elsewhere"} {
		parts = append(parts, fmt.Sprintf("%s %.1f %%", circle, 100*float64(r.Circles[circle])/float64(max(1, answers))))
	}
	fmt.Fprintf(&b, "answers came from: %s\n", strings.Join(parts, ", "))
	for _, ev := range r.events {
		fmt.Fprintf(&b, "%6.1fs  %-47s %s\n", ev.at.Seconds(), ev.String(), ev.outcome())
	}
	if r.Failure != nil {
		fmt.Fprintf(&b, "the last failure: %v\n", r.Failure)
	}
	return b.String()
}

// outcome is the effect of an event that the caller measured.
func (e *event) outcome() string {
	if strings.HasPrefix(e.what, "start") || strings.HasPrefix(e.what, "resume") {
		if e.firstAnswer == 0 {
			return ""
		}
		return "calls come back after " + short(e.firstAnswer)
	}
	var parts []string
	if e.tries > 0 {
		parts = append(parts, fmt.Sprintf("avoided after %d failed %s, the last at %s", e.tries, attempts(e.tries), short(e.lastTry)))
	}
	if e.lastAnswer > 0 {
		parts = append(parts, "the last answer at "+short(e.lastAnswer))
	}
	return strings.Join(parts, "; ")
}

func attempts(n int) string {
	if n == 1 {
		return "attempt"
	}
	return "attempts"
}

func (r Result) success() float64 {
	return 100 * float64(r.Calls-r.Failed) / float64(max(1, r.Calls))
}

func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}
