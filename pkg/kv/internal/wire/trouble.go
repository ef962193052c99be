package wire

import (
	"sync"
	"time"
)

// Trouble is why something fails, and since when. It is safe for concurrent use.
type Trouble struct {
	mu    sync.Mutex
	err   error
	since time.Time
}

// Note notes that it failed.
func (t *Trouble) Note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.since = time.Now()
	}
	t.err = err
}

// Over notes that it worked.
func (t *Trouble) Over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err, t.since = nil, time.Time{}
}

// Now returns the last error and the time of the first one; nil: it works.
func (t *Trouble) Now() (since time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.since, t.err
}
