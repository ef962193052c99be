//go:build !unix

package natstest

import "os/exec"

// apart has nothing to do: here no process can be stopped.
func apart(*exec.Cmd) {}
