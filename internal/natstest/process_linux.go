package natstest

import (
	"os/exec"
	"syscall"
)

// bind has the process killed with the test that starts it, also when it is
// stopped and cannot see its standard input end.
func bind(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
