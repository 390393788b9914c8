package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// besideSeal seals with rows beside entries, as a log of our own does.
func besideSeal(t *Tree, proposals, audits [][]byte) func(Head) (Seal, error) {
	return func(next Head) (Seal, error) {
		return Seal{Checkpoint: note(t.origin, next, "s"), Proposals: proposals, Audits: audits}, nil
	}
}

func numbered(what string, start, n int) (rows [][]byte) {
	for i := range n {
		rows = append(rows, fmt.Appendf(nil, "%s %d", what, start+i))
	}
	return rows
}

// TestBeside: what is kept beside entries is there with them, in order, and nowhere else; proposals
// can be dropped, audit rows cannot.
func TestBeside(t *testing.T) {
	fs := vfs.NewCrashableMem()
	db, err := Create("db", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := db.CreateTree("log.test/ours")
	if err != nil {
		t.Fatal(err)
	}
	for start := 0; start < 12; start += 4 {
		proposals := numbered("proposal", start, 4)
		proposals[1] = nil
		if _, err := tree.Extend(numbered("entry", start, 4), besideSeal(tree, proposals, numbered("audit", start, 4))); err != nil {
			t.Fatal(err)
		}
	}
	for _, seal := range []func(Head) (Seal, error){
		besideSeal(tree, numbered("proposal", 0, 1), nil), besideSeal(tree, nil, numbered("audit", 0, 3)),
	} {
		if _, err := tree.Extend(numbered("entry", 100, 2), seal); err == nil {
			t.Error("another number of rows than entries was taken")
		}
	}
	rows := func(each func(start, end uint64, yield func(uint64, []byte) error) error, start, end uint64) string {
		var all bytes.Buffer
		if err := each(start, end, func(index uint64, row []byte) error {
			fmt.Fprintf(&all, "%d=%s,", index, row)
			return nil
		}); err != nil {
			t.Error(err)
		}
		return all.String()
	}
	look := func(tree *Tree, wantProposals string) {
		t.Helper()
		v := tree.View()
		defer v.Close()
		if got := rows(v.Proposals, 0, 100); got != wantProposals {
			t.Errorf("proposals %q, want %q", got, wantProposals)
		}
		if got := rows(v.Audits, 10, 100); got != "10=audit 10,11=audit 11," {
			t.Errorf("audit rows %q", got)
		}
		if got, err := v.Proposal(1); got != nil || err != nil {
			t.Errorf("a proposal that is not kept: %q, %v", got, err)
		}
		if _, err := v.Proposal(12); !errors.Is(err, ErrNotHeld) {
			t.Errorf("a proposal beyond the head: %v", err)
		}
		report, err := tree.Check(context.Background(), CheckOptions{})
		if err != nil || len(report.Problems) > 0 {
			t.Errorf("check: %v %v", err, report.Problems)
		}
	}
	look(tree, "0=proposal 0,2=proposal 2,3=proposal 3,4=proposal 4,6=proposal 6,7=proposal 7,8=proposal 8,10=proposal 10,11=proposal 11,")
	if err := tree.DropProposals(8); err != nil {
		t.Fatal(err)
	}
	look(tree, "8=proposal 8,10=proposal 10,11=proposal 11,")

	// A crash loses none of what was committed with entries.
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = Open("db", Options{FS: crashed}); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if tree, err = db.OpenTree("log.test/ours"); err != nil {
		t.Fatal(err)
	}
	if err := tree.DropProposals(8); err != nil {
		t.Fatal(err)
	}
	look(tree, "8=proposal 8,10=proposal 10,11=proposal 11,")

	// The check names a lost audit row, and rows of what is not held.
	if err := db.pebble.Delete(tree.id.audit(5), nil); err != nil {
		t.Fatal(err)
	}
	if err := db.pebble.Set(tree.id.proposal(12), []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	if err := db.pebble.Set(tree.id.audit(13), []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	report, err := tree.Check(context.Background(), CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range report.Problems {
		got = append(got, p.Error())
	}
	want := []string{"audit row of entry 5 is missing", "audit row of entry 13 is of an entry that is not held", "proposal of entry 12 is of an entry that is not held"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("check found %q, want %q", got, want)
	}
}
