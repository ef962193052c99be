//go:build !linux

package natstest

import "os/exec"

// bind can do nothing here: a server that is stopped outlives a test that is
// killed.
func bind(*exec.Cmd) {}
