package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// printJSON prints v as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows in aligned columns.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, columns ...any) *table {
	t := &table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(columns...)
	return t
}

// row prints an empty cell as "-", so that columns can be told apart.
func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, cmp.Or(fmt.Sprint(c), "-"))
	}
	fmt.Fprintln(t.w)
}

func (t *table) end() error { return t.w.Flush() }

// pairs prints a map in the order of its keys: a=1,b=2.
func pairs(m map[string]string) string {
	all := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		all = append(all, key+"="+m[key])
	}
	return strings.Join(all, ",")
}

// place prints a location, also an unknown one.
func place(l topology.Location) string {
	if l == (topology.Location{}) {
		return "unknown"
	}
	return l.String()
}

// status prints the status of an instance with the marks of its entry.
func status(s string, suspect, evacuated bool) string {
	if suspect {
		s += ", suspect"
	}
	if evacuated {
		s += ", evacuated"
	}
	return s
}

// age prints the time since t in a few characters, nothing if t is unknown.
func age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := max(time.Since(t), 0)
	switch {
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

func milliseconds(ms float64) string { return fmt.Sprintf("%.3g ms", ms) }
