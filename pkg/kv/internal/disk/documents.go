package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxDocument is the largest file of a document that is read.
const maxDocument = 1 << 20

// Documents keeps what is under the keys of a bucket on disk, each key in a file of its
// own: <dir>/<bucket>/documents/<key>.json. Several processes may share a directory, as
// with [Store].
type Documents struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	pending map[string][]byte
	timer   *time.Timer // set while something is pending
	failed  bool        // the last save has, and that was logged
}

// NewDocuments returns those of a bucket, beside its [Store]. The directory is made when it
// is needed.
func NewDocuments(dir, bucket string, log *slog.Logger) *Documents {
	return &Documents{dir: filepath.Join(dir, bucket, "documents"), log: log, pending: map[string][]byte{}}
}

// Save writes what is under a key, a little later. Nil: nothing.
func (d *Documents) Save(key string, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending[key] = data
	if d.timer == nil {
		d.timer = time.AfterFunc(saveAfter, d.flush)
	}
}

func (d *Documents) flush() {
	d.mu.Lock()
	pending := d.pending
	d.pending, d.timer = map[string][]byte{}, nil
	d.mu.Unlock()
	var errs []error
	for key, data := range pending {
		if err := d.write(key, data); err != nil {
			errs = append(errs, err)
		}
	}
	d.mu.Lock()
	report := len(errs) > 0 && !d.failed
	d.failed = len(errs) > 0
	d.mu.Unlock()
	if report {
		d.log.Warn("documents cannot be saved, a caller that starts without the registry begins with old ones", "documents", len(errs), "error", errs[0])
	}
}

func (d *Documents) write(key string, data []byte) error {
	if data == nil {
		if err := os.Remove(d.path(key)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	return replace(d.path(key), data)
}

// Load reads what was saved under a key, nil: nothing.
func (d *Documents) Load(key string) []byte {
	info, err := os.Stat(d.path(key))
	var data []byte
	if err == nil && info.Size() > maxDocument {
		err = fmt.Errorf("kv: %s has %d bytes, want at most %d", d.path(key), info.Size(), maxDocument)
	}
	if err == nil {
		data, err = os.ReadFile(d.path(key))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("a saved document cannot be used", "key", key, "error", err)
	}
	return data
}

func (d *Documents) path(key string) string { return filepath.Join(d.dir, key+storeSuffix) }
