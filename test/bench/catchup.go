//go:build linux

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// catchUp collects what the runs of the catch-up gave.
type catchUp struct {
	ours, mirror, fsck             sample // entries/s
	ourPeak, mirrorPeak            sample // MiB
	opened                         sample // seconds
	ourDiskShare, mirrorsDiskShare float64
}

func (b *bench) measureCatchUp(ctx context.Context) error {
	var c catchUp
	err := b.inTurns(ctx,
		func() error { return b.ourCatchUp(ctx, &c) },
		func() error { return b.mirrorCatchUp(ctx, &c) },
		func() error {
			took, _, err := b.fsck(ctx, b.upstream.url)
			b.addRate(&c.fsck, "Tessera fsck", took)
			return err
		})
	if err != nil {
		return err
	}
	b.caughtUp = c.ours
	const mirror, fsck = "Tessera's experimental POSIX mirror (no verification, no sync)", "Tessera's fsck over HTTP (verifies, stores nothing)"
	b.compare("verified catch-up, synced", "entries/s", c.ours, mirror, c.mirror, "≥ 0.5")
	b.compare("verified catch-up, synced", "entries/s", c.ours, fsck, c.fsck, "≥ 0.5")
	b.rows = append(b.rows,
		row{what: "peak resident memory, mirroring and serving", ours: number(slices.Max(c.ourPeak)) + " MiB", peer: mirror, theirs: number(slices.Max(c.mirrorPeak)) + " MiB", goal: "< 512 MiB"},
		row{what: "disk, of the entries' raw bytes", ours: fmt.Sprintf("%.1f %%", 100*c.ourDiskShare), peer: mirror, theirs: fmt.Sprintf("%.1f %%", 100*c.mirrorsDiskShare), goal: "≤ 40 %"},
		row{what: "from start after kill -9 to the first answer", ours: c.opened.String() + " s", goal: "< 2 s"})
	return nil
}

// ourCatchUp mirrors into a new folder, is read in full by Tessera's fsck, killed,
// started again, and stopped.
func (b *bench) ourCatchUp(ctx context.Context, c *catchUp) error {
	d, err := b.newDaemon(filepath.Join(b.dir, "understudy"))
	if err != nil {
		return err
	}
	b.daemon = d
	took, err := b.serve(ctx, d, b.holdsAll)
	if err != nil {
		return err
	}
	b.addRate(&c.ours, "understudy serve", took)
	if took, _, err = b.fsck(ctx, d.prefix); err != nil {
		d.end(syscall.SIGKILL)
		return fmt.Errorf("fsck of our mirror: %w", err)
	}
	b.addRate(new(sample), "Tessera fsck of our mirror", took)
	_, peak := d.end(syscall.SIGKILL)
	c.ourPeak.add(peak)

	if took, err = b.serve(ctx, d, servesTiles); err != nil {
		return err
	}
	c.opened.add(took.Seconds())
	if code, _ := d.end(syscall.SIGTERM); code != 0 {
		b.say("NOTICE: understudy ended with code %d after SIGTERM:\n%s", code, d.tail())
	}
	disk, err := diskUsage(filepath.Join(d.dir, "data"))
	c.ourDiskShare = float64(disk) / float64(b.upstream.entryBytes)
	b.say("%-28s %.0f MiB peak, %.1f %% of raw bytes on disk, answers %.2f s after kill -9", "", peak, 100*c.ourDiskShare, took.Seconds())
	return err
}

func (b *bench) mirrorCatchUp(ctx context.Context, c *catchUp) error {
	dir := filepath.Join(b.dir, "tessera-mirror")
	defer os.RemoveAll(dir)
	took, peak, err := b.finish(ctx, "Log mirrored successfully", b.tools.mirror, "--storage_dir", dir, "--source_url", b.upstream.url)
	if err != nil {
		return err
	}
	c.mirrorPeak.add(peak)
	b.addRate(&c.mirror, "Tessera mirror", took)
	disk, err := diskUsage(dir)
	c.mirrorsDiskShare = float64(disk) / float64(b.upstream.entryBytes)
	return err
}

// fsck runs Tessera's fsck with the number of workers that served it best.
func (b *bench) fsck(ctx context.Context, url string) (took time.Duration, peakMiB float64, err error) {
	return b.finish(ctx, "Successfully fsck'd log", b.tools.fsck, "--storage_url", url, "--public_key", b.upstream.keyFile, "--ui=false", "--N", "16")
}

// finish runs a program that handles all entries and says so at its end.
func (b *bench) finish(ctx context.Context, success, binary string, args ...string) (took time.Duration, peakMiB float64, err error) {
	start := time.Now()
	child, err := b.start(binary, args...)
	if err != nil {
		return 0, 0, err
	}
	stop := context.AfterFunc(ctx, func() { child.end(syscall.SIGKILL) })
	defer stop()
	code, peakMiB := child.wait()
	took = time.Since(start)
	if code != 0 || !strings.Contains(child.output(), success) {
		return 0, 0, fmt.Errorf("%s ended with code %d:\n%s", filepath.Base(binary), code, child.tail())
	}
	return took, peakMiB, nil
}

// diskUsage is what a folder's files occupy.
func diskUsage(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	return bytes, err
}
