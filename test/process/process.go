// Package process runs other programs for tests: it starts them on loopback with
// their output in a file, waits for them to answer, and ends exactly those that it
// started.
package process

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a running program. Its fields are set once, before Start returns.
type Process struct {
	name    string
	logFile string
	cmd     *exec.Cmd
	done    chan struct{} // closed when the program has ended and state is set
}

// Start runs binary with args, its output appended to logFile. The program is
// killed with this process, where the system can do that.
func Start(logFile, binary string, args ...string) (*Process, error) {
	output, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close() // the program has its own copy
	p := &Process{
		name:    filepath.Base(binary),
		logFile: logFile,
		cmd:     exec.Command(binary, args...),
		done:    make(chan struct{}),
	}
	p.cmd.Stdout, p.cmd.Stderr = output, output
	dieWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait() // the exit code is read from ProcessState
		close(p.done)
	}()
	return p, nil
}

// Kill ends the program with SIGKILL and waits for its end. It may be called more
// than once.
func (p *Process) Kill() {
	p.cmd.Process.Kill() // fails only if it has ended
	<-p.done
}

// Signal sends a signal to the program.
func (p *Process) Signal(signal os.Signal) error { return p.cmd.Process.Signal(signal) }

// Stop halts the program with SIGSTOP: connections to it succeed, and nothing answers.
func (p *Process) Stop() error { return p.Signal(syscall.SIGSTOP) }

// Continue ends what Stop did.
func (p *Process) Continue() error { return p.Signal(syscall.SIGCONT) }

// Terminate sends SIGTERM, waits for the end, and returns the exit code and how
// long it took. After the limit it kills, which is an error.
func (p *Process) Terminate(limit time.Duration) (code int, took time.Duration, err error) {
	start := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, 0, fmt.Errorf("signal %s: %w\n%s", p.name, err, p.Tail())
	}
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), time.Since(start), nil
	case <-time.After(limit):
		p.Kill()
		return -1, time.Since(start), fmt.Errorf("%s still ran %s after SIGTERM\n%s", p.name, limit, p.Tail())
	}
}

// Tail returns the last lines that the program printed, for an error's text.
func (p *Process) Tail() string {
	output, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// Until calls ready until it returns nil. It gives up, with the last error of
// ready and the program's last lines, when the program or ctx ends.
func (p *Process) Until(ctx context.Context, ready func(context.Context) error) error {
	err := Until(ctx, func(ctx context.Context) error {
		select {
		case <-p.done:
			return endedError{fmt.Errorf("%s ended with code %d", p.name, p.cmd.ProcessState.ExitCode())}
		default:
			return ready(ctx)
		}
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, p.Tail())
	}
	return nil
}

// endedError says that waiting has become pointless.
type endedError struct{ error }

// Until calls ready every 20 ms until it returns nil or ctx ends; then it returns
// the last error of ready.
func Until(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil || errors.As(err, new(endedError)) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting: %w", err)
		case <-tick.C:
		}
	}
}

// FreeAddrs returns n addresses on 127.0.0.1 that nobody listened on a moment ago.
// Their ports lie below those that systems give to outgoing connections, so that a
// busy client beside them does not take one before its program listens.
func FreeAddrs(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		listener, err := listenBelowEphemeral()
		if err != nil {
			return nil, err
		}
		defer listener.Close() // only at the end, so that no port comes twice
		addrs[i] = listener.Addr().String()
	}
	return addrs, nil
}

func listenBelowEphemeral() (net.Listener, error) {
	const lowest, highest, tries = 10_000, 32_000, 100
	var errs []error
	for range tries {
		port := lowest + rand.IntN(highest-lowest)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return listener, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("find a free port: %w", errors.Join(errs...))
}
