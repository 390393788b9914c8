package log

import (
	"context"
	"fmt"
	"slices"
	"testing"
)

// TestIndexed: what was logged before there was a search index is found once the log runs with one.
func TestIndexed(t *testing.T) {
	s := newStage(t, nil)
	s.open(true)
	for i := range 30 {
		s.append(fmt.Sprint(i))
	}
	s.close()
	s.keys = func(entry []byte) []string { return []string{"last digit " + string(entry[len(entry)-1:])} }
	s.open(false)
	eventually(t, "all is indexed", func() bool {
		view := s.log.Tree().View()
		defer view.Close()
		start, end := view.Indexed()
		return start == 0 && end == 30
	})
	s.append("107")
	view := s.log.Tree().View()
	found, err := view.SearchKeys(context.Background(), []string{"last digit 7"}, false, 10)
	view.Close()
	if err != nil || !slices.Equal(found, []uint64{7, 17, 27, 30}) {
		t.Errorf("found %v, %v", found, err)
	}
	s.close()
}
