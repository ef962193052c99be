package announcing

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Board has the state of every announcement. It logs each change, and answers
// whether all instances are registered. It is safe for concurrent use.
type Board struct {
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	lines   map[events.Key]*line
	failure error // why nothing can be announced
}

// name identifies an instance among the keepers. While it moves, two announcements have
// that name.
func name(service, id string) string { return service + "/" + id }

type line struct {
	about []any // log attributes of the instance
	state kv.State
	seen  bool // it was registered before
}

// NewBoard returns an empty board.
func NewBoard(log *slog.Logger) *Board {
	return &Board{log: log, lines: make(map[events.Key]*line)}
}

// add puts an instance on the board. Won is the detector that found each level of
// its location.
func (b *Board) add(in *events.Instance, won map[topology.Level]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines[in.Key()] = &line{
		about: about(in, won),
		state: kv.State{Phase: kv.Checking, Status: cmp.Or(in.Status, events.Up)},
	}
	b.failure = nil
}

// describe replaces the log attributes of an instance on the board.
func (b *Board) describe(in *events.Instance, won map[topology.Level]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.lines[in.Key()]; l != nil {
		l.about = about(in, won)
	}
}

// about are the log attributes of an instance.
func about(in *events.Instance, won map[topology.Level]string) []any {
	by := won[topology.Zone]
	if in.Location.Zone == "" {
		by = "none"
	}
	return []any{
		"service", in.Service, "instance", in.ID, "endpoints", strings.ReplaceAll(in.Addresses(), ", ", ","),
		"location", in.Location.String(), "zone_by", by,
	}
}

func (b *Board) remove(k events.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.lines, k)
}

// Fail sets why the registry cannot be used at all, nil when it can.
func (b *Board) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failure = err
}

// Ready returns an error that names the announcements which are not registered,
// nil when all are.
func (b *Board) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failure != nil {
		return b.failure
	}
	var missing []string
	for k, l := range b.lines {
		n := name(k.Service, k.ID)
		switch s := l.state; {
		case s.Lapsed:
			missing = append(missing, fmt.Sprintf("%s: the lease was not renewed for longer than its ttl: %v", n, s.Err))
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

// onState logs a change of an announcement. A state of an instance that is not on
// the board any more is ignored.
func (b *Board) onState(k events.Key, s kv.State) {
	b.mu.Lock()
	l := b.lines[k]
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
		log.Warn("not ready: callers avoid the instance")
	} else if s.Status != before.Status {
		log.Info("status changed", "status", s.Status)
	}
	if s.Lapsed && !before.Lapsed {
		log.Error("the lease was not renewed for longer than its ttl: callers may have lost the instance", "error", s.Err)
	} else if s.Err != nil && s.Err.Error() != fmt.Sprint(before.Err) {
		inTrouble(log, s)
	} else if s.Err == nil && before.Err != nil {
		log.Info("the announcement works again", "phase", s.Phase)
	}
}

// entered logs that an announcement has entered a phase. Was: it was registered
// in the phase before. Seen: it was registered at some time.
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
		case s.Released:
			log.Info("left listed until its lease ends", "error", s.Err)
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

// inTrouble logs an error after which the announcement retries.
func inTrouble(log *slog.Logger, s kv.State) {
	switch s.Phase {
	case kv.Checking:
		log.Info("waiting for the check to pass", "error", s.Err)
	case kv.Registering:
		log.Warn("not registered, retrying", "error", s.Err)
	case kv.Registered:
		log.Warn("the lease is not renewed, retrying", "error", s.Err)
	}
}

// withoutPhases makes lines that have the attribute phase debug lines: the board
// logs the same changes with more attributes.
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
