//go:build !unix

package embedded

import (
	"os"
	"path/filepath"
)

// lock only checks that the directory can be written to: these systems have no lock
// that ends with a killed process.
func lock(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, ".proxima-lock"), os.O_CREATE|os.O_RDWR, 0o600)
}
