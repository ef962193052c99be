package announcing

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Board shows where every announcement is: it logs each change, and says
// whether all are well. It is safe for concurrent use.
type Board struct {
	log *slog.Logger

	mu      sync.Mutex       // guards what follows
	lines   map[string]*line // by name
	failure error            // nothing can be announced
}

// name is what an announcer knows an instance by.
func name(service, id string) string { return service + "/" + id }

type line struct {
	about []any // attributes that tell the instance
	state kv.State
	seen  bool // it has been registered before
}

// NewBoard makes an empty board.
func NewBoard(log *slog.Logger) *Board {
	return &Board{log: log, lines: make(map[string]*line)}
}

// add puts an instance on the board, where won says who knew its location.
func (b *Board) add(in *events.Instance, won map[topology.Level]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines[name(in.Service, in.ID)] = &line{
		about: about(in, won),
		state: kv.State{Phase: kv.Checking, Status: cmp.Or(in.Status, events.Up)},
	}
	b.failure = nil
}

// describe changes what is said about an instance on the board.
func (b *Board) describe(in *events.Instance, won map[topology.Level]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.lines[name(in.Service, in.ID)]; l != nil {
		l.about = about(in, won)
	}
}

// about are the attributes that tell an instance.
func about(in *events.Instance, won map[topology.Level]string) []any {
	endpoints := make([]string, 0, len(in.Endpoints))
	for _, protocol := range slices.Sorted(maps.Keys(in.Endpoints)) {
		endpoints = append(endpoints, protocol+"="+in.Endpoints[protocol])
	}
	by := won[topology.Zone]
	if in.Location.Zone == "" {
		by = "nobody"
	}
	return []any{
		"service", in.Service, "instance", in.ID, "endpoints", strings.Join(endpoints, ","),
		"location", in.Location.String(), "zone_by", by,
	}
}

func (b *Board) remove(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.lines, name)
}

// Fail notes that the registry cannot be used at all, and with nil that it can.
func (b *Board) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failure = err
}

// Ready says which announcements are not registered, nil when all are.
func (b *Board) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failure != nil {
		return b.failure
	}
	var missing []string
	for n, l := range b.lines {
		switch s := l.state; {
		case s.Registered() && s.Phase != kv.Draining:
		case s.Err != nil:
			missing = append(missing, fmt.Sprintf("%s: %s: %v", n, s.Phase, s.Err))
		default:
			missing = append(missing, fmt.Sprintf("%s: %s", n, s.Phase))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("%d of %d not registered: %s", len(missing), len(b.lines), strings.Join(missing, "; "))
}

// onState is the hook of every announcement.
func (b *Board) onState(s kv.State) {
	b.mu.Lock()
	l := b.lines[name(s.Service, s.Instance)]
	if l == nil {
		b.mu.Unlock()
		return
	}
	before, seen, about := l.state, l.seen, l.about
	l.state = s
	l.seen = seen || s.Registered()
	b.mu.Unlock()

	log := b.log.With(about...)
	if s.Phase != before.Phase {
		entered(log, s, before.Registered(), seen)
		return
	}
	if s.Status == events.NotReady && s.Status != before.Status {
		log.Warn("not ready, callers are told to stay away")
	} else if s.Status != before.Status {
		log.Info("status changed", "status", s.Status)
	}
	if s.Err != nil && !sameText(s.Err, before.Err) {
		inTrouble(log, s)
	} else if s.Err == nil && before.Err != nil {
		log.Info("all is well again", "phase", s.Phase)
	}
}

func sameText(a, b error) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error()
}

// entered logs that an announcement has come into a phase.
func entered(log *slog.Logger, s kv.State, was, seen bool) {
	switch s.Phase {
	case kv.Registered:
		if seen {
			log.Info("registered again", "status", s.Status)
		} else {
			log.Info("registered", "status", s.Status)
		}
	case kv.Conflict:
		log.Error("not registered: another live instance has this id, give each one its own (--id)", "error", s.Err)
	case kv.Replaced:
		log.Error("not registered any more: a newer instance has taken this id", "error", s.Err)
	case kv.Draining:
		log.Info("draining")
	case kv.Left:
		switch {
		case s.Err != nil:
			log.Warn("not deregistered, its lease ends by itself", "error", s.Err)
		case seen:
			log.Info("deregistered")
		}
	default:
		if was {
			log.Warn("lost the registration")
		}
		if s.Err != nil {
			inTrouble(log, s)
		}
	}
}

// inTrouble logs an error that the announcement goes on with.
func inTrouble(log *slog.Logger, s kv.State) {
	switch s.Phase {
	case kv.Checking:
		log.Info("waiting for the check to pass", "error", s.Err)
	case kv.Registering:
		log.Warn("not registered, trying on", "error", s.Err)
	case kv.Registered:
		log.Warn("the lease is not renewed, trying on", "error", s.Err)
	}
}

// withoutPhases keeps lines with the attribute phase for debugging: the board
// logs the same changes, and says more.
type withoutPhases struct{ slog.Handler }

func (h withoutPhases) Handle(ctx context.Context, r slog.Record) error {
	hasPhase := false
	r.Attrs(func(a slog.Attr) bool {
		hasPhase = a.Key == "phase"
		return !hasPhase
	})
	if hasPhase {
		if !h.Enabled(ctx, slog.LevelDebug) {
			return nil
		}
		r.Level = slog.LevelDebug
	}
	return h.Handler.Handle(ctx, r)
}

func (h withoutPhases) WithAttrs(attrs []slog.Attr) slog.Handler {
	return withoutPhases{h.Handler.WithAttrs(attrs)}
}

func (h withoutPhases) WithGroup(group string) slog.Handler {
	return withoutPhases{h.Handler.WithGroup(group)}
}
