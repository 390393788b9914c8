package drill

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

const tileWidth = 256

// drillLog is a log of some hundred entries in memory. As a http.RoundTripper it answers as a C2SP
// tlog-tiles server does (https://c2sp.org/tlog-tiles).
type drillLog struct {
	entries    [][]byte
	levels     [2][]byte // hashes, as the tiles of each level have them
	checkpoint []byte
}

func newDrillLog(origin string, signer note.Signer, entries [][]byte) (*drillLog, error) {
	l := &drillLog{entries: entries}
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for _, entry := range entries {
		leaf := rfc6962.DefaultHasher.HashLeaf(entry)
		l.levels[0] = append(l.levels[0], leaf...)
		err := tree.Append(leaf, func(id compact.NodeID, hash []byte) {
			if id.Level == 8 {
				l.levels[1] = append(l.levels[1], hash...)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("append to the log of the drill: %w", err)
		}
	}
	root, err := tree.GetRootHash(nil)
	if err != nil {
		return nil, fmt.Errorf("root of the log of the drill: %w", err)
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, len(entries), base64.StdEncoding.EncodeToString(root))
	if l.checkpoint, err = note.Sign(&note.Note{Text: text}, signer); err != nil {
		return nil, fmt.Errorf("sign the checkpoint of the log of the drill: %w", err)
	}
	return l, nil
}

// RoundTrip implements http.RoundTripper.
func (l *drillLog) RoundTrip(r *http.Request) (*http.Response, error) {
	body, ok := l.resource(strings.TrimPrefix(r.URL.Path, "/"))
	if !ok {
		return answer(r, http.StatusNotFound, http.Header{}), nil
	}
	unsent(r)
	return withBody(&http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: r,
	}, body), nil
}

func (l *drillLog) resource(path string) ([]byte, bool) {
	if path == "checkpoint" {
		return l.checkpoint, true
	}
	rest, isTile := strings.CutPrefix(path, "tile/")
	level, name, ok := strings.Cut(rest, "/")
	if !isTile || !ok {
		return nil, false
	}
	name, partial, isPartial := strings.Cut(name, ".p/")
	var index, width int
	if _, err := fmt.Sscanf(name, "%03d", &index); err != nil || index < 0 {
		return nil, false
	}
	if width = tileWidth; isPartial {
		if _, err := fmt.Sscanf(partial, "%d", &width); err != nil || width < 1 {
			return nil, false
		}
	}
	first, last := index*tileWidth, index*tileWidth+width
	switch level {
	case "entries":
		if last > len(l.entries) {
			return nil, false
		}
		var bundle bytes.Buffer
		for _, entry := range l.entries[first:last] {
			bundle.Write(binary.BigEndian.AppendUint16(nil, uint16(len(entry))))
			bundle.Write(entry)
		}
		return bundle.Bytes(), true
	case "0", "1":
		hashes := l.levels[level[0]-'0']
		if last*rfc6962.DefaultHasher.Size() > len(hashes) {
			return nil, false
		}
		return hashes[first*rfc6962.DefaultHasher.Size() : last*rfc6962.DefaultHasher.Size()], true
	}
	return nil, false
}
