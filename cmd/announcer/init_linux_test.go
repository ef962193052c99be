package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestProcessOneWaitsForOrphans(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	// A new PID namespace makes the announcer process 1, as in a container.
	attr := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWPID | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	probe := exec.Command("true")
	probe.SysProcAttr = attr
	if err := probe.Run(); err != nil {
		t.Skipf("this system lets tests make no PID namespace: %v", err)
	}
	p := startWith(t, nil, attr, append(announce(r.url, deadAddress(t), "--check", "none"), wrapped("orphans")...)...)
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.prints("all are buried")
	p.logs(`msg="the load of the command is not measured" reason="/proc shows another PID namespace"`)
}
