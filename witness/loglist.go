package witness

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
)

// ListedLog is one log of a log list.
type ListedLog struct {
	Origin string
	VKey   string // of the log
	Line   int    // of the list
}

// ParseLogList reads a list of logs as the witness network publishes them
// (https://github.com/transparency-dev/witness-network, docs/log-list-format.md). What else it
// says of a log, such as how many requests a day it may make, is ignored.
func ParseLogList(data []byte) ([]ListedLog, error) {
	var logs []ListedLog
	lines, number, begun := bufio.NewScanner(bytes.NewReader(data)), 0, false
	for lines.Scan() {
		number++
		line := strings.TrimSpace(lines.Text())
		key, value, _ := strings.Cut(line, " ")
		value = strings.TrimSpace(value)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case !begun && line != "logs/v0":
			return nil, fmt.Errorf("line %d: a log list begins with logs/v0", number)
		case !begun:
			begun = true
		case key == "vkey":
			name, _, ok := strings.Cut(value, "+")
			if !ok {
				return nil, fmt.Errorf("line %d: %.80q is not a verifier key", number, value)
			}
			logs = append(logs, ListedLog{Origin: name, VKey: value, Line: number})
		case len(logs) == 0:
			return nil, fmt.Errorf("line %d: a log begins with vkey", number)
		case key == "origin" && value == "":
			return nil, fmt.Errorf("line %d: an empty origin", number)
		case key == "origin" && value != "none":
			logs[len(logs)-1].Origin = value
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if !begun {
		return nil, fmt.Errorf("a log list begins with logs/v0")
	}
	return logs, nil
}
