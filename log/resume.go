package log

import (
	"fmt"

	"github.com/understudy-log/understudy/storage"
)

// Resume lets a log of which Newest knows nothing any more go on from what the database holds, on the
// word of its operator that no checkpoint of more than size entries was ever published: from an evidence
// pack, a monitor, or the newest bundle that anybody has. It returns the head from which it goes on. It
// refuses if the database holds less, or if Newest knows of a checkpoint: then that decides.
func Resume(cfg Config, size uint64) (storage.Head, error) {
	tree, err := cfg.DB.OpenTree(cfg.Origin)
	if err != nil {
		return storage.Head{}, err
	}
	l, err := newLog(cfg, tree)
	if err != nil {
		return storage.Head{}, err
	}
	held := tree.State().Pending
	if held.Raw == nil {
		return storage.Head{}, fmt.Errorf("resume %q: it has signed nothing yet", cfg.Origin)
	}
	if err := l.verifyOld(held.Raw); err != nil {
		return storage.Head{}, &KeyError{cfg.Origin, err}
	}
	if known := cfg.Newest.Of(cfg.Origin); known.Raw != nil {
		return storage.Head{}, fmt.Errorf("resume %q: a published checkpoint of %d entries is remembered, so there is nothing to say about it", cfg.Origin, known.Size)
	}
	if held.Size < size {
		return storage.Head{}, &BehindError{Origin: cfg.Origin, Held: held.Head, Published: storage.Checkpoint{Head: storage.Head{Size: size}}}
	}
	return held.Head, cfg.Newest.Note(cfg.Origin, held)
}
