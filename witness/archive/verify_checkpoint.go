package archive

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSignatures is how many signature lines a note may have.
const maxSignatures = 100

// checkpoint is a checkpoint that was verified.
type checkpoint struct {
	Head
	origin     string
	text       []byte
	extensions []string
}

// open verifies a checkpoint of the log. Without a key of it, which is an error that was named, it
// is only read.
func (c *logCheck) open(raw []byte) (*checkpoint, error) {
	return openCheckpoint(c.l.Origin, c.keys, raw)
}

func openCheckpoint(origin string, keys *LogKeys, raw []byte) (*checkpoint, error) {
	c, err := parseCheckpoint(raw)
	if err != nil {
		return nil, fmt.Errorf("it is no checkpoint: %w", err)
	}
	if c.origin != origin {
		return nil, fmt.Errorf("it is a checkpoint of %.120q, not of %q", c.origin, origin)
	}
	if keys != nil {
		if err := keys.Checkpoint(raw); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// parseCheckpoint reads a checkpoint of which nothing is verified: each line of it has its form,
// also those of signatures that nobody looks at.
func parseCheckpoint(raw []byte) (*checkpoint, error) {
	if len(raw) > maxSmall {
		return nil, fmt.Errorf("it has %d bytes, and a note has at most %d", len(raw), maxSmall)
	}
	// SPEC: "The note MUST be valid UTF-8, and MUST NOT contain any ASCII control characters (those
	// below U+0020) other than newline (U+000A)." (c2sp.org/signed-note)
	if !utf8.Valid(raw) || bytes.ContainsFunc(raw, func(r rune) bool { return r < ' ' && r != '\n' }) {
		return nil, errors.New("it is not UTF-8 without control characters")
	}
	i := bytes.LastIndex(raw, []byte("\n\n"))
	if i < 0 {
		return nil, errors.New("it has no text, or no signature")
	}
	// SPEC: "The note text is a series of newline-terminated lines: origin, tree size in decimal
	// without leading zeros, root hash in base64, and extension lines, which are not empty."
	// (c2sp.org/tlog-checkpoint)
	text := raw[:i+1]
	lines := strings.Split(string(raw[:i]), "\n")
	if len(lines) < 3 {
		return nil, fmt.Errorf("its text has %d lines", len(lines))
	}
	c := &checkpoint{origin: lines[0], text: text, extensions: lines[3:]}
	var d decoder
	if err := d.decode([]byte(lines[1]), &c.Size); err != nil || strings.TrimSpace(lines[1]) != lines[1] {
		return nil, fmt.Errorf("%.40q is no size", lines[1])
	}
	if err := c.Root.parse(lines[2]); err != nil {
		return nil, err
	}
	for _, line := range c.extensions {
		if line == "" {
			return nil, errors.New("an extension line is empty")
		}
	}
	signatures, ok := strings.CutSuffix(string(raw[i+2:]), "\n")
	if !ok {
		return nil, errors.New("it has no signature, or no newline at its end")
	}
	if n := strings.Count(signatures, "\n") + 1; n > maxSignatures {
		return nil, fmt.Errorf("it has %d signature lines, and a note has at most %d", n, maxSignatures)
	}
	for line := range strings.SplitSeq(signatures, "\n") {
		if !isSignatureLine(line) {
			return nil, fmt.Errorf("%.120q is no signature line", line)
		}
	}
	return c, nil
}

// isSignatureLine says whether a line of a note has the form of a signature, whoever's it is.
func isSignatureLine(line string) bool {
	// SPEC: "Key names MUST be non-empty, and MUST NOT contain any Unicode spaces or plus (U+002B)
	// characters." (c2sp.org/signed-note)
	rest, ok := strings.CutPrefix(line, "— ")
	name, encoded, _ := strings.Cut(rest, " ")
	raw, err := decodeBase64(encoded)
	return ok && name != "" && !strings.Contains(name, "+") && !strings.ContainsFunc(name, unicode.IsSpace) && err == nil && len(raw) > 4
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
