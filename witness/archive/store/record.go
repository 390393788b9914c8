package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// record is what stands in NAME.retention.json beside a pack.
type record struct {
	Size        int64     `json:"size"`   // of the pack, in bytes
	SHA256      string    `json:"sha256"` // of the pack, in hex
	RetainUntil time.Time `json:"retain_until,omitzero"`
	LegalHold   bool      `json:"legal_hold"`
}

// extend moves the end of the retention, unless that would shorten it.
func (r *record) extend(until time.Time) {
	if until = wholeSecond(until); until.After(r.RetainUntil) {
		r.RetainUntil = until
	}
}

func (r record) sum() [sha256.Size]byte {
	sum, _ := hex.DecodeString(r.SHA256) // parseRecord saw that it is one
	if len(sum) != sha256.Size {
		return [sha256.Size]byte{} // of no record
	}
	return [sha256.Size]byte(sum)
}

func hexSum(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:]) }

// wholeSecond rounds up, so that what is kept to the second is never too short.
func wholeSecond(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	if s := t.Truncate(time.Second); !s.Equal(t) {
		t = s.Add(time.Second)
	}
	return t.Round(0).UTC()
}

func parseRecord(data []byte) (record, error) {
	var r record
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return record{}, err
	}
	if !bytes.Equal(r.encode(), data) || r.sum() == [sha256.Size]byte{} {
		return record{}, errors.New("it is not as it was written")
	}
	return r, nil
}

func (r record) encode() []byte {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic(err) // there is no time after year 9999 in it: wholeSecond and writeRecord
	}
	return append(data, '\n')
}

// record reads the record of a pack; fs.ErrNotExist if there is none.
func (d *Directory) record(name string) (record, error) {
	file := d.file(name) + recordSuffix
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, err
	}
	var r record
	if err == nil {
		r, err = parseRecord(data)
	}
	if err != nil {
		return record{}, &Permanent{fmt.Errorf("read %s: %w", file, err), "it says how long the pack is retained: write it as the others are, with the time that holds"}
	}
	return r, nil
}

// change edits the record of a pack that is there.
func (d *Directory) change(ctx context.Context, name string, edit func(*record) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.sweep(); err != nil {
		return err
	}
	info, err := os.Lstat(d.file(name))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return &Permanent{fmt.Errorf("%w: %s in %s", ErrNotFound, name, d.cfg.Path), "see the list of packs for their names"}
	} else if err != nil {
		return err
	}
	r, err := d.record(name)
	if errors.Is(err, fs.ErrNotExist) { // it was copied there by hand, or Put did not finish
		r, err = d.survey(ctx, name, info.Size())
	}
	if err != nil {
		return err
	}
	if err := edit(&r); err != nil {
		return err
	}
	return d.writeRecord(name, r)
}

// survey makes the record of a pack that has none.
func (d *Directory) survey(ctx context.Context, name string, size int64) (record, error) {
	f, err := os.Open(d.file(name))
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := copyContext(ctx, sum, f, size); err != nil {
		return record{}, err
	}
	return record{Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// writeRecord replaces the record of a pack, durably. A crash leaves the old or the new.
func (d *Directory) writeRecord(name string, r record) error {
	if year := r.RetainUntil.Year(); year > 9999 {
		return &Permanent{fmt.Errorf("retention until year %d", year), "ask for an earlier time"}
	}
	f, err := os.CreateTemp(d.cfg.Path, unfinished+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = d.step("write record", func() error {
		_, err := f.Write(r.encode())
		return errors.Join(err, f.Chmod(0o644), f.Sync())
	})
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("record the retention of %s: %w", name, err)
	}
	if err := d.step("rename record", func() error { return os.Rename(f.Name(), d.file(name)+recordSuffix) }); err != nil {
		return fmt.Errorf("record the retention of %s: %w", name, err)
	}
	return d.syncFolder()
}
