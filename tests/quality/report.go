package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// report is what is printed. Its field names are the keys of -json.
type report struct {
	File           string `json:"file"`
	Nodes          int    `json:"nodes"`
	Slices         int    `json:"slices"`
	Callers        int    `json:"callers"`   // of one round
	Instances      int    `json:"instances"` // of one round
	Candidates     int    `json:"candidates"`
	CallersPerNode int    `json:"callers_per_node"`
	Services       int    `json:"services"`
	Zones          int    `json:"zones"`
	Labels         bool   `json:"labels"`
	Share          bool   `json:"share"`
	Coordinates    bool   `json:"coordinates"`
	Probes         int    `json:"probes"`
	Strategy       string `json:"strategy"`
	Seed           uint64 `json:"seed"`
	Rounds         int    `json:"rounds"`

	Picks            int     `json:"picks"`
	Success          float64 `json:"success"`
	StretchP50       float64 `json:"stretch_p50"`
	StretchP90       float64 `json:"stretch_p90"`
	StretchP99       float64 `json:"stretch_p99"`
	RegretMean       float64 `json:"regret_ms_mean"`
	PicksUnreachable int     `json:"picks_unreachable"`

	ProbesPerCaller     float64 `json:"probes_per_caller_minute"`
	ProbesPerCallerLast float64 `json:"probes_per_caller_minute_last"`
	ProbesPerInstance   struct {
		Mean float64 `json:"mean"`
		Max  float64 `json:"max"`
	} `json:"probes_per_instance_minute"`
	ChangesPerCaller  float64            `json:"changes_per_caller_minute"`
	MessagesPerCaller float64            `json:"messages_per_caller_minute"`
	MessageBytes      float64            `json:"message_bytes_mean"`
	Exchanges         float64            `json:"exchanges_per_caller_minute"`
	PickedBySource    map[string]float64 `json:"picked_by_source"`

	FirstPicks      int     `json:"first_picks"`
	FirstPickKind   string  `json:"first_pick_kind"` // newcomer, unknown_service or none
	FirstSuccess    float64 `json:"first_pick_success"`
	FirstStretchP50 float64 `json:"first_pick_stretch_p50"`
	FirstStretchP90 float64 `json:"first_pick_stretch_p90"`

	PerSlice    []sliceReport `json:"per_slice,omitempty"`
	Notes       []string      `json:"notes,omitempty"`
	WallSeconds float64       `json:"wall_seconds"`
}

// sliceReport is what was picked at the end of one slice of a series.
type sliceReport struct {
	Success    float64 `json:"success"`
	StretchP90 float64 `json:"stretch_p90"`
	RegretMean float64 `json:"regret_ms_mean"`
}

// summarize makes one report of all rounds: picks are taken together, rates
// are averaged.
func summarize(c config, d dataset, rounds []result, took time.Duration) report {
	r := report{
		File: strings.Join(c.files, ", "), Nodes: len(d.names), Slices: len(d.slices),
		Callers: rounds[0].callers, Instances: rounds[0].instances,
		Candidates: c.candidates, CallersPerNode: c.callersPerNode, Services: c.services, Zones: c.zones,
		Labels: c.labels, Share: c.share, Coordinates: c.coordinates, Probes: c.probes,
		Strategy: string(c.strategy), Seed: c.seed, Rounds: len(rounds),
		PickedBySource: make(map[string]float64), WallSeconds: took.Seconds(),
	}
	var picks, first tally
	perSlice := make([]tally, len(rounds[0].slices))
	share := 1 / float64(len(rounds))
	for _, o := range rounds {
		picks.merge(o.picks)
		first.merge(o.first)
		for i := range perSlice {
			perSlice[i].merge(o.slices[i])
		}
		r.ProbesPerCaller += share * o.probes
		r.ProbesPerCallerLast += share * o.probesLast
		r.ProbesPerInstance.Mean += share * o.received
		r.ProbesPerInstance.Max = max(r.ProbesPerInstance.Max, o.receivedMost)
		r.ChangesPerCaller += share * o.changes
		r.MessagesPerCaller += share * o.messages
		r.MessageBytes += share * o.messageBytes
		r.Exchanges += share * o.exchanges
	}
	for _, o := range rounds {
		for source, n := range o.sources {
			r.PickedBySource[source] += ratio(float64(n), picks.picks)
		}
	}
	r.Picks, r.Success, r.RegretMean, r.PicksUnreachable = picks.picks, picks.success(), picks.regretMean(), picks.unreachable
	r.StretchP50, r.StretchP90, r.StretchP99 = picks.percentile(50), picks.percentile(90), picks.percentile(99)
	r.FirstPicks, r.FirstSuccess = first.picks, first.success()
	r.FirstStretchP50, r.FirstStretchP90 = first.percentile(50), first.percentile(90)
	switch {
	case c.newcomers():
		r.FirstPickKind = "newcomer"
	case c.services > 1:
		r.FirstPickKind = "unknown_service"
	default:
		r.FirstPickKind = "none"
		r.Notes = append(r.Notes, "no first picks: with one service and no other caller to ask there is nothing to pick from, want -services of at least 2")
	}
	if len(perSlice) > 1 {
		for i := range perSlice {
			t := &perSlice[i]
			r.PerSlice = append(r.PerSlice, sliceReport{t.success(), t.percentile(90), t.regretMean()})
		}
	}
	return r
}

func (r *report) json(w io.Writer) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}

func (r *report) table(w io.Writer) error {
	var b strings.Builder
	row := func(name, format string, values ...any) {
		fmt.Fprintf(&b, "%-28s "+format+"\n", append([]any{name}, values...)...)
	}
	row("file", "%s", r.File)
	row("world", "%d nodes, %d slices, %d callers, %d instances (%d per service), %d rounds, seed %d, %s",
		r.Nodes, r.Slices, r.Callers, r.Instances, r.Candidates, r.Rounds, r.Seed, r.Strategy)
	row("success", "%.2f %% of %d picks", 100*r.Success, r.Picks)
	row("stretch p50, p90, p99", "%.3f  %.3f  %.3f", r.StretchP50, r.StretchP90, r.StretchP99)
	row("regret", "%.2f ms", r.RegretMean)
	if r.PicksUnreachable > 0 {
		row("picks of unreachable ones", "%d", r.PicksUnreachable)
	}
	row("first pick ("+r.FirstPickKind+")", "%.2f %% of %d, stretch p50 %.3f, p90 %.3f", 100*r.FirstSuccess, r.FirstPicks, r.FirstStretchP50, r.FirstStretchP90)
	row("picked by distance", "%s", r.sources())
	row("probes/caller/min", "%.1f, in the last minute %.1f", r.ProbesPerCaller, r.ProbesPerCallerLast)
	row("probes/instance/min", "mean %.1f, max %.1f", r.ProbesPerInstance.Mean, r.ProbesPerInstance.Max)
	row("changes/caller/min", "%.2f", r.ChangesPerCaller)
	row("messages/caller/min", "%.1f of %.0f bytes", r.MessagesPerCaller, r.MessageBytes)
	row("exchanges/caller/min", "%.1f", r.Exchanges)
	if len(r.PerSlice) > 0 {
		b.WriteString("\nslice  success  stretch p90  regret ms\n")
		for i, s := range r.PerSlice {
			fmt.Fprintf(&b, "%5d  %5.1f %%  %11.3f  %9.2f\n", i+1, 100*s.Success, s.StretchP90, s.RegretMean)
		}
	}
	for _, n := range r.Notes {
		row("note", "%s", n)
	}
	row("wall time", "%.1f s", r.WallSeconds)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *report) sources() string {
	var parts []string
	for _, source := range slices.Sorted(maps.Keys(r.PickedBySource)) {
		parts = append(parts, fmt.Sprintf("%s %.1f %%", source, 100*r.PickedBySource[source]))
	}
	return strings.Join(parts, ", ")
}
