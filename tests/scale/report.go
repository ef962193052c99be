package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// report is what is printed. Its field names are the keys of -json.
type report struct {
	Config      config   `json:"config"`
	Processors  int      `json:"processors"`
	Load        float64  `json:"load"` // of the last minute before the begin: what others made of it
	Figures     []figure `json:"figures"`
	Failed      []string `json:"failed,omitempty"` // sections that could not be run
	WallSeconds float64  `json:"wall_seconds"`
}

// figure is one value that was measured, next to what is known of others.
type figure struct {
	Section string  `json:"section"`
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit,omitempty"`
	// Etcd is what etcd 3.7 reached on a machine of this kind.
	Etcd *float64 `json:"etcd,omitempty"`
	// Most and Least are what is asked for.
	Most  *float64 `json:"most,omitempty"`
	Least *float64 `json:"least,omitempty"`
	// Promise says that missing Most is no matter of speed but a fault.
	Promise bool `json:"promise,omitempty"`
}

// option adds to a figure.
type option func(*figure)

func etcd(v float64) option    { return func(f *figure) { f.Etcd = &v } }
func atMost(v float64) option  { return func(f *figure) { f.Most = &v } }
func atLeast(v float64) option { return func(f *figure) { f.Least = &v } }

// none is the promise that there is not one.
func none(f *figure) { f.Most, f.Promise = new(float64), true }

func (r *report) add(section, name string, value float64, unit string, opts ...option) {
	f := figure{Section: section, Name: name, Value: value, Unit: unit}
	for _, o := range opts {
		o(&f)
	}
	r.Figures = append(r.Figures, f)
}

// missed says whether less was reached than is asked for.
func (f *figure) missed() bool {
	return f.Most != nil && f.Value > *f.Most || f.Least != nil && f.Value < *f.Least || math.IsNaN(f.Value)
}

// broken is how many promises were broken.
func (r *report) broken() int {
	n := 0
	for i := range r.Figures {
		if f := &r.Figures[i]; f.Promise && f.missed() {
			n++
		}
	}
	return n
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
	fmt.Fprintf(&b, "%-66s %14s  %12s  %10s\n", "", "measured", "etcd", "asked for")
	section := ""
	for i := range r.Figures {
		f := &r.Figures[i]
		if f.Section != section {
			section = f.Section
			fmt.Fprintf(&b, "%s\n", section)
		}
		peer, asked, note := "", "", ""
		if f.Etcd != nil {
			peer = number(*f.Etcd)
		}
		switch {
		case f.Least != nil:
			asked = "≥ " + number(*f.Least)
		case f.Most != nil:
			asked = "≤ " + number(*f.Most)
		}
		switch {
		case f.Promise && f.missed():
			note = "  BROKEN"
		case f.missed():
			note = "  missed"
		}
		fmt.Fprintf(&b, "  %-64s %14s  %12s  %10s%s\n", f.Name, strings.TrimSpace(number(f.Value)+" "+f.Unit), peer, asked, note)
	}
	for _, name := range r.Failed {
		fmt.Fprintf(&b, "%s could not be run\n", name)
	}
	fmt.Fprintf(&b, "in all %.0f s on %d processors that had a load of %.1f before\n", r.WallSeconds, r.Processors, r.Load)
	_, err := io.WriteString(w, b.String())
	return err
}

// number writes three significant digits, and whole numbers as they are.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "none"
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
