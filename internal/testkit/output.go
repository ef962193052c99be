package testkit

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// Output keeps what a program or a logger writes. The zero value is ready to
// use, by several goroutines.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String is everything that was written.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Contains reports whether text was written.
func (o *Output) Contains(text string) bool { return strings.Contains(o.String(), text) }

// Await waits until the output matches a regular expression, in which ^ and $
// are the ends of a line, and returns its first group, or all that matched when
// it has no group.
func (o *Output) Await(tb testing.TB, pattern string) string {
	tb.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	var found []string
	defer func() {
		if found == nil {
			tb.Logf("the output is:\n%s", o)
		}
	}()
	Eventually(tb, "the output matches "+pattern, func() bool {
		found = re.FindStringSubmatch(o.String())
		return found != nil
	})
	return found[min(1, len(found)-1)]
}

// Logger logs to the output, as text, from the level on.
func (o *Output) Logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(o, &slog.HandlerOptions{Level: level}))
}

// take removes everything that was written and returns its last lines.
func (o *Output) take(lines int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.buf.Reset()
	all := strings.SplitAfter(o.buf.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
