package faults

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// repeats is how often the same log message is kept in a timeline.
const repeats = 3

// timeline is what happened in a case, and when. It is safe for concurrent use.
type timeline struct {
	mu    sync.Mutex
	began time.Time
	lines []string
	said  map[string]int
}

func (l *timeline) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began, l.lines, l.said = time.Now(), nil, map[string]int{}
}

func (l *timeline) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf("%7.2f s  ", time.Since(l.began).Seconds())+fmt.Sprintf(format, args...))
}

func (l *timeline) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, line := range l.lines {
		fmt.Fprintln(&b, line)
	}
	for what, n := range l.said {
		if n > repeats {
			fmt.Fprintf(&b, "           (%d times: %s)\n", n, what)
		}
	}
	return b.String()
}

// logger logs into the timeline, the first few of each message.
func (l *timeline) logger(name string) *slog.Logger { return slog.New(&scribe{l, name, nil}) }

// scribe is the slog.Handler of a timeline.
type scribe struct {
	line  *timeline
	name  string
	attrs []slog.Attr
}

func (s *scribe) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (s *scribe) Handle(_ context.Context, r slog.Record) error {
	s.line.mu.Lock()
	n := s.line.said[r.Message] + 1
	if s.line.said != nil {
		s.line.said[r.Message] = n
	}
	s.line.mu.Unlock()
	if n > repeats {
		return nil
	}
	var b strings.Builder
	tell := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range s.attrs {
		tell(a)
	}
	r.Attrs(tell)
	s.line.add("%s: %s%s", s.name, r.Message, b.String())
	return nil
}

func (s *scribe) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &scribe{s.line, s.name, append(slices.Clip(s.attrs), attrs...)}
}

func (s *scribe) WithGroup(string) slog.Handler { return s }
