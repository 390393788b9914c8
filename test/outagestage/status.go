package outagestage

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/understudy-log/understudy/test/process"
)

// Status is what "understudy outage status --json" prints, as far as a script would read it.
type Status struct {
	State      string `json:"state"`
	Components []struct {
		Component  string    `json:"component"`
		State      string    `json:"state"`
		Underlying string    `json:"underlying"`
		Since      time.Time `json:"since"`
		Cause      struct {
			Code string `json:"code"`
			Text string `json:"text"`
		} `json:"cause"`
		FlapLevel int `json:"flap_level"`
	} `json:"components"`
	Effects struct {
		Signing        string `json:"signing"`
		SigningProblem string `json:"signing_problem"`
		PrivateLog     string `json:"private_log"`
	} `json:"effects"`
	Reconcile  json.RawMessage `json:"reconcile"`
	LedgerRows uint64          `json:"ledger_rows"`
	LedgerHash string          `json:"ledger_hash"`
}

// Of returns the state of a component; "" if there is none.
func (s Status) Of(component string) string {
	for _, c := range s.Components {
		if c.Component == component {
			return c.State
		}
	}
	return ""
}

// Cause returns the code of why a component is in its state.
func (s Status) Cause(component string) string {
	for _, c := range s.Components {
		if c.Component == component {
			return c.Cause.Code
		}
	}
	return ""
}

func (s Status) String() string {
	parts := []string{}
	for _, c := range s.Components {
		parts = append(parts, fmt.Sprintf("%s %s (%s: %s)", c.Component, c.State, c.Cause.Code, c.Cause.Text))
	}
	return fmt.Sprintf("%s; signing %q %s; private log %q; reconcile %s", strings.Join(parts, ", "), s.Effects.Signing, s.Effects.SigningProblem, s.Effects.PrivateLog, s.Reconcile)
}

// Outage returns the status now. It asks as the command line does, without the cost of a process.
func (d *Daemon) Outage(ctx context.Context) (s Status, err error) {
	answer, err := get(ctx, d.admin+"/outage")
	if err != nil {
		return s, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// UntilOutage waits until the status is as good says, and returns it, and when that was seen.
func (d *Daemon) UntilOutage(ctx context.Context, limit time.Duration, what string, good func(Status) bool) (s Status, at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = process.Until(ctx, func(ctx context.Context) error {
		// Not with ctx, so that the last error is one that tells what was lacking.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if s, err = d.Outage(ctx); err == nil && !good(s) {
			err = fmt.Errorf("not %s: %s", what, s)
		}
		return err
	})
	return s, time.Now(), err
}

// UntilState waits until components are in a state.
func (d *Daemon) UntilState(ctx context.Context, limit time.Duration, state string, components ...string) (Status, time.Time, error) {
	return d.UntilOutage(ctx, limit, fmt.Sprint(state, " at ", components), func(s Status) bool {
		for _, c := range components {
			if s.Of(c) != state {
				return false
			}
		}
		return true
	})
}

// UntilLive waits until all is well: every component is live, and nothing is reconciled.
func (d *Daemon) UntilLive(ctx context.Context, limit time.Duration) (Status, time.Time, error) {
	return d.UntilOutage(ctx, limit, "live", func(s Status) bool { return s.State == "live" && len(s.Components) > 0 })
}

// Row is a row of the ledger.
type Row struct {
	Seq      uint64          `json:"seq"`
	At       time.Time       `json:"at"`
	Kind     string          `json:"kind"`
	Previous string          `json:"previous"`
	Body     json.RawMessage `json:"body"`
}

// Field returns a member of the body, if it is a string.
func (r Row) Field(name string) string {
	var body map[string]any
	if json.Unmarshal(r.Body, &body) != nil {
		return ""
	}
	text, _ := body[name].(string)
	return text
}

// Ledger returns all rows, as the command prints them, once it has seen that each has the hash of the one
// before.
func (d *Daemon) Ledger(ctx context.Context) ([]Row, error) {
	out, err := d.Command(ctx, "outage", "ledger")
	if err != nil {
		return nil, err
	}
	var rows []Row
	previous := ""
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var row Row
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return nil, err
		}
		if row.Previous != previous || row.Seq != uint64(len(rows)+1) {
			return nil, fmt.Errorf("row %d of the ledger (%d) does not follow from the one before", len(rows)+1, row.Seq)
		}
		sum := sha256.Sum256(lines.Bytes())
		previous = hex.EncodeToString(sum[:])
		rows = append(rows, row)
	}
	return rows, lines.Err()
}

// Rows returns the rows of a kind whose body has these strings: field, value, field, value.
func Rows(rows []Row, kind string, fields ...string) (some []Row) {
next:
	for _, row := range rows {
		if row.Kind != kind {
			continue
		}
		for i := 0; i < len(fields); i += 2 {
			if row.Field(fields[i]) != fields[i+1] {
				continue next
			}
		}
		some = append(some, row)
	}
	return some
}
