package archive

import (
	"bytes"
	"fmt"
	"strings"
)

// checkpoint is a checkpoint that was verified.
type checkpoint struct {
	Head
	text       []byte
	extensions []string
}

// open verifies a checkpoint of the log. Without a key of it, which is an error that was named, it
// is only read.
func (c *logCheck) open(raw []byte) (*checkpoint, error) {
	return openCheckpoint(c.l.Origin, c.keys, raw)
}

func openCheckpoint(origin string, keys *LogKeys, raw []byte) (*checkpoint, error) {
	if keys != nil {
		if err := keys.Checkpoint(raw); err != nil {
			return nil, err
		}
	}
	// SPEC: "The note text is a series of newline-terminated lines: origin, tree size in decimal
	// without leading zeros, root hash in base64, and extension lines, which are not empty."
	// (c2sp.org/tlog-checkpoint)
	i := bytes.LastIndex(raw, []byte("\n\n"))
	text := raw[:i+1]
	parts := strings.Split(string(text), "\n")
	if i < 0 || len(parts) < 4 {
		return nil, fmt.Errorf("it is no checkpoint")
	}
	var head Head
	var d decoder
	if parts[0] != origin {
		return nil, fmt.Errorf("it is a checkpoint of %.120q, not of %q", parts[0], origin)
	}
	if err := d.decode([]byte(parts[1]), &head.Size); err != nil || strings.TrimSpace(parts[1]) != parts[1] {
		return nil, fmt.Errorf("it is no checkpoint: %.40q is no size", parts[1])
	}
	if err := head.Root.parse(parts[2]); err != nil {
		return nil, fmt.Errorf("it is no checkpoint: %v", err)
	}
	extensions := parts[3 : len(parts)-1]
	for _, line := range extensions {
		if line == "" {
			return nil, fmt.Errorf("it is no checkpoint: an extension line is empty")
		}
	}
	return &checkpoint{head, text, extensions}, nil
}

// frozen says whether the log said that nothing follows.
func (c *checkpoint) frozen() bool {
	for _, line := range c.extensions {
		if strings.HasPrefix(line, "Log frozen") {
			return true
		}
	}
	return false
}
