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

// settle is how long a change may go on before the file is read: most writers
// do more than one thing.
const settle = 50 * time.Millisecond

// follower tells when the content of a file has changed. It watches the file's
// directory, where files are replaced by renaming and Kubernetes swaps the
// symbolic links of a ConfigMap, and looks at the file from time to time for
// what nobody reports.
type follower struct {
	path   string
	log    *slog.Logger
	notify *fsnotify.Watcher // nil when the system offers none
	poll   *time.Ticker

	last    []byte
	lastErr string
}

func newFollower(path string, poll time.Duration, log *slog.Logger) *follower {
	f := &follower{path: path, log: log, poll: time.NewTicker(poll)}
	var err error
	if f.notify, err = fsnotify.NewWatcher(); err == nil {
		err = f.notify.Add(filepath.Dir(path))
	}
	if err != nil {
		log.Warn("changes of the file are seen late only", "file", path, "every", poll, "error", err)
	}
	return f
}

func (f *follower) close() {
	f.poll.Stop()
	if f.notify != nil {
		_ = f.notify.Close() // says nothing worth knowing
	}
}

// read reads the file; changed is false when it is as it was before.
func (f *follower) read() (data []byte, changed bool, err error) {
	data, err = os.ReadFile(f.path)
	if err != nil {
		changed = err.Error() != f.lastErr
		f.lastErr = err.Error()
		return nil, changed, err
	}
	changed = f.last == nil || f.lastErr != "" || !bytes.Equal(data, f.last)
	f.last, f.lastErr = data, ""
	return data, changed, nil
}

// next waits until the file has changed, or can be read no more, or ctx ends.
func (f *follower) next(ctx context.Context) ([]byte, error) {
	var events <-chan fsnotify.Event
	var errors <-chan error
	if f.notify != nil {
		events, errors = f.notify.Events, f.notify.Errors
	}
	var settled <-chan time.Time // nil: nothing has happened
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-events:
			if settled == nil {
				settled = time.After(settle)
			}
			continue
		case err := <-errors: // most likely: more events than it could tell
			f.log.Debug("watching the directory of the file", "error", err)
		case <-settled:
			settled = nil
		case <-f.poll.C:
			if f.notify != nil {
				// The directory may be another one by now.
				_ = f.notify.Add(filepath.Dir(f.path))
			}
		}
		if data, changed, err := f.read(); changed {
			return data, err
		}
	}
}
