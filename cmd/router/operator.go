package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// answerWait bounds how long an operator's command waits for the registry.
const answerWait = 3 * time.Second

// operatorFlags are those of the commands for operators.
type operatorFlags struct {
	NATS     daemon.NATSFlags     `embed:""`
	Registry daemon.RegistryFlags `embed:""`
	JSON     bool                 `name:"json" help:"Print JSON."`
}

// session is a connection of an operator to a registry.
type session struct {
	nc       *nats.Conn
	registry *kv.Registry
	log      *slog.Logger
}

// open connects and opens the registry. It never makes one.
func (f *operatorFlags) open(ctx context.Context, p *daemon.Process) (*session, error) {
	if err := f.Registry.Validate(); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	nc, err := f.NATS.Connect(ctx, "proxima-operator", log)
	if err != nil {
		return nil, err
	}
	o := f.Registry.Options(log)
	o.NoCreate = true
	registry, err := kv.Open(ctx, nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &session{nc, registry, log}, nil
}

func (s *session) close() { s.nc.Close() }

// printJSON prints one document.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows in columns.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, columns ...any) *table {
	t := &table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(columns...)
	return t
}

func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, cell(c))
	}
	fmt.Fprintln(t.w)
}

func (t *table) end() error { return t.w.Flush() }

// cell is never empty, so that columns can be told apart.
func cell(v any) string { return cmp.Or(fmt.Sprint(v), "-") }

// where is a location in a table.
func where(l topology.Location) string {
	if l == (topology.Location{}) {
		return "unknown"
	}
	return l.String()
}

// age is how long ago that was, in a few characters.
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
