package archive

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// cosignersRecord has the verifier keys of all cosigners that we ever had: what one cosigned is in
// the archive also after its key was changed, or no witness is configured any more.
const cosignersRecord = "evidence cosigners"

// openCosigners remembers the cosigners that are configured, and reads those that were.
func (a *Archive) openCosigners() error {
	raw, err := a.cfg.DB.Record(cosignersRecord)
	if err != nil {
		return err
	}
	var known []string
	if raw != nil {
		if err := json.Unmarshal(raw, &known); err != nil {
			return fmt.Errorf("record %q: %w", cosignersRecord, err)
		}
	}
	a.cosigners = slices.Clone(a.cfg.Cosigners)
	for _, key := range known {
		if !slices.Contains(a.cosigners, key) {
			a.cosigners = append(a.cosigners, key)
		}
	}
	if len(a.cosigners) == len(known) {
		return nil
	}
	raw, err = json.Marshal(a.cosigners)
	return errors.Join(err, a.cfg.DB.PutRecord(cosignersRecord, raw))
}

// ofCosigners returns the lines whose key is among those of cosigners, and how many others there are.
func ofCosigners(lines, cosigners []string) (known []string, others int) {
	known = []string{}
	for _, line := range lines {
		if slices.ContainsFunc(cosigners, func(key string) bool { return cosignedBy(line, key) }) {
			known = append(known, line)
		} else {
			others++
		}
	}
	return known, others
}

// cosignedBy says whether a signature line has the name and the ID of a verifier key.
func cosignedBy(line, key string) bool {
	name, id, _ := cutKey(key)
	fields := strings.Split(line, " ")
	if len(fields) != 3 || fields[1] != name {
		return false
	}
	signature, err := base64.StdEncoding.DecodeString(fields[2])
	return err == nil && len(signature) > 4 && fmt.Sprintf("%x", signature[:4]) == id
}
