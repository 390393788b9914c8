package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/witness"
)

// WitnessConfig says what is cosigned.
type WitnessConfig struct {
	// Keys are files with the keys of the witness, as "understudy keys generate" writes them.
	Keys []string `yaml:"keys"`
	// MirrorKeys are those of the mirror cosigner, for logs with coverage full.
	MirrorKeys []string `yaml:"mirror_keys"`
	// Logs are cosigned beside those that are mirrored.
	Logs []WitnessLogConfig `yaml:"logs"`
	// LogList is a file with more of them, in the format of the witness network.
	LogList string `yaml:"log_list"`
}

// WitnessLogConfig is a log that is only witnessed.
type WitnessLogConfig struct {
	// Origin is the first line of its checkpoints; default: the name of its key.
	Origin string `yaml:"origin"`
	// PublicKey is a PEM file, a file with a vkey, or a vkey.
	PublicKey string `yaml:"public_key"`

	keys []trust.Key
}

// maxOrigin is the longest origin that an ML-DSA-44 cosignature can name (tlog-cosignature).
const maxOrigin = 255

func (c *Config) completeWitness() error {
	w := c.Witness
	if w == nil {
		return nil
	}
	if len(w.Keys)+len(w.MirrorKeys) == 0 {
		return c.mistake("a witness without \"keys\" or \"mirror_keys\"; make some with \"understudy keys generate\"", "witness")
	}
	if len(w.Keys) == 0 && (len(w.Logs) > 0 || w.LogList != "") {
		return c.mistake("logs are witnessed with \"keys\", and there are none", "witness")
	}
	for i, log := range w.Logs {
		if log.PublicKey == "" {
			return c.mistake("a log to witness without \"public_key\"", "witness", "logs", i)
		}
	}
	return nil
}

// witnessKeys reads the key files of one cosigner.
func (c *Config) witnessKeys(files []string, key string) ([]*witness.Key, error) {
	var keys []*witness.Key
	for i, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, c.mistake(fmt.Sprintf("read key: %v; make one with \"understudy keys generate\"", err), "witness", key, i)
		}
		k, err := witness.ParseKey(data)
		if err != nil {
			return nil, c.mistake(fmt.Sprintf("%s: %v", file, err), "witness", key, i)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// witnessLogs returns the logs that are only witnessed, each origin once. Those that are mirrored
// are left out: their keys are known there. skipped are logs of the list that cannot be witnessed:
// others keep it, so what is new in it stops nothing.
func (c *Config) witnessLogs() (logs []WitnessLogConfig, skipped []error, err error) {
	seen := map[string]bool{}
	for _, log := range c.Logs {
		seen[log.Origin] = true
	}
	add := func(log WitnessLogConfig, listed bool, where ...any) error {
		read := readKey
		if listed {
			read = func(vkey string) (trust.Key, error) { return trust.ParseKey([]byte(vkey)) } // others write lists: no file of ours is meant
		}
		key, err := read(log.PublicKey)
		if err != nil {
			return c.mistake(err.Error(), where...)
		}
		setDefault(&log.Origin, key.Name)
		switch {
		case log.Origin == "":
			return c.mistake("a log to witness without \"origin\", the first line of its checkpoints", where...)
		case len(log.Origin) > maxOrigin || strings.ContainsFunc(log.Origin, isControl):
			return c.mistake(fmt.Sprintf("an origin must be one line of at most %d bytes", maxOrigin), where...)
		case seen[log.Origin]:
			return c.mistake(fmt.Sprintf("the origin %q is mirrored or listed already; what is mirrored is witnessed without more", log.Origin), where...)
		}
		seen[log.Origin], log.keys = true, []trust.Key{key}
		logs = append(logs, log)
		return nil
	}
	for i, log := range c.Witness.Logs {
		if err := add(log, false, "witness", "logs", i); err != nil {
			return nil, nil, err
		}
	}
	if c.Witness.LogList == "" {
		return logs, nil, nil
	}
	data, err := os.ReadFile(c.Witness.LogList)
	if err != nil {
		return nil, nil, c.mistake(err.Error(), "witness", "log_list")
	}
	listed, err := witness.ParseLogList(data)
	if err != nil {
		return nil, nil, c.mistake(fmt.Sprintf("%s: %v", c.Witness.LogList, err), "witness", "log_list")
	}
	for _, l := range listed {
		if seen[l.Origin] {
			continue // of a list that others keep; what the configuration says counts
		}
		if err := add(WitnessLogConfig{Origin: l.Origin, PublicKey: l.VKey}, true, "witness", "log_list"); err != nil {
			skipped = append(skipped, fmt.Errorf("%w (line %d of the list)", err, l.Line))
		}
	}
	return logs, skipped, nil
}
