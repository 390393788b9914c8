package log

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/understudy-log/understudy/storage"
)

// Audit says who appended an entry, and when. It is durable with the entry.
type Audit struct {
	Time     int64 // Unix seconds; never before that of the entry before
	Identity string
}

const auditVersion = 1

// marshal returns the stored row: version, time as 8 bytes, identity.
func (a Audit) marshal() []byte {
	return append(binary.BigEndian.AppendUint64([]byte{auditVersion}, uint64(a.Time)), a.Identity...)
}

// ParseAudit reads a stored row.
func ParseAudit(b []byte) (Audit, error) {
	if len(b) < 9 || b[0] != auditVersion {
		return Audit{}, errors.New("audit row is malformed")
	}
	return Audit{int64(binary.BigEndian.Uint64(b[1:])), string(b[9:])}, nil
}

// Audit returns the audit row of an entry.
func (l *Log) Audit(index uint64) (a Audit, err error) {
	found := false
	err = l.Audits(index, index+1, func(_ uint64, row Audit) error {
		a, found = row, true
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("audit row of entry %d: %w", index, storage.ErrNotHeld)
	}
	return a, err
}

// Audits calls yield for the audit rows of the entries [start, end) that are held, in order, up to the
// first error.
func (l *Log) Audits(start, end uint64, yield func(index uint64, a Audit) error) error {
	view := l.tree.View()
	defer view.Close()
	return view.Audits(start, end, func(index uint64, row []byte) error {
		a, err := ParseAudit(row)
		if err != nil {
			return fmt.Errorf("audit row of entry %d: %w", index, err)
		}
		return yield(index, a)
	})
}
