package testkit

import "syscall"

// dieWithParent has the system kill a process when the one that starts it ends,
// for whatever reason, also a stopped process that cannot notice anything.
func dieWithParent(attr *syscall.SysProcAttr) *syscall.SysProcAttr {
	var a syscall.SysProcAttr
	if attr != nil {
		a = *attr
	}
	a.Pdeathsig = syscall.SIGKILL
	return &a
}
