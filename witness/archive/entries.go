package archive

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-log/understudy/storage"
)

// Want is what the customer named, with what finds it.
type Want struct {
	Wanted
	// Keys are search keys (storage.Options.SearchKeys) of which an entry has one.
	Keys []string
	// Leaf is the leaf hash of an entry that is named by it, in the tree of TreeID if that is not 0.
	Leaf   *storage.Hash
	TreeID uint64
	// First and End are a range [First, End) of indexes: virtual ones of a Rekor v1 service, or of
	// the one log.
	First, End uint64
}

// maxWanted is how many entries one thing that is named may bring into a pack.
const maxWanted = 100_000

// entryBuilder gathers the entries of a pack.
type entryBuilder struct {
	folders map[string]string // by origin and index
	lines   bytes.Buffer
	answers []Answer
}

// named adds the entries that were named.
func (b *builder) named(ctx context.Context) error {
	wanted := b.a.cfg.Wanted
	if len(wanted) == 0 {
		return nil
	}
	b.entries.folders = map[string]string{}
	for _, w := range wanted {
		answer := Answer{Wanted: w.Wanted, Found: []Found{}, Complete: true}
		var looked []string
		unheld := 0
		for _, v := range b.views {
			if w.Log != "" && w.Log != v.Origin && w.Log != v.Name && w.Log != serviceOf(v.Name) {
				continue
			}
			if v.Coverage == "witnessed" {
				unheld++
				continue
			}
			text, complete, err := b.look(ctx, w, v, &answer)
			if err == errElsewhere {
				continue
			}
			if err != nil {
				return fmt.Errorf("entries of %s in %q: %w", w.what(), v.Origin, err)
			}
			looked = append(looked, v.Origin+": "+text)
			answer.Complete = answer.Complete && complete
		}
		if len(looked) == 0 {
			answer.Complete, looked = false, []string{"no log of which entries are held can have it"}
		}
		if unheld > 0 && (w.Leaf == nil || len(answer.Found) == 0) {
			answer.Complete, looked = false, append(looked, fmt.Sprintf("logs of which no entries are held: %d", unheld))
		}
		answer.Looked = strings.Join(looked, "; ")
		l, err := line(answer)
		if err != nil {
			return err
		}
		b.entries.lines.Write(l)
		b.entries.answers = append(b.entries.answers, answer)
	}
	b.report.answers = b.entries.answers
	return b.spool.add(entriesFile, b.entries.lines.Bytes())
}

// serviceOf returns the name of the service in that of its shard.
func serviceOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return name
}

func (w *Want) what() string {
	switch {
	case w.Digest != "":
		return "digest " + w.Digest
	case w.Identity != "":
		return "identity " + w.Identity
	case w.UUID != "":
		return "UUID " + w.UUID
	}
	return "index " + w.Index
}

// look adds what of the wanted is in one log.
func (b *builder) look(ctx context.Context, w Want, v *logView, answer *Answer) (looked string, complete bool, err error) {
	indexes, text, complete, err := v.find(w)
	if damaged(err) {
		return "what is stored of it is damaged (" + err.Error() + ")", false, nil
	}
	if err != nil {
		return "", false, err
	}
	if len(indexes) > maxWanted {
		indexes, complete = indexes[:maxWanted], false
		text += fmt.Sprintf(", of what was found the first %d", maxWanted)
	}
	left, broken := 0, 0
	for _, index := range indexes {
		if err := ctx.Err(); err != nil {
			return "", false, err
		}
		folder, err := b.entry(v, index)
		switch {
		case errors.Is(err, errNotProven):
			left++
		case damaged(err):
			broken++
		case err != nil:
			return "", false, err
		default: // no log is looked at twice, and no index
			answer.Found = append(answer.Found, Found{folder})
		}
	}
	if broken > 0 {
		complete = false
		text += fmt.Sprintf(", and %d that were found are damaged here", broken)
	}
	if left > 0 {
		complete = false
		text += fmt.Sprintf(", and %d that were found have no proof to a checkpoint of this pack yet", left)
	}
	return text, complete, nil
}

// errElsewhere: a log cannot have what is wanted.
var errElsewhere = errors.New("not of this log")

// damaged says whether something that is stored cannot be read: that holds up no pack, since the
// checkpoints are what it is about.
func damaged(err error) bool {
	_, ok := errors.AsType[*storage.DamageError](err)
	return ok
}

// find returns the indexes of what is wanted in a log, and says how far was looked.
func (v *logView) find(w Want) (indexes []uint64, looked string, complete bool, err error) {
	s := v.view.State()
	complete = v.Coverage == "full" && s.Minimum == 0 && s.Head.Size >= s.Pending.Size
	looked = fmt.Sprintf("entries %d to %d", s.Minimum, int64(s.Head.Size)-1)
	switch {
	case s.Head.Size > 0:
	case v.Coverage == "full":
		looked = "it has no entry"
	default:
		looked = "entries that were pinned"
	}
	switch {
	case w.Leaf != nil:
		if w.TreeID != 0 && w.TreeID != v.TreeID {
			return nil, "", false, errElsewhere
		}
		index, ok, err := v.view.Index(*w.Leaf)
		if ok || err != nil {
			return []uint64{index}, looked, true, err
		}
		p, ok, err := v.view.PinOf(*w.Leaf)
		if ok {
			return []uint64{p.Index}, looked, true, err
		}
		return nil, looked, complete, err
	case len(w.Keys) > 0:
		for _, key := range w.Keys {
			if err := v.view.Search(key, func(index uint64) error {
				if len(indexes) <= maxWanted {
					indexes = append(indexes, index)
				}
				return nil
			}); err != nil {
				return nil, "", false, err
			}
		}
		slices.Sort(indexes)
		start, end := v.view.Indexed()
		if complete = complete && start == 0 && end == s.Head.Size; s.Head.Size > 0 {
			looked = fmt.Sprintf("entries %d to %d", start, int64(end)-1)
		}
		return slices.Compact(indexes), looked, complete, nil
	}
	first, end := max(w.First, v.Start), min(w.End, v.Start+s.Pending.Size)
	if first >= end {
		return nil, "", false, errElsewhere
	}
	low, high := first-v.Start, end-v.Start
	held := func(index uint64) bool { return index >= s.Minimum && index < s.Head.Size }
	for index := max(low, s.Minimum); index < high && held(index) && len(indexes) <= maxWanted; index++ {
		indexes = append(indexes, index)
	}
	if uint64(len(indexes)) < high-low {
		pins, err := v.view.PinIndexes()
		if err != nil {
			return nil, "", false, err
		}
		for _, index := range pins {
			if index >= low && index < high && !held(index) && len(indexes) <= maxWanted {
				indexes = append(indexes, index)
			}
		}
		slices.Sort(indexes)
	}
	return indexes, fmt.Sprintf("indexes %d to %d", first, end-1), uint64(len(indexes)) == high-low, nil
}

// errNotProven: an entry lies beyond the checkpoints of the pack.
var errNotProven = errors.New("not proven")

// entry adds one entry with its proof, and returns its folder.
func (b *builder) entry(v *logView, index uint64) (folder string, err error) {
	key := fmt.Sprintf("%d %s", index, v.Origin)
	if folder, ok := b.entries.folders[key]; ok {
		return folder, nil
	}
	newest := v.log.After.Newest
	if newest == nil || index >= newest.Size {
		return "", errNotProven
	}
	place := EntryPlace{Origin: v.Origin, Index: index, Tie: []Base64{}, To: *newest}
	to := storage.Head{Size: newest.Size, Root: storage.Hash(newest.Root)}
	body, receipt, proof, checkpoint, tie, err := v.proven(index, to)
	if errors.Is(err, storage.ErrNotHeld) || errors.Is(err, storage.ErrBelowMinimum) || errors.Is(err, storage.ErrInconsistent) {
		return "", errNotProven
	}
	if err != nil {
		return "", err
	}
	place.Tie = base64s(tie)
	if receipt != nil && b.a.cfg.SET != nil {
		if place.SET, err = b.a.cfg.SET(v.Origin, receipt); err != nil {
			return "", fmt.Errorf("entry %d: %w", index, err)
		}
	}
	if v.TreeID != 0 {
		if place.SET == nil { // nothing that Rekor v1 promised is held
			return "", errNotProven
		}
		virtual := v.Start + index
		place.VirtualIndex = &virtual
		leaf := storage.LeafHash(body)
		place.UUID = fmt.Sprintf("%016x%x", v.TreeID, leaf[:])
	}
	folder = fmt.Sprintf("entries/%06d", len(b.entries.folders)+1)
	b.entries.folders[key] = folder
	about, err := line(place)
	if err != nil {
		return "", err
	}
	return folder, errors.Join(
		b.spool.add(folder+"/entry.json", body),
		b.spool.add(folder+"/place.json", about),
		b.spool.add(folder+"/proof.txt", tlogProof(index, proof, checkpoint)),
	)
}

// proven returns an entry with an inclusion proof to a signed checkpoint, and the proof that ties
// that to the newest one of the pack.
func (v *logView) proven(index uint64, to storage.Head) (body, receipt []byte, proof []storage.Hash, checkpoint []byte, tie []storage.Hash, err error) {
	fail := func(err error) ([]byte, []byte, []storage.Hash, []byte, []storage.Hash, error) {
		return nil, nil, nil, nil, nil, err
	}
	if s := v.view.State(); index >= s.Minimum && index < s.Head.Size {
		if body, err = v.view.Entry(index); err != nil {
			return fail(err)
		}
		if receipt, err = v.view.Receipt(index); err != nil && !errors.Is(err, storage.ErrNotHeld) {
			return fail(err)
		}
		if proof, err = v.view.InclusionProof(index, to.Size); err != nil {
			return fail(err)
		}
		c, ok, err := v.view.Checkpoint(to.Size)
		if err != nil || !ok || c.Root != to.Root {
			return fail(errors.Join(err, storage.ErrNotHeld))
		}
		return body, receipt, proof, c.Raw, nil, nil
	}
	p, ok, err := v.view.Pin(index)
	if err != nil || !ok {
		return fail(errors.Join(err, storage.ErrNotHeld))
	}
	hashes, c, err := v.view.PinProof(&p, to.Size)
	if err == nil && c.Root == to.Root {
		return p.Entry, p.Receipt, hashes, c.Raw, nil, nil
	}
	if err != nil && !errors.Is(err, storage.ErrNotHeld) {
		return fail(err)
	}
	small, large := p.Checkpoint.Head, to
	if small.Size > large.Size {
		small, large = large, small
	}
	if tie, err = v.view.LinkedProof(small.Size, large.Size); err != nil {
		return fail(err)
	}
	if err := storage.VerifyConsistency(small, large, tie); err != nil {
		return fail(err)
	}
	return p.Entry, p.Receipt, p.Proof, p.Checkpoint.Raw, tie, nil
}

// tlogProof writes a proof in the form of https://c2sp.org/tlog-proof.
func tlogProof(index uint64, proof []storage.Hash, checkpoint []byte) []byte {
	b := append([]byte("c2sp.org/tlog-proof@v1\nindex "), strconv.FormatUint(index, 10)...)
	b = append(b, '\n')
	for _, h := range proof {
		b = append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
	}
	return append(append(b, '\n'), checkpoint...)
}
