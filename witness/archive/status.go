package archive

import (
	"os"
	"time"
)

// Status is the state of an archive.
type Status struct {
	Key      string    `json:"key"` // verifier key of the archive
	Schedule string    `json:"schedule"`
	TimeZone string    `json:"time_zone"`
	Next     time.Time `json:"next"` // end of the next period
	Packs    int       `json:"packs"`
	// Newest is the pack that was made last; nil if there is none.
	Newest *PackStatus `json:"newest,omitempty"`
	// Problem is why the pack that is due cannot be made; nil if nothing is wrong.
	Problem *Failure `json:"problem,omitempty"`
	// Waiting is how many packs each destination lacks.
	Waiting map[string]int `json:"waiting,omitempty"`
}

// PackStatus is the state of one pack.
type PackStatus struct {
	Number    uint64              `json:"number"`
	Name      string              `json:"name"`
	Size      int64               `json:"size"`
	SHA256    Hex                 `json:"sha256"`
	From      time.Time           `json:"from"`
	To        time.Time           `json:"to"`
	Built     time.Time           `json:"built"`
	Stamped   bool                `json:"stamped"` // it has a time-stamp of an authority
	Logs      int                 `json:"logs"`
	Stored    map[string]Delivery `json:"stored,omitempty"`
	Failures  map[string]Failure  `json:"failures,omitempty"` // by destination
	Manifest  Hex                 `json:"manifest_sha256"`
	LastRows  map[string]uint64   `json:"last_rows,omitempty"`
	Available bool                `json:"available"` // it is in the folder
}

func (a *Archive) status(r record) PackStatus {
	_, err := os.Stat(a.path(r))
	return PackStatus{
		Number: r.Number, Name: r.Name, Size: r.Size, SHA256: r.Hash, From: r.From, To: r.To, Built: r.Built, Stamped: r.Stamped,
		Logs: len(r.Logs), Stored: r.Stored, Failures: r.Failures, Manifest: r.Manifest, LastRows: r.Rows, Available: err == nil,
	}
}

// Status returns the state of the archive.
func (a *Archive) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{Key: a.cfg.VKey, Schedule: a.cfg.Expression, TimeZone: a.cfg.TimeZone, Next: a.cfg.Schedule.Next(a.now()), Packs: len(a.records), Waiting: map[string]int{}}
	if a.failure != nil {
		f := *a.failure
		s.Problem = &f
	}
	for _, d := range a.cfg.Destinations {
		s.Waiting[d.Name()] = 0
		for _, r := range a.records {
			if _, ok := r.Stored[d.Name()]; !ok {
				s.Waiting[d.Name()]++
			}
		}
	}
	if n := len(a.records); n > 0 {
		newest := a.status(a.records[n-1])
		s.Newest = &newest
	}
	return s
}

// Packs returns the state of every pack, the oldest first.
func (a *Archive) Packs() []PackStatus {
	a.mu.Lock()
	records := append([]record(nil), a.records...)
	a.mu.Unlock()
	packs := make([]PackStatus, len(records))
	for i, r := range records {
		packs[i] = a.status(r)
	}
	return packs
}

// Pack opens a pack for reading, and returns its state. It returns ErrNoPack.
func (a *Archive) Pack(number uint64) (*os.File, PackStatus, error) {
	r, ok := a.record(number)
	if !ok {
		return nil, PackStatus{}, ErrNoPack
	}
	f, err := os.Open(a.path(r))
	return f, a.status(r), err
}
