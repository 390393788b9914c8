package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

// watchInterval is the time between two pictures of "status --watch".
const watchInterval = time.Second

func newStatusCommand() *cobra.Command {
	var watch, asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is held of each log and how it is followed",
		Long: `Status asks the running daemon, on its admin address, how it is. When none
runs, it reads the data directory and shows what is held.

For each log it shows how upstream is, how much of the log is held, how fast a
catch-up goes, and what is wrong.

With --json it prints the same as one JSON object; with --watch as well, one
object a second, one per line.

Exit codes: 0 shown, whatever it shows; 2 neither daemon nor data answered.`,
		Example: `  understudy status
  understudy status --watch
  understudy status --json | jq '.logs[] | {name, next_index, tree_size, problem}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			show, redraw := statusText, watch && !asJSON && isTerminal(out)
			switch {
			case asJSON:
				show = func(s rest.Status) string { return statusJSON(s, watch) }
			case watch && !redraw:
				show = statusLines
			}
			if watch {
				return watchStatus(cmd.Context(), c, out, show, redraw)
			}
			s, err := statusOf(cmd.Context(), c)
			if err != nil {
				return err
			}
			_, err = io.WriteString(out, show(s))
			return err
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again every second, until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// statusOf asks the daemon, or reads the data of a stopped one.
func statusOf(ctx context.Context, c *Config) (rest.Status, error) {
	s, err := daemonStatus(ctx, c)
	if !errors.Is(err, errNoDaemon) {
		return s, err
	}
	held, heldErr := heldStatus(c)
	if errors.Is(heldErr, storage.ErrLocked) {
		return held, fmt.Errorf("%w, but another process uses %s; is listen.admin in the configuration that of the daemon?", err, c.DataDir)
	}
	if heldErr != nil {
		return held, fmt.Errorf("%w, and there is no data to look at: %w", err, heldErr)
	}
	return held, nil
}

// heldStatus describes what the data directory of a stopped daemon holds.
func heldStatus(c *Config) (s rest.Status, err error) {
	db, err := c.openHeld(storage.Options{ReadOnly: true})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	s = rest.Status{Version: version(), DataDir: c.absoluteDataDir(), StorageBytes: db.DiskUsage()}
	shards, err := heldServices(c, db)
	if err != nil {
		return s, err
	}
	if p := c.Private; p != nil && p.V1 != nil {
		s.Private = append(s.Private, c.heldPrivate(db, p.V1.origin()))
	}
	if p := c.Private; p != nil && p.V2 != nil {
		s.Private = append(s.Private, c.heldPrivate(db, p.V2.Origin))
	}
	for _, origin := range db.Origins() {
		if c.privateOrigin(origin) {
			continue
		}
		if shard, ok := shards[origin]; ok {
			s.Logs = append(s.Logs, shard)
			continue
		}
		name, url := origin, ""
		if log, ok, err := c.logOf(origin, db); err != nil {
			return s, err
		} else if ok {
			name, url = log.Name, log.URL
		}
		tree, err := db.OpenTree(origin)
		if err != nil {
			s.Logs = append(s.Logs, mirror.Status{Name: name, Origin: origin, OriginHash: mirror.OriginHash(origin), URL: url,
				Problem: &mirror.Problem{Reason: mirror.ProblemStorage, Text: err.Error()}})
			continue
		}
		s.Logs = append(s.Logs, mirror.Describe(name, url, tree.State(), origin))
	}
	return s, nil
}

// heldServices describes what is held of the shards of Rekor v1 services, by origin.
func heldServices(c *Config, db *storage.DB) (map[string]mirror.Status, error) {
	shards := map[string]mirror.Status{}
	for i := range c.Logs {
		if !c.Logs[i].isService() {
			continue
		}
		cfg, err := c.service(i, db)
		if err != nil {
			return nil, err
		}
		service, err := mirror.NewService(cfg)
		if err != nil {
			continue // a tree that is damaged says so below
		}
		held, err := service.Held()
		if err != nil {
			return nil, err
		}
		for _, shard := range held {
			shards[shard.Origin] = shard
		}
	}
	return shards, nil
}

// watchStatus shows the status every second until it is interrupted, in the place of
// the one before if redraw is set. Then it also waits for a daemon that is not there.
func watchStatus(ctx context.Context, c *Config, out io.Writer, show func(rest.Status) string, redraw bool) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	back := ""
	for {
		s, err := statusOf(ctx, c)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !redraw {
			return err
		}
		text := ""
		if err != nil {
			text = err.Error() + "\n"
		} else {
			text = show(s)
		}
		if redraw {
			lines := strings.Count(text, "\n")
			text = back + "\x1b[?7l" + text + "\x1b[?7h" // long lines are cut: a wrapped one counts twice
			back = fmt.Sprintf("\x1b[%dA\x1b[J", lines)
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchInterval):
		}
	}
}

// statusJSON is the status as JSON, on one line or spread.
func statusJSON(s rest.Status, oneLine bool) string {
	indent := "  "
	if oneLine {
		indent = ""
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetIndent("", indent)
	if err := e.Encode(s); err != nil {
		panic(err) // a Status has nothing that JSON lacks
	}
	return b.String()
}

// statusText is the status for a person.
func statusText(s rest.Status) string {
	var b strings.Builder
	state := "running"
	if !s.Running {
		state = "not running; this is what is held"
	}
	fmt.Fprintf(&b, "understudy %s in %s: %s, %s on disk\n", s.Version, s.DataDir, state, bytesText(s.StorageBytes))
	if s.TUF != nil {
		b.WriteString(tufText("TUF repository", s.TUF, time.Now()))
	}
	if s.Trust != nil {
		b.WriteString(tufText("TUF repository of our own", &s.Trust.RepositoryStatus, time.Now()))
		if s.Trust.Behind {
			b.WriteString("  behind    Sigstore has another TrustedRoot than was signed here: \"understudy trust export\", then \"understudy trust sign\"\n")
		}
	}
	if s.Witness != nil {
		b.WriteString(witnessText(s.Witness))
	}
	if s.Archive != nil {
		b.WriteString(archiveText(s.Archive, time.Now()))
	}
	if s.Outage != nil {
		b.WriteString(outageText(s.Outage, time.Now()))
	}
	for _, p := range s.Private {
		b.WriteString(privateText(p, s.Running, time.Now()))
	}
	for _, log := range s.Logs {
		fmt.Fprintf(&b, "\n%s (%s)\n", log.Name, log.Origin)
		fmt.Fprintf(&b, "  held      %s\n", heldText(log))
		if log.Coverage != string(mirror.CoveragePinned) {
			fmt.Fprintf(&b, "            %s\n", bar(log, 48))
		}
		if left := leftText(log); left != "" {
			fmt.Fprintf(&b, "  copying   %s\n", left)
		}
		if log.History != nil {
			fmt.Fprintf(&b, "  history   %s\n", historyText(log))
		}
		if log.Lacks != "" {
			fmt.Fprintf(&b, "  lacks     %s\n", log.Lacks)
		}
		if log.HasCheckpoint {
			fmt.Fprintf(&b, "  newest    checkpoint of %s, %s\n", count(log.TreeSize, "entry", "entries"), ageText(log))
		}
		if s.Running {
			fmt.Fprintf(&b, "  upstream  %s; answers are %s\n", orDash(log.UpstreamState), orDash(log.Source))
		}
		if log.NewestKnownSize > 0 {
			fmt.Fprintf(&b, "  restored  from an older backup: %s were held before; it catches up as soon as a source answers\n", count(log.NewestKnownSize, "entry", "entries"))
		}
		if log.Problem != nil {
			fmt.Fprintf(&b, "  problem   %s\n", problemText(log.Problem))
		}
		for _, damage := range log.Damage {
			fmt.Fprintf(&b, "  damaged   %s\n", strings.Join(strings.Fields(damage), " "))
		}
		if more := log.DamagedPlaces - len(log.Damage); more > 0 {
			fmt.Fprintf(&b, "  damaged   and %s\n", count(uint64(more), "other place", "other places"))
		}
		if log.History != nil && log.History.Problem != nil {
			fmt.Fprintf(&b, "  problem   of history: %s\n", problemText(log.History.Problem))
		}
		for _, source := range log.Sources {
			fmt.Fprintf(&b, "  source    %s\n", sourceText(source))
		}
	}
	return b.String()
}

// statusLines is the status with one line per log, for files and pipes.
func statusLines(s rest.Status) string {
	var b strings.Builder
	for _, log := range s.Logs {
		fmt.Fprintf(&b, "%s %s: %s", time.Now().UTC().Format(time.RFC3339), log.Name, heldText(log))
		if left := leftText(log); left != "" {
			fmt.Fprintf(&b, ", %s", left)
		}
		if log.History != nil {
			fmt.Fprintf(&b, ", history %s", historyText(log))
		}
		if log.Lacks != "" {
			b.WriteString(", less than is configured")
		}
		if !s.Running {
			b.WriteString(", not running")
		} else {
			fmt.Fprintf(&b, ", upstream %s", orDash(log.UpstreamState))
		}
		if log.Problem != nil {
			fmt.Fprintf(&b, ", problem %s", log.Problem.Reason)
		}
		if log.DamagedPlaces > 0 {
			fmt.Fprintf(&b, ", damaged in %s", count(uint64(log.DamagedPlaces), "place", "places"))
		}
		b.WriteByte('\n')
	}
	if s.TUF != nil {
		b.WriteString(tufLine("TUF repository", s.TUF) + "\n")
	}
	if s.Trust != nil {
		b.WriteString(tufLine("TUF repository of our own", &s.Trust.RepositoryStatus))
		if s.Trust.Behind {
			b.WriteString(", behind")
		}
		b.WriteByte('\n')
	}
	if s.Archive != nil {
		b.WriteString(archiveLine(s.Archive, time.Now()))
	}
	if s.Outage != nil {
		b.WriteString(outageLine(s.Outage, time.Now()))
	}
	for _, p := range s.Private {
		b.WriteString(privateLine(p, time.Now()))
	}
	return b.String()
}

// share is the part of the newest checkpoint's tree that is held, from 0 to 1.
func share(log mirror.Status) float64 {
	switch {
	case !log.HasCheckpoint:
		return 0
	case log.NextIndex-log.MinimumIndex >= log.TreeSize:
		return 1
	}
	return float64(log.NextIndex-log.MinimumIndex) / float64(log.TreeSize)
}

func heldText(log mirror.Status) string {
	if log.Pins != nil && (log.Coverage == string(mirror.CoveragePinned) || !log.HasCheckpoint && log.Pins.Count > 0) {
		return pinsText(log.Pins)
	}
	if !log.HasCheckpoint {
		return "nothing yet"
	}
	text := fmt.Sprintf("%s of %s, %s", number(log.NextIndex-log.MinimumIndex), count(log.TreeSize, "entry", "entries"), percent(share(log)))
	if log.MinimumIndex > 0 {
		text += ", from " + number(log.MinimumIndex) + " on"
	}
	return text
}

// pinsText says how many entries are pinned, and why.
func pinsText(p *mirror.PinStatus) string {
	text := fmt.Sprintf("%s pinned, %s watched or imported, %s", count(p.Count, "entry", "entries"), number(p.Kept), bytesText(p.Bytes))
	if p.Evicted > 0 {
		text += fmt.Sprintf("; %s gave way", number(p.Evicted))
	}
	if p.Unlinked > 0 {
		text += fmt.Sprintf("; %s not tied to an archived checkpoint yet", number(p.Unlinked))
	}
	return text
}

// percent rounds down: 100 % is said only when all is there.
func percent(share float64) string {
	return fmt.Sprintf("%.1f %%", float64(int(share*1000))/10)
}

func leftText(log mirror.Status) string {
	if log.EntriesPerSecond <= 0 || log.NextIndex >= log.TreeSize {
		return ""
	}
	return fmt.Sprintf("%s/s, %s left", count(uint64(log.EntriesPerSecond), "entry", "entries"), seconds(log.SecondsLeft))
}

// ageText says when upstream last vouched for the newest checkpoint.
func ageText(log mirror.Status) string {
	if log.CheckpointAge > (20 * 365 * 24 * time.Hour).Seconds() { // since 1970: see mirror
		return "for which upstream has not vouched to us"
	}
	return "vouched for " + seconds(log.CheckpointAge) + " ago"
}

// historyText says how a window grows backwards.
func historyText(log mirror.Status) string {
	h := log.History
	text := "down to " + number(h.To) + ": "
	if h.EntriesPerSecond <= 0 {
		return text + count(log.MinimumIndex-min(log.MinimumIndex, h.To), "entry", "entries") + " to go"
	}
	return text + fmt.Sprintf("%s entries/s, %s left", number(uint64(h.EntriesPerSecond)), seconds(h.SecondsLeft))
}

func sourceText(s mirror.Source) string {
	text := s.URL + ": " + s.State
	if s.Upstream {
		text = s.URL + " (upstream): " + s.State
	}
	if s.Until != nil {
		text += " for another " + seconds(max(0, time.Until(*s.Until).Seconds()))
	}
	if s.Problem != nil && !s.Upstream { // that of upstream stands above
		text += ", " + problemText(s.Problem)
	}
	return text
}

func problemText(p *mirror.Problem) string {
	return p.Reason + ": " + p.Text + sinceText(p.Since)
}

// bar shows what part of the tree is held.
func bar(log mirror.Status, width int) string {
	full := int(share(log) * float64(width))
	before := 0
	if log.HasCheckpoint && log.TreeSize > 0 {
		before = min(width-full, int(float64(log.MinimumIndex)/float64(log.TreeSize)*float64(width)))
	}
	return "[" + strings.Repeat("-", before) + strings.Repeat("#", full) + strings.Repeat("-", width-before-full) + "]"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func sinceText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf(" (for %s)", seconds(time.Since(t).Seconds()))
}

func seconds(s float64) string {
	return (time.Duration(s) * time.Second).String()
}

// number groups digits by three.
func number(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// count is a number of things, in the singular for 1.
func count(n uint64, one, many string) string {
	if n == 1 {
		many = one
	}
	return number(n) + " " + many
}

func bytesText(n uint64) string {
	const kilo = 1000
	if n < kilo {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= kilo && unit < len("kMGTPE") {
		value /= kilo
		unit++
	}
	return fmt.Sprintf("%.1f %cB", value, "kMGTPE"[unit-1])
}
