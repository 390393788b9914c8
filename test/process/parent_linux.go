package process

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel kill the program when this process ends, however
// that comes about (a test time-out runs no cleanup).
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
