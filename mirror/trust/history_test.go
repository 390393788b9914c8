package trust

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/test/tufrepo"
)

// TestHistory: what was in force at any time since the first update is known, to the byte, also
// after a crash; what was before, and what there was not, is told apart.
func TestHistory(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	if _, _, err := c.AsOf(RootTarget, time.Now()); !errors.As(err, new(*BeforeError)) {
		t.Errorf("before the first update: %v", err)
	}
	began := time.Now()
	const other = "signing_config.v0.2.json"
	type moment struct {
		at      time.Time
		targets map[string][]byte
	}
	var moments []moment
	update := func(targets map[string][]byte) {
		t.Helper()
		c.update()
		moments = append(moments, moment{time.Now(), targets})
		time.Sleep(2 * time.Millisecond)
	}
	first, second := targetOf(t, "P-256"), targetOf(t, "P-384")
	update(map[string][]byte{RootTarget: first})
	server.Publish(t, second, day(7))
	update(map[string][]byte{RootTarget: second})
	server.Publish(t, second, day(7)) // only the timestamp is new
	update(map[string][]byte{RootTarget: second})
	for range 2 { // there, gone
		server.Publish(t, first, day(7))
		addTarget(t, server, other, []byte(`{"config"}`))
		update(map[string][]byte{RootTarget: first, other: []byte(`{"config"}`)})
		server.Publish(t, first, day(7))
		update(map[string][]byte{RootTarget: first})
	}
	for range 2 {
		for i, m := range moments {
			for _, name := range []string{RootTarget, other, "never"} {
				v, content, err := c.AsOf(name, m.at)
				want, ok := m.targets[name]
				switch {
				case !ok && !errors.Is(err, ErrNoTarget):
					t.Errorf("%s at moment %d: %v, want none", name, i, err)
				case ok && (err != nil || !bytes.Equal(content, want) || v.Hash != hashOf(want) || v.Name != name || v.Seen.After(m.at)):
					t.Errorf("%s at moment %d: %+v, %q, %v", name, i, v, content, err)
				}
			}
		}
		var before *BeforeError
		if _, _, err := c.AsOf(RootTarget, began.Add(-time.Hour)); !errors.As(err, &before) || before.First.Before(began.Add(-time.Second)) {
			t.Errorf("an hour before: %v", err)
		}
		roots, configs := c.History(RootTarget), c.History(other)
		if len(roots) != 3 || len(configs) != 2 || len(c.Names()) != 2 || len(c.History("never")) != 0 {
			t.Fatalf("history %+v, %+v", roots, configs)
		}
		if roots[0].Until != roots[1].Seen || roots[1].Until != roots[2].Seen || !roots[2].Until.IsZero() || roots[1].Targets != 2 {
			t.Errorf("history %+v", roots)
		}
		for _, v := range configs {
			if v.Until.IsZero() || !v.Until.After(v.Seen) {
				t.Errorf("history %+v", configs)
			}
		}
		c.crash()
	}
}

// addTarget adds a target to the version that was published last.
func addTarget(t *testing.T, server *tufrepo.Repo, name string, content []byte) {
	t.Helper()
	file, err := metadata.TargetFile().FromBytes(name, content, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	server.Put("targets/"+hashOf(content)+"."+name, content)
	tufrepo.Edit(t, server, tufrepo.MetadataFile(server.Version, metadata.TARGETS), func(m *metadata.Metadata[metadata.TargetsType]) {
		m.Signed.Targets[name] = file
	}, metadata.TARGETS)
}
