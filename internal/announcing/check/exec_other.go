//go:build !unix

package check

import "errors"

// Exec is not available on this system.
func Exec(string) (Func, error) { return nil, errors.New("check exec: not available on this system") }
