//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is another program that is measured.
type child struct {
	cmd     *exec.Cmd
	logFile string
	exited  chan struct{} // closed when it has ended
	peakKiB float64       // largest resident memory; set when exited is closed
}

// start runs a program with its output in a file. It dies with this one.
func (b *bench) start(binary string, args ...string) (*child, error) {
	c := &child{
		cmd:     exec.Command(binary, args...),
		logFile: filepath.Join(b.dir, filepath.Base(binary)+".log"),
		exited:  make(chan struct{}),
	}
	output, err := os.Create(c.logFile)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	c.cmd.Stdout, c.cmd.Stderr = output, output
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		c.cmd.Wait() // the exit code is read from ProcessState
		close(ended)
	}()
	go c.watchMemory(ended)
	return c, nil
}

// watchMemory follows VmHWM, which has no value any more once the program has ended.
func (c *child) watchMemory(ended <-chan struct{}) {
	defer close(c.exited)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kib, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
				c.peakKiB = max(c.peakKiB, kib)
			}
		}
		select {
		case <-tick.C:
		case <-ended:
			return
		}
	}
}

// end signals the program, waits for its end, and returns its exit code and its peak
// of resident memory in MiB.
func (c *child) end(signal os.Signal) (code int, peakMiB float64) {
	c.cmd.Process.Signal(signal) // fails only if it has ended
	return c.wait()
}

func (c *child) wait() (code int, peakMiB float64) {
	<-c.exited
	return c.cmd.ProcessState.ExitCode(), c.peakKiB / 1024
}

// processorTime is what the program has used of all cores since it was started.
func (c *child) processorTime() (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ, on all that Go runs on
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third on
	if len(fields) < 13 {
		return 0, fmt.Errorf("malformed stat of process %d", c.cmd.Process.Pid)
	}
	user, userErr := strconv.Atoi(fields[11])
	system, systemErr := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick, errors.Join(userErr, systemErr)
}

// output is what the program has printed.
func (c *child) output() string {
	out, err := os.ReadFile(c.logFile)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

func (c *child) tail() string {
	lines := strings.Split(strings.TrimSpace(c.output()), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
