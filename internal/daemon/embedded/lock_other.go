//go:build !unix

package embedded

import (
	"os"
	"path/filepath"
)

// lock only shows that the directory can be written to: there is no lock that
// a killed process gives back by itself.
func lock(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, ".proxima-lock"), os.O_CREATE|os.O_RDWR, 0o600)
}
