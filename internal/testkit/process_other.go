//go:build !linux

package testkit

import "syscall"

// dieWithParent can do nothing here: a process that is stopped outlives the
// binary of a test that is killed.
func dieWithParent(attr *syscall.SysProcAttr) *syscall.SysProcAttr { return attr }
