//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
	"github.com/understudy-log/understudy/test/tools/tool"
	"github.com/understudy-log/understudy/witness/archive"
	"github.com/understudy-log/understudy/witness/archive/calendar"
)

// evidenceSize is how many checkpoints, and how many entries, a pack has.
const evidenceSize = 10_000

// measureEvidence makes a pack and has it verified: by understudy as its user runs it, and by the
// second verifier.
func (b *bench) measureEvidence(ctx context.Context) error {
	dir := filepath.Join(b.dir, "evidence")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	db, err := storage.Create(filepath.Join(dir, "db"), storage.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	log := synthetic.New(synthetic.Options{Origin: origin})
	log.Grow(evidenceSize)
	b.say("archiving %d checkpoints", evidenceSize)
	tree, err := fillArchive(db, log)
	if err != nil {
		return err
	}
	private, vkey, err := note.GenerateKey(nil, "archive.example/a1")
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		return err
	}
	schedule, err := calendar.Parse("0 0 * * 1", "UTC")
	if err != nil {
		return err
	}
	root, err := tool.Root()
	if err != nil {
		return err
	}
	var built, ours, theirs sample
	runs := 0
	pack := ""
	python := exec.CommandContext(ctx, "python3", "-c", "import cryptography").Run() == nil
	err = b.inTurns(ctx, func() error {
		runs++
		a, err := archive.Open(ctx, archive.Config{
			DB: db, Dir: filepath.Join(dir, fmt.Sprint(runs)), Signer: signer, VKey: vkey, Vantage: "a benchmark", Schedule: schedule, Expression: "0 0 * * 1", TimeZone: "UTC",
			Sources: func() []archive.Source {
				return []archive.Source{{Origin: origin, Name: "bench", Coverage: "full", Tree: tree}}
			},
			Wanted: []archive.Want{{Wanted: archive.Wanted{Index: "all", Log: origin}, End: evidenceSize}},
		})
		if err != nil {
			return err
		}
		start := time.Now()
		number, err := a.Make(ctx)
		if err != nil {
			return err
		}
		built.add(time.Since(start).Seconds())
		f, p, err := a.Pack(number)
		if err != nil {
			return err
		}
		pack = f.Name()
		b.say("%-40s %8.2f s, %d MB", "evidence pack made and verified", built.last(), p.Size/1e6)
		return f.Close()
	}, func() error {
		start := time.Now()
		if out, err := exec.CommandContext(ctx, b.tools.understudy, "archive", "verify", pack, "--key", vkey, "--key", log.Key.Verifier()).CombinedOutput(); err != nil {
			return fmt.Errorf("verify: %w\n%s", err, out)
		}
		ours.add(time.Since(start).Seconds())
		b.say("%-40s %8.2f s", "archive verify", ours.last())
		return nil
	}, func() error {
		if !python {
			return nil
		}
		start := time.Now()
		if out, err := exec.CommandContext(ctx, "python3", filepath.Join(root, "test", "evidence", "verify.py"), pack, "--key", vkey, "--key", log.Key.Verifier()).CombinedOutput(); err != nil {
			return fmt.Errorf("verify.py: %w\n%s", err, out)
		}
		theirs.add(time.Since(start).Seconds())
		b.say("%-40s %8.2f s", "verify.py", theirs.last())
		return nil
	})
	if err != nil {
		return err
	}
	b.rows = append(b.rows, row{
		what: "evidence pack of 10,000 checkpoints and 10,000 entries: made, verified, kept", ours: fmt.Sprintf("%v s", built), peer: "–", theirs: "–", ratio: "–", goal: "< 30 s",
	})
	verified := row{what: "the same: verified offline", ours: fmt.Sprintf("%v s", ours), peer: "–", theirs: "–", ratio: "–", goal: "< 10 s"}
	if python {
		verified.peer, verified.theirs, verified.ratio = "the second verifier, in Python", fmt.Sprintf("%v s", theirs), fmt.Sprintf("%.2f", ours.median()/theirs.median())
	}
	b.rows = append(b.rows, verified)
	return nil
}

// fillArchive makes a tree that grew by one entry at a time, with a checkpoint each.
func fillArchive(db *storage.DB, log *synthetic.Log) (*storage.Tree, error) {
	tree, err := db.CreateTree(origin)
	if err != nil {
		return nil, err
	}
	leaves := make([]storage.Hash, evidenceSize)
	for i := range leaves {
		leaves[i] = storage.LeafHash(log.Entries(uint64(i)))
	}
	nodes := map[[2]uint64]storage.Hash{}
	var node func(level int, index uint64) (storage.Hash, error)
	node = func(level int, index uint64) (h storage.Hash, err error) {
		if level == 0 {
			return leaves[index], nil
		}
		key := [2]uint64{uint64(level), index}
		if h, ok := nodes[key]; ok {
			return h, nil
		}
		left, _ := node(level-1, 2*index)
		right, _ := node(level-1, 2*index+1)
		nodes[key] = storage.NodeHash(left, right)
		return nodes[key], nil
	}
	seen := time.Now().Add(-24 * time.Hour)
	for i := range uint64(evidenceSize) {
		size := i + 1
		proof, err := storage.ConsistencyProof(i, size, node)
		if err != nil {
			return nil, err
		}
		seen = seen.Add(time.Second)
		c := storage.Checkpoint{Head: storage.Head{Size: size, Root: log.Root(size)}, Raw: log.Checkpoint(size), FirstSeen: seen, LastSeen: seen, Source: "a benchmark"}
		if _, err := tree.Advance(c, proof, proof); err != nil {
			return nil, err
		}
		if _, err := tree.Extend([][]byte{log.Entries(i)}, func(storage.Head) (storage.Seal, error) { return storage.Seal{Checkpoint: c}, nil }); err != nil {
			return nil, err
		}
	}
	return tree, nil
}
