package archive

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Records of verifier keys that we ever had: what one signed is in archives and packs also after it
// was changed, or nothing is signed any more.
const (
	cosignersRecord = "evidence cosigners"
	makersRecord    = "evidence archive keys"
)

// remember keeps the keys that are configured, and returns them with those that were, behind them.
func (a *Archive) remember(name string, configured ...string) ([]string, error) {
	raw, err := a.cfg.DB.Record(name)
	if err != nil {
		return nil, err
	}
	var known []string
	if raw != nil {
		if err := json.Unmarshal(raw, &known); err != nil {
			return nil, fmt.Errorf("record %q: %w", name, err)
		}
	}
	all := slices.Clone(configured)
	for _, key := range known {
		if !slices.Contains(all, key) {
			all = append(all, key)
		}
	}
	if len(all) == len(known) {
		return all, nil
	}
	raw, err = json.Marshal(all)
	return all, errors.Join(err, a.cfg.DB.PutRecord(name, raw))
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
