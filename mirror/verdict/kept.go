package verdict

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"github.com/understudy-log/understudy/storage"
)

// Bundles of decisions are kept once each, by hash, in the commit of the first row that has them. What
// is kept, and in which order, stands in records of its own, so that a start does not read them all.
// There is no deleting of records: one that is gone is empty.
const (
	keptPrefix   = "verdict-bundle "
	keptOfPrefix = "verdict-kept "
)

// kept knows which bundles of decisions are kept.
type kept struct {
	db *storage.DB

	mu    sync.Mutex // guards the fields below; never held during I/O
	next  uint64
	bytes int64
	all   map[string]*keptBundle
	order []*keptBundle // the oldest first
}

type keptBundle struct {
	hash    string
	number  uint64
	size    int64
	durable bool
}

func (k *kept) load(db *storage.DB) error {
	k.db, k.all = db, map[string]*keptBundle{}
	return db.Records(keptOfPrefix, func(name string, raw []byte) error {
		var number uint64
		if _, err := fmt.Sscanf(strings.TrimPrefix(name, keptOfPrefix), "%d", &number); err != nil || len(raw) > 0 && len(raw) < 9 {
			return fmt.Errorf("%s is damaged; restore a backup", name)
		}
		k.next = number
		if len(raw) == 0 {
			return nil
		}
		b := &keptBundle{hash: string(raw[8:]), number: number, size: int64(binary.BigEndian.Uint64(raw)), durable: true}
		k.all[b.hash] = b
		k.order = append(k.order, b)
		k.bytes += b.size
		return nil
	})
}

// stage returns the records that keep a bundle, and that drop the oldest ones where there is no room;
// nil if it is kept already, or does not fit.
func (k *kept) stage(hash string, bundle []byte, limit int64) map[string][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	if int64(len(bundle)) > limit || len(bundle) == 0 {
		return nil
	}
	b := k.all[hash]
	if b != nil && b.durable {
		return nil
	}
	if b == nil {
		k.next++
		b = &keptBundle{hash: hash, number: k.next, size: int64(len(bundle))}
		k.all[hash] = b
		k.order = append(k.order, b)
		k.bytes += b.size
	}
	records := map[string][]byte{
		keptPrefix + hash:  bundle,
		keptName(b.number): append(binary.BigEndian.AppendUint64(nil, uint64(b.size)), hash...),
	}
	for k.bytes > limit && k.order[0] != b {
		old := k.order[0]
		k.order = k.order[1:]
		k.bytes -= old.size
		delete(k.all, old.hash)
		records[keptPrefix+old.hash], records[keptName(old.number)] = []byte{}, []byte{}
	}
	return records
}

func keptName(number uint64) string { return fmt.Sprintf("%s%020d", keptOfPrefix, number) }

// done says that the records of stage are durable. Until then others stage the bundle, too: their rows
// must not be there without it.
func (k *kept) done(hash string, records map[string][]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b := k.all[hash]; b != nil && records != nil {
		b.durable = true
	}
}

func (k *kept) size() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bytes
}

// bundle returns a bundle that is kept; nil: it is not.
func (k *kept) bundle(hash string) ([]byte, error) {
	raw, err := k.db.Record(keptPrefix + hash)
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	if digestOf(raw) != hash {
		return nil, fmt.Errorf("the kept bundle %s is damaged; restore a backup", hash)
	}
	return raw, nil
}
