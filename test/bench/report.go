//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// sample is what the runs of one measurement gave.
type sample []float64

func (s *sample) add(v float64) { *s = append(*s, v) }

func (s sample) last() float64 { return s[len(s)-1] }

func (s sample) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// String gives the median, and the range if there is one.
func (s sample) String() string {
	if len(s) == 1 {
		return number(s[0])
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median()), number(slices.Min(s)), number(slices.Max(s)))
}

// number writes three digits or more, with commas.
func number(v float64) string {
	if v < 1000 {
		return fmt.Sprintf("%.3g", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// row is one line of the table.
type row struct{ what, ours, peer, theirs, ratio, goal string }

// compare adds a line with a rate beside a peer's.
func (b *bench) compare(what, unit string, ours sample, peer string, theirs sample, goal string) {
	b.rows = append(b.rows, row{
		what:   what,
		ours:   fmt.Sprintf("%v %s", ours, unit),
		peer:   peer,
		theirs: fmt.Sprintf("%v %s", theirs, unit),
		ratio:  fmt.Sprintf("%.2f", ours.median()/theirs.median()),
		goal:   goal,
	})
}

// The generated part of the document stands between these lines.
const (
	begin = "<!-- written by `make bench` -->"
	end   = "<!-- end of what `make bench` writes -->"
)

// table is what was measured, as Markdown between its two lines.
func (b *bench) table() string {
	var t strings.Builder
	fmt.Fprintf(&t, "%s\n\n%s\n\n", begin, b.circumstances())
	t.WriteString("| measured | understudy | peer | peer's | ratio | goal |\n|---|---:|---|---:|---:|---:|\n")
	for _, r := range b.rows {
		fmt.Fprintf(&t, "| %s | %s | %s | %s | %s | %s |\n", r.what, r.ours, r.peer, r.theirs, r.ratio, r.goal)
	}
	t.WriteString("\n" + end)
	return t.String()
}

// write puts a table into a document, in the place of the one that is there.
func write(path, table string) error {
	document, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		document = []byte("# Benchmarks\n\n" + begin + "\n" + end + "\n")
	} else if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(document, []byte(begin))
	_, after, closed := bytes.Cut(rest, []byte(end))
	if !ok || !closed {
		return fmt.Errorf("%s lacks the lines %q and %q, between which the table belongs", path, begin, end)
	}
	return os.WriteFile(path, slices.Concat(before, []byte(table), after), 0o644)
}

// circumstances says where and how it was measured.
func (b *bench) circumstances() string {
	var u syscall.Utsname
	syscall.Uname(&u)
	kernel := make([]byte, 0, len(u.Release))
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		kernel = append(kernel, byte(c))
	}
	var info syscall.Sysinfo_t
	syscall.Sysinfo(&info)
	entries := ""
	if b.upstream != nil {
		entries = fmt.Sprintf("%s entries of %.0f bytes in the mean (%.2f GB); ",
			number(float64(b.upstream.size)), float64(b.upstream.entryBytes)/float64(b.upstream.size), float64(b.upstream.entryBytes)/1e9)
	}
	return fmt.Sprintf("%s: %s, %d cores, %.0f GiB of memory, Linux %s, %s. %smedian of %d runs in alternation (lowest–highest).",
		time.Now().UTC().Format(time.DateOnly), processor(), runtime.NumCPU(), float64(info.Totalram)*float64(info.Unit)/(1<<30), kernel, runtime.Version(),
		entries, b.runs)
}

func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
