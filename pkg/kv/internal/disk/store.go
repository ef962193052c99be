package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

const (
	// saveAfter is how long a change waits to be saved, with all that follow.
	saveAfter = 5 * time.Second
	// saveAgain is how long a file stays as it is when only revisions change.
	saveAgain = 10 * time.Minute
	// maxStored is how old a saved snapshot may be: addresses find other uses.
	maxStored = 24 * time.Hour
	// maxFile is the largest file that is read.
	maxFile = 1 << 30

	storeVersion = 1
	storeSuffix  = ".json"
)

// Store keeps the last snapshot of each service on disk, in a file of its own:
// <dir>/<bucket>/<service>.json. Callers that start while the registry is away
// begin with that. Several processes may share a directory: files are replaced
// as a whole, and the last writer wins.
type Store struct {
	dir string // of the bucket
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	pending map[string]events.Snapshot
	saved   map[string]savedSnapshot
	timer   *time.Timer // set while something is pending
	failed  bool        // the last save has, and that was logged

	writing sync.Mutex // one save at a time
}

// savedSnapshot is what was saved last of a service.
type savedSnapshot struct {
	events.Snapshot
	at time.Time
}

// storedFile is what a file holds.
type storedFile struct {
	Version   int           `json:"version"`
	Service   string        `json:"service"`
	Saved     time.Time     `json:"saved"`
	Instances []storedEntry `json:"instances"`
}

type storedEntry struct {
	Revision  uint64          `json:"revision"`
	Suspect   bool            `json:"suspect,omitempty"`
	Evacuated bool            `json:"evacuated,omitempty"`
	Instance  json.RawMessage `json:"instance"`
}

// Open makes the directory of a bucket, so that a mistake is noticed at the start and
// not when the store is needed.
func Open(dir, bucket string, log *slog.Logger) (*Store, error) {
	s := &Store{dir: filepath.Join(dir, bucket), log: log, pending: map[string]events.Snapshot{}, saved: map[string]savedSnapshot{}}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("kv: snapshots on disk: %w", err)
	}
	probe, err := os.CreateTemp(s.dir, "write-*.tmp")
	if err != nil {
		return nil, fmt.Errorf("kv: snapshots on disk: %w", err)
	}
	return s, errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// Save writes a snapshot, a little later, if it says anything new.
func (s *Store) Save(snapshot events.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.saved[snapshot.Service]; ok && time.Since(last.at) < saveAgain && same(last.Snapshot, snapshot) {
		delete(s.pending, snapshot.Service)
		return
	}
	s.pending[snapshot.Service] = snapshot
	if s.timer == nil {
		s.timer = time.AfterFunc(saveAfter, s.flush)
	}
}

// same says whether two snapshots list the same, if not in the same revisions.
func same(a, b events.Snapshot) bool {
	return slices.EqualFunc(a.Entries, b.Entries, func(a, b events.Entry) bool {
		return a.Instance == b.Instance && a.Suspect == b.Suspect && a.Evacuated == b.Evacuated
	})
}

// flush writes what is pending.
func (s *Store) flush() {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	pending := s.pending
	s.pending, s.timer = map[string]events.Snapshot{}, nil
	s.mu.Unlock()
	var errs []error
	for name, snapshot := range pending {
		if err := s.write(snapshot); err != nil {
			errs = append(errs, err)
			delete(pending, name)
		}
	}
	s.mu.Lock()
	for name, snapshot := range pending {
		if s.saved[name] = (savedSnapshot{snapshot, time.Now()}); len(snapshot.Entries) == 0 {
			delete(s.saved, name)
		}
	}
	report := len(errs) > 0 && !s.failed
	s.failed = len(errs) > 0
	s.mu.Unlock()
	if report {
		s.log.Warn("cannot save snapshots: a caller that starts while the registry is away begins with older ones",
			"services", len(errs), "error", errs[0])
	}
}

func (s *Store) path(service string) string { return filepath.Join(s.dir, service+storeSuffix) }

// write replaces the file of a service. One without instances has none.
func (s *Store) write(snapshot events.Snapshot) error {
	if len(snapshot.Entries) == 0 {
		if err := os.Remove(s.path(snapshot.Service)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := encodeStored(snapshot, time.Now())
	if err != nil {
		return err
	}
	return replace(s.path(snapshot.Service), data)
}

// replace writes a file as a whole.
func replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), strings.TrimSuffix(filepath.Base(path), storeSuffix)+"-*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it is the first error that counts
	}
	return err
}

// Load reads what was saved: of one service, or of all if it is empty. Each snapshot
// is stale since it was saved. What cannot be used is logged and left alone.
func (s *Store) Load(service string) []events.Snapshot {
	names := []string{service}
	if service == "" {
		names = names[:0]
		files, err := os.ReadDir(s.dir)
		if err != nil {
			s.log.Warn("saved snapshots cannot be read", "error", err)
		}
		for _, f := range files {
			if name, ok := strings.CutSuffix(f.Name(), storeSuffix); ok {
				names = append(names, name)
			}
		}
	}
	var all []events.Snapshot
	for _, name := range names {
		stored, err := s.read(name)
		switch {
		case err == nil:
			all = append(all, stored)
		case !errors.Is(err, fs.ErrNotExist):
			s.log.Warn("a saved snapshot cannot be used", "service", name, "error", err)
		}
	}
	return all
}

func (s *Store) read(service string) (stored events.Snapshot, err error) {
	if err := events.ValidateService(service); err != nil {
		return stored, err
	}
	path := s.path(service)
	info, err := os.Stat(path)
	if err != nil {
		return stored, err
	}
	if info.Size() > maxFile {
		return stored, fmt.Errorf("kv: %s has %d bytes, want at most %d", path, info.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return stored, err
	}
	stored, err = decodeStored(data)
	switch age := time.Since(stored.StaleSince); {
	case err != nil:
		err = fmt.Errorf("kv: %s: %w", path, err)
	case stored.Service != service:
		err = fmt.Errorf("kv: %s is about service %q", path, stored.Service)
	case age > maxStored:
		err = fmt.Errorf("kv: %s is %v old, want at most %v", path, age.Round(time.Minute), maxStored)
	}
	return stored, err
}

func encodeStored(snapshot events.Snapshot, now time.Time) ([]byte, error) {
	file := storedFile{Version: storeVersion, Service: snapshot.Service, Saved: now, Instances: make([]storedEntry, 0, len(snapshot.Entries))}
	for _, e := range snapshot.Entries {
		data, err := events.Encode(*e.Instance)
		if err != nil {
			return nil, err
		}
		file.Instances = append(file.Instances, storedEntry{e.Revision, e.Suspect, e.Evacuated, data})
	}
	return json.Marshal(file)
}

// decodeStored reads a file. Instances that are not valid, and those that are
// listed twice, are left out.
func decodeStored(data []byte) (events.Snapshot, error) {
	var file storedFile
	if err := json.Unmarshal(data, &file); err != nil {
		return events.Snapshot{}, err
	}
	if file.Version != storeVersion {
		return events.Snapshot{}, fmt.Errorf("version %d, want %d", file.Version, storeVersion)
	}
	stored := events.Snapshot{Service: file.Service, Stale: true, StaleSince: file.Saved}
	known := map[events.Key]bool{}
	for _, e := range file.Instances {
		in, err := events.Decode(e.Instance)
		if err != nil || in.Service != file.Service || known[in.Key()] {
			continue
		}
		known[in.Key()] = true
		stored.Entries = append(stored.Entries, events.Entry{Instance: in, Suspect: e.Suspect, Evacuated: e.Evacuated, Revision: e.Revision})
	}
	return stored, nil
}
