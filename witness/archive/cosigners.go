package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

const cosignersRecord = "evidence cosigners"

// rememberCosigners adds the keys that our cosigners had before to those that they have now: what
// they signed goes into packs later, and is verified with these. A key is remembered before
// anything is signed with it, so no copy of the database has a cosignature by a key that it lacks.
func (a *Archive) rememberCosigners() error {
	var known []string
	raw, err := a.cfg.DB.Record(cosignersRecord)
	if err != nil {
		return err
	}
	if raw != nil {
		if err := json.Unmarshal(raw, &known); err != nil {
			return fmt.Errorf("record %q cannot be used: %w", cosignersRecord, errors.Join(err, errRecord))
		}
	}
	all := slices.Clone(a.cfg.Cosigners)
	for _, key := range known {
		if !slices.Contains(all, key) {
			all = append(all, key)
		}
	}
	a.cfg.Cosigners = all
	if len(all) == len(known) {
		return nil
	}
	if raw, err = json.Marshal(all); err != nil {
		return err
	}
	return a.cfg.DB.PutRecord(cosignersRecord, raw)
}
