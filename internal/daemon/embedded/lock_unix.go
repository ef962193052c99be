//go:build unix

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lock locks a directory for this process, until the file is closed or the process
// ends. Two servers on one store would destroy it.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, ".proxima-lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another router uses it, give each its own, or all of them --nats-url")
		} else {
			err = fmt.Errorf("lock: %w", err)
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
