package e2ev1

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
)

// batch is how many entries one request to entries/retrieve may name.
const batch = 10

// logEntry is an entry as the API answers it.
type logEntry struct {
	Body           string `json:"body"`
	IntegratedTime int64  `json:"integratedTime"`
	LogID          string `json:"logID"`
	LogIndex       uint64 `json:"logIndex"`
	Verification   struct {
		SET []byte `json:"signedEntryTimestamp"`
	} `json:"verification"`
}

// ask sends one request and returns the body of a good answer.
func (u *user) ask(method, path string, body any) (string, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return "", err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(u.Context(), method, u.url+path, content)
	if err != nil {
		return "", err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s\n%s", method, path, response.Status, answer)
	}
	return string(answer), nil
}

// verified returns the entries of an answer, {UUID: entry} or a list of such, after it has
// verified the signed timestamp of each with the key of its shard.
func (u *user) verified(answer string) (map[string]logEntry, error) {
	entries := make(map[string]logEntry)
	var list []map[string]logEntry
	if err := json.Unmarshal([]byte(answer), &list); err != nil {
		list = make([]map[string]logEntry, 1)
		if err := json.Unmarshal([]byte(answer), &list[0]); err != nil {
			return nil, err
		}
	}
	for _, one := range list {
		for uuid, entry := range one {
			entries[uuid] = entry
			if err := u.verifySET(entry); err != nil {
				return nil, fmt.Errorf("entry %s: %w", uuid, err)
			}
		}
	}
	return entries, nil
}

func (u *user) verifySET(e logEntry) error {
	for _, shard := range u.log.Shards {
		text, err := os.ReadFile(shard.PublicKeyFile)
		if err != nil {
			return err
		}
		key := mustKey(text).(*ecdsa.PublicKey)
		if id := sha256.Sum256(mustSPKI(key)); hex.EncodeToString(id[:]) != e.LogID {
			continue
		}
		// What is signed is canonical JSON: no white space, the names in order.
		digest := sha256.Sum256(fmt.Appendf(nil, `{"body":%q,"integratedTime":%d,"logID":%q,"logIndex":%d}`, e.Body, e.IntegratedTime, e.LogID, e.LogIndex))
		if !ecdsa.VerifyASN1(key, digest[:], e.Verification.SET) {
			return fmt.Errorf("the signed timestamp of index %d is wrong", e.LogIndex)
		}
		return nil
	}
	return fmt.Errorf("no shard has the log ID %s", e.LogID)
}

// get is a step that asks for something but entries.
func get(path string) step {
	return step{name: "GET " + path, run: func(u *user) (string, error) {
		answer, err := u.ask(http.MethodGet, path, nil)
		if err != nil {
			return "", err
		}
		return u.unsigned(answer)
	}}
}

// fetch is a step that asks for entries, which must be those of uuids and no more.
func fetch(name, method, path string, body any, uuids ...string) step {
	return step{name: name, run: func(u *user) (string, error) {
		answer, err := u.ask(method, path, body)
		if err != nil {
			return "", err
		}
		entries, err := u.verified(answer)
		if err != nil {
			return "", err
		}
		for _, uuid := range uuids {
			if _, found := entries[uuid]; !found {
				return "", fmt.Errorf("no entry %s in %s", uuid, answer)
			}
		}
		if len(entries) != len(uuids) {
			return "", fmt.Errorf("%d entries, want %d: %s", len(entries), len(uuids), answer)
		}
		return u.unsigned(answer)
	}}
}

// monitorSteps is what rekor-monitor does: the log's state, a proof from the last one, and
// every entry by ten.
func (w *world) monitorSteps() []step {
	active := w.log.Shards[len(w.log.Shards)-1]
	last := w.sizeOf(len(w.log.Shards) - 1)
	steps := []step{
		get("/api/v1/log"),
		get("/api/v1/log/publicKey"),
		get(fmt.Sprintf("/api/v1/log/proof?firstSize=%d&lastSize=%d", w.first, last)),
		get(fmt.Sprintf("/api/v1/log/proof?firstSize=%d&lastSize=%d&treeID=%d", w.first, last, active.TreeID)),
		get(fmt.Sprintf("/api/v1/log/proof?firstSize=%d&lastSize=%d", last, last)),
		fails(get("/api/v1/log/proof?firstSize=0&lastSize="+strconv.FormatUint(last, 10)), "422"),
		fails(get(fmt.Sprintf("/api/v1/log/proof?firstSize=%d&lastSize=%d", last, w.first)), "400"),
		unknown(get(fmt.Sprintf("/api/v1/log/proof?firstSize=%d&lastSize=%d", last, last+1000)), "400"),
		fails(get("/api/v1/log/publicKey?treeID=1"), "400"),
	}
	for _, shard := range w.log.Shards {
		steps = append(steps, get(fmt.Sprintf("/api/v1/log/publicKey?treeID=%d", shard.TreeID)))
	}
	for some := range slices.Chunk(w.entries, batch) {
		var indexes []uint64
		var uuids []string
		for _, entry := range some {
			indexes, uuids = append(indexes, entry.LogIndex), append(uuids, entry.UUID)
		}
		// rekor-monitor sends the lists that it does not use, too.
		body := map[string]any{"entries": nil, "entryUUIDs": nil, "logIndexes": indexes}
		steps = append(steps, fetch(fmt.Sprintf("retrieve %d to %d", indexes[0], indexes[len(indexes)-1]), http.MethodPost, "/api/v1/log/entries/retrieve", body, uuids...))
	}
	return steps
}

// entrySteps asks for the samples in every way that the API has.
func (w *world) entrySteps() []step {
	const retrieve = "/api/v1/log/entries/retrieve"
	var steps []step
	for _, s := range w.samples {
		steps = append(steps,
			fetch("GET index of "+s.name, http.MethodGet, "/api/v1/log/entries?logIndex="+strconv.FormatUint(s.LogIndex, 10), nil, s.UUID),
			fetch("GET UUID of "+s.name, http.MethodGet, "/api/v1/log/entries/"+s.UUID, nil, s.UUID),
			fetch("GET leaf hash of "+s.name, http.MethodGet, "/api/v1/log/entries/"+s.UUID[16:], nil, s.UUID),
			fetch("GET upper-case UUID of "+s.name, http.MethodGet, "/api/v1/log/entries/"+strings.ToUpper(s.UUID), nil, s.UUID),
			fetch("retrieve UUID of "+s.name, http.MethodPost, retrieve, map[string]any{"entryUUIDs": []string{s.UUID}}, s.UUID),
			fetch("retrieve proposal of "+s.name, http.MethodPost, retrieve, map[string]any{"entries": []json.RawMessage{s.Proposal}}, s.UUID),
		)
	}
	first, second := w.samples[0], w.byName("hashedrekord in shard 1")
	all := map[string]any{"entries": []json.RawMessage{first.Proposal}, "entryUUIDs": []string{second.UUID}, "logIndexes": []uint64{first.LogIndex + 1, second.LogIndex + 1}}
	return append(append(steps,
		fetch("retrieve all three ways at once", http.MethodPost, retrieve, all, first.UUID, second.UUID, w.samples[1].UUID, w.byName("hashedrekord by e-mail in shard 1").UUID),
		fetch("retrieve nothing", http.MethodPost, retrieve, map[string]any{}),
		fails(fetch("retrieve eleven", http.MethodPost, retrieve, map[string]any{"logIndexes": []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}), "422"),
		fails(fetch("retrieve a negative index", http.MethodPost, retrieve, map[string]any{"logIndexes": []int{-1}}), "422"),
		fails(fetch("retrieve a bad UUID", http.MethodPost, retrieve, map[string]any{"entryUUIDs": []string{"ab"}}), "422"),
		fails(fetch("GET a negative index", http.MethodGet, "/api/v1/log/entries?logIndex=-1", nil), "422"),
		fails(fetch("GET no index", http.MethodGet, "/api/v1/log/entries", nil), "422"),
		fails(fetch("GET a bad UUID", http.MethodGet, "/api/v1/log/entries/ab", nil), "422"),
	), append(w.missingSteps(), w.unreadSteps()...)...)
}

// missingSteps asks for what is not in the log.
func (w *world) missingSteps() []step {
	nothing := strings.Repeat("ab", 32)
	held, beyond := w.samples[0], w.end()
	// Rekor leaves out what it lacks; a mirror that does not know may not.
	partly := func(name string, lacking map[string]any) step {
		lacking["logIndexes"] = append([]uint64{held.LogIndex}, lacking["logIndexes"].([]uint64)...)
		s := fetch("retrieve an entry and "+name, http.MethodPost, "/api/v1/log/entries/retrieve", lacking, held.UUID)
		s.unknown = true
		return s
	}
	return []step{
		unknown(fetch("GET unknown UUID of the frozen shard", http.MethodGet, "/api/v1/log/entries/"+held.UUID[:16]+nothing, nil), "404"),
		unknown(fetch("GET beyond the log", http.MethodGet, "/api/v1/log/entries?logIndex="+strconv.FormatUint(beyond, 10), nil), "404"),
		unknown(fetch("GET unknown UUID", http.MethodGet, "/api/v1/log/entries/"+nothing, nil), "404"),
		partly("an unknown UUID", map[string]any{"logIndexes": []uint64{}, "entryUUIDs": []string{nothing}}),
		partly("one beyond the log", map[string]any{"logIndexes": []uint64{beyond}}),
	}
}

// unreadSteps asks for an entry that nobody asked for before.
func (w *world) unreadSteps() []step {
	e := w.unread
	steps := []step{
		fetch("GET index of the unread", http.MethodGet, "/api/v1/log/entries?logIndex="+strconv.FormatUint(e.LogIndex, 10), nil, e.UUID),
		fetch("GET UUID of the unread", http.MethodGet, "/api/v1/log/entries/"+e.UUID, nil, e.UUID),
		fetch("retrieve the unread and another", http.MethodPost, "/api/v1/log/entries/retrieve",
			map[string]any{"logIndexes": []uint64{w.samples[0].LogIndex, e.LogIndex}}, w.samples[0].UUID, e.UUID),
		cli("get the unread", []string{e.UUID}, "get", "--uuid="+e.UUID),
		cli("verify the unread", []string{e.UUID}, "verify", "--log-index="+strconv.FormatUint(e.LogIndex, 10)),
	}
	for i := range steps {
		steps[i].unread = true
	}
	return steps
}
