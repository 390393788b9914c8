package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/trust/publish"
)

// readMaterial reads what is to be signed: of what export writes, all that is for clients of TUF.
func readMaterial(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("%q is no regular file", name)
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		target, ok := targetOf(filepath.ToSlash(relative))
		if !ok {
			return nil
		}
		if !publish.TargetName.MatchString(target) {
			return fmt.Errorf("a target cannot be called %q", target)
		}
		if files[target], err = os.ReadFile(name); err == nil {
			_, err = describe(target, files[target])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what is to be signed: %w", err)
	}
	if files[trust.RootTarget] == nil {
		return nil, fmt.Errorf("%s has no %s: let \"understudy trust export\" write it", dir, trust.RootTarget)
	}
	files[trust.ECDSATarget], err = trust.ECDSARoot(files[trust.RootTarget]) // it follows from the other, whatever is there
	return files, err
}

// tellChanges says what other targets there will be, and what of those that clients trust or use
// changes.
func tellChanges(out io.Writer, had, has map[string][]byte) {
	names := slices.Collect(maps.Keys(had))
	for name := range has {
		if _, ok := had[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		old, was := had[name]
		now, is := has[name]
		switch {
		case was && old == nil:
			fmt.Fprintf(out, "! %s: its file is lost, or is another one than was signed\n", name)
		case !was:
			fmt.Fprintf(out, "+ %s\n", name)
		case !is:
			fmt.Fprintf(out, "- %s\n", name)
		case !bytes.Equal(old, now):
			fmt.Fprintf(out, "~ %s\n", name)
		default:
			continue
		}
		if strings.HasPrefix(name, historyPrefix) || name == trust.ECDSATarget { // it follows from the others
			continue
		}
		before, after := described(name, old), described(name, now)
		for _, line := range after {
			if !slices.Contains(before, line) {
				fmt.Fprintf(out, "  + %s\n", line)
			}
		}
		for _, line := range before {
			if !slices.Contains(after, line) {
				fmt.Fprintf(out, "  - %s\n", line)
			}
		}
	}
}

func described(name string, data []byte) []string {
	if data == nil {
		return nil
	}
	lines, err := describe(name, data)
	if err != nil {
		return []string{"cannot be read: " + err.Error()}
	}
	return lines
}
