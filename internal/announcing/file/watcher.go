package file

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// debounce is the time between a notice of a change and the read: most writers
// change a file in several steps.
const debounce = 50 * time.Millisecond

// watcher waits for changes of the content of a file. It watches the directory of
// the file: writers replace files by renaming, and Kubernetes replaces the symbolic
// links of a ConfigMap. It also polls, for changes that the system does not report.
type watcher struct {
	path   string
	log    *slog.Logger
	notify *fsnotify.Watcher // nil when the system has none
	poll   *time.Ticker
	reload chan func() // holds one: to read now, and to call this then

	last    []byte
	stamp   os.FileInfo // of the file, when it was last read
	lastErr string
}

func newWatcher(path string, poll time.Duration, log *slog.Logger) *watcher {
	f := &watcher{path: path, log: log, poll: time.NewTicker(poll), reload: make(chan func(), 1)}
	var err error
	if f.notify, err = fsnotify.NewWatcher(); err == nil {
		err = f.notify.Add(filepath.Dir(path))
	}
	if err != nil {
		log.Warn("changes of the file are only polled", "file", path, "every", poll, "error", err)
	}
	return f
}

func (f *watcher) close() {
	f.poll.Stop()
	if f.notify != nil {
		_ = f.notify.Close() // its error changes nothing
	}
}

// watchAgain watches the directory that has the name now: it may have been replaced.
func (f *watcher) watchAgain() {
	if f.notify != nil {
		_ = f.notify.Add(filepath.Dir(f.path)) // the poll tries again
	}
}

// read reads the file. Changed is false when content or error are those of the last
// read. A file that was written again has changed, too.
func (f *watcher) read() (data []byte, changed bool, err error) {
	stamp, err := os.Stat(f.path) // before it is read: what is written meanwhile is read again
	if err == nil {
		data, err = os.ReadFile(f.path)
	}
	if err != nil {
		changed = err.Error() != f.lastErr
		f.lastErr = err.Error()
		return nil, changed, err
	}
	again := f.stamp != nil && (!os.SameFile(f.stamp, stamp) || !f.stamp.ModTime().Equal(stamp.ModTime()))
	changed = f.last == nil || f.lastErr != "" || again || !bytes.Equal(data, f.last)
	f.last, f.stamp, f.lastErr = data, stamp, ""
	return data, changed, nil
}

// next waits until the file has changed, cannot be read any more, or ctx ends.
func (f *watcher) next(ctx context.Context) ([]byte, error) {
	var events <-chan fsnotify.Event
	var errors <-chan error
	if f.notify != nil {
		events, errors = f.notify.Events, f.notify.Errors
	}
	var settled <-chan time.Time // nil: no notice since the last read
	for {
		done := func() {}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-events:
			if settled == nil {
				settled = time.After(debounce)
			}
			continue
		case err := <-errors: // most likely its queue has overflowed
			f.log.Debug("watching the directory of the file", "error", err)
		case <-settled:
			settled = nil
		case done = <-f.reload:
			f.watchAgain()
		case <-f.poll.C:
			f.watchAgain()
		}
		data, changed, err := f.read()
		done()
		if changed {
			return data, err
		}
	}
}
