package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/cmd/internal/rpc"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive"
	"github.com/understudy-log/understudy/witness/archive/calendar"
)

// exportTime bounds the export of packs.
const exportTime = 30 * time.Minute

// askArchive calls f with a connection to the archive of a server, of the daemon, or of the data
// of a stopped one.
func askArchive(ctx context.Context, c *Config, server string, f func(understudyv1.ArchiveServiceClient) error) error {
	conn, closeConn, err := connect(ctx, c, server, func(db *storage.DB) (rpc.Config, error) {
		if c.Archive == nil {
			return rpc.Config{}, nil
		}
		schedule, err := calendar.Parse(c.Archive.Schedule, c.Archive.TimeZone)
		if err != nil {
			return rpc.Config{}, c.mistake(err.Error(), "archive")
		}
		_, vkey, err := c.archiveKey()
		if err != nil {
			vkey = "a key that cannot be read here"
		}
		a, err := archive.Read(archive.Config{DB: db, VKey: vkey, Dir: c.packsDir(), Schedule: schedule, Expression: c.Archive.Schedule, TimeZone: c.Archive.TimeZone})
		return rpc.Config{Archive: a}, err
	})
	if err != nil {
		return err
	}
	return errors.Join(explainAnswer(plain(f(understudyv1.NewArchiveServiceClient(conn)))), closeConn())
}

// plain is what a server refused, without the words of gRPC.
func plain(err error) error {
	s, ok := status.FromError(err)
	if ok && (s.Code() == codes.NotFound || s.Code() == codes.FailedPrecondition || s.Code() == codes.Unavailable && len(s.Details()) > 0) {
		return errors.New(s.Message())
	}
	return err
}

func newArchiveListCommand() *cobra.Command {
	var server, format string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the evidence packs, and where they are stored",
		Long: `List shows every evidence pack: its number, its period, its size, and whether it
is stored at each destination. What cannot be stored says why, and is tried again
by the daemon for as long as it takes.

Exit codes: 0 listed; 2 could not ask.`,
		Example: `  understudy archive list
  understudy archive list --server mirror.example.com:8081 --format json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			if format != "text" && format != "json" {
				return fmt.Errorf("--format %q: want text or json", format)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askTime)
			defer cancel()
			var answer *understudyv1.ListPacksResponse
			if err := askArchive(ctx, c, server, func(a understudyv1.ArchiveServiceClient) error {
				answer, err = a.ListPacks(ctx, &understudyv1.ListPacksRequest{}, grpc.MaxCallRecvMsgSize(64<<20))
				return err
			}); err != nil {
				return err
			}
			packs := packsOf(answer)
			problem := ""
			if answer.Failing {
				problem = "its daemon says why"
			}
			if server == "" {
				problem = explainPacks(ctx, c, packs, problem)
			}
			if format == "json" {
				data, err := encode(packs)
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(data)
				return err
			}
			return writePacks(cmd.OutOrStdout(), answer, packs, problem)
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "`ADDRESS` of a server's gRPC API (default: listen.grpc of the configuration)")
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	return cmd
}

// packJSON is a pack as "archive list --format json" shows it.
type packJSON struct {
	Number   uint64            `json:"number"`
	Name     string            `json:"name"`
	Bytes    int64             `json:"bytes"`
	SHA256   string            `json:"sha256"`
	From     time.Time         `json:"from"`
	To       time.Time         `json:"to"`
	Built    time.Time         `json:"built"`
	Stamped  bool              `json:"stamped"`
	Stored   []deliveryJSON    `json:"stored"`
	Failures map[string]string `json:"failures,omitempty"`
}

type deliveryJSON struct {
	Destination string    `json:"destination"`
	Verified    time.Time `json:"verified"`
	RetainUntil time.Time `json:"retain_until,omitzero"`
	Mode        string    `json:"mode,omitempty"`
	LegalHold   bool      `json:"legal_hold,omitempty"`
}

func packsOf(answer *understudyv1.ListPacksResponse) []packJSON {
	packs := []packJSON{}
	for _, p := range answer.Packs {
		j := packJSON{
			Number: p.Number, Name: p.Name, Bytes: p.SizeBytes, SHA256: fmt.Sprintf("%x", p.Sha256), From: p.From.AsTime(), To: p.To.AsTime(),
			Built: p.Built.AsTime(), Stamped: p.Stamped, Stored: []deliveryJSON{}, Failures: map[string]string{},
		}
		for _, d := range p.Deliveries {
			of := deliveryJSON{Destination: d.Destination, Verified: d.Verified.AsTime(), Mode: d.Mode, LegalHold: d.LegalHold}
			if d.RetainUntil != nil {
				of.RetainUntil = d.RetainUntil.AsTime()
			}
			j.Stored = append(j.Stored, of)
		}
		for _, f := range p.Failures {
			j.Failures[f.Destination] = fmt.Sprintf("tried %s since %s", count(uint64(f.Tries), "time", "times"), f.Since.AsTime().Format(time.RFC3339))
		}
		packs = append(packs, j)
	}
	return packs
}

// explainPacks adds what the daemon tells its operator alone: why packs cannot be stored, or made.
func explainPacks(ctx context.Context, c *Config, packs []packJSON, problem string) string {
	var own []archive.PackStatus
	if askDaemon(ctx, c, "/packs", nil, &own) != nil {
		return problem
	}
	for _, p := range own {
		for i := range packs {
			for name, f := range p.Failures {
				if packs[i].Number == p.Number {
					packs[i].Failures[name] = oneLine(errors.New(f.Text))
				}
			}
		}
	}
	if s, err := daemonStatus(ctx, c); err == nil && s.Archive != nil && s.Archive.Problem != nil {
		problem = s.Archive.Problem.Text
	}
	return problem
}

func writePacks(w io.Writer, answer *understudyv1.ListPacksResponse, packs []packJSON, problem string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NUMBER\tFROM\tTO\tSIZE\tTIME-STAMP\tSTORED")
	const day = "2006-01-02 15:04"
	for _, p := range packs {
		stored := ""
		for _, d := range p.Stored {
			stored += ", " + d.Destination
			if !d.RetainUntil.IsZero() {
				stored += " until " + d.RetainUntil.Format(time.DateOnly)
			}
			if d.LegalHold {
				stored += " (legal hold)"
			}
		}
		for _, place := range slices.Sorted(maps.Keys(p.Failures)) {
			stored += ", NOT " + place + ": " + p.Failures[place]
		}
		if stored == "" {
			stored = ", in the data directory only"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\n", p.Number, p.From.UTC().Format(day), p.To.UTC().Format(day), bytesText(uint64(p.Bytes)), map[bool]string{true: "yes", false: "no"}[p.Stamped], stored[2:])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nThe next period ends at %s. Packs are signed by %s\n", answer.Next.AsTime().Format(time.RFC3339), answer.Key)
	if problem != "" {
		fmt.Fprintf(w, "The pack that is due cannot be made: %s\n", problem)
	}
	return nil
}

func newArchiveExportCommand() *cobra.Command {
	var server, output string
	var now, all bool
	cmd := &cobra.Command{
		Use:   "export [NUMBER]... --output DIR",
		Short: "Write evidence packs into a folder, to hand them to an auditor",
		Long: `Export writes evidence packs into a folder: those with the numbers given, all of
them, or else the newest. With --now the running daemon first makes one of what
there is until now, before its period has ended; it becomes part of the chain like
every other.

Each file is compared with what its maker remembers of it. A file that is there
already and is the same stays; another one is never overwritten. Verify what was
written with "understudy archive verify".

Exit codes: 0 written; 1 what came is not the pack that was made; 2 not written.`,
		Example: `  understudy archive export --output for-the-auditor
  understudy archive export 12 13 14 --output for-the-auditor
  understudy archive export --now --output .`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			var numbers []uint64
			for _, arg := range args {
				n, err := strconv.ParseUint(arg, 10, 64)
				if err != nil || n == 0 {
					return fmt.Errorf("%q is no number of a pack; \"understudy archive list\" shows them", arg)
				}
				numbers = append(numbers, n)
			}
			switch {
			case output == "":
				return errors.New("export packs: --output is the folder to write them into")
			case now && server != "":
				return errors.New("export packs: --now asks the daemon of the configuration, and not another --server")
			case now && len(numbers) > 0, all && len(numbers) > 0, now && all:
				return errors.New("export packs: give numbers, or --all, or --now")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), exportTime)
			defer cancel()
			if now {
				var answer rest.PackAnswer
				if err := askDaemon(ctx, c, "/pack", rest.PackRequest{DataDir: c.absoluteDataDir(), Make: true}, &answer); err != nil {
					return fmt.Errorf("make a pack now: %w", err)
				}
				numbers = []uint64{answer.Number}
			}
			if err := os.MkdirAll(output, 0o755); err != nil {
				return fmt.Errorf("export packs: %w", err)
			}
			return askArchive(ctx, c, server, func(a understudyv1.ArchiveServiceClient) error {
				if all {
					answer, err := a.ListPacks(ctx, &understudyv1.ListPacksRequest{}, grpc.MaxCallRecvMsgSize(64<<20))
					if err != nil {
						return err
					}
					for _, p := range answer.Packs {
						numbers = append(numbers, p.Number)
					}
				} else if len(numbers) == 0 {
					numbers = []uint64{0}
				}
				for _, n := range numbers {
					name, err := export(ctx, a, n, output)
					if err != nil {
						return err
					}
					if _, err := fmt.Fprintln(cmd.OutOrStdout(), name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "`ADDRESS` of a server's gRPC API (default: listen.grpc of the configuration)")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`DIR` to write into")
	cmd.Flags().BoolVar(&now, "now", false, "make a pack of what there is now, and export it")
	cmd.Flags().BoolVar(&all, "all", false, "export every pack")
	return cmd
}

// export writes one pack into a folder and returns its path.
func export(ctx context.Context, a understudyv1.ArchiveServiceClient, number uint64, dir string) (path string, err error) {
	stream, err := a.GetPack(ctx, &understudyv1.GetPackRequest{Number: number})
	if err != nil {
		return "", err
	}
	first, err := stream.Recv()
	if err != nil {
		return "", err
	}
	pack := first.GetPack()
	if pack == nil || !packName.MatchString(pack.Name) || len(pack.Sha256) != sha256.Size || number > 0 && pack.Number != number {
		return "", wrongf("the answer does not say which pack it is; is that the gRPC address of an understudy?")
	}
	path = filepath.Join(dir, pack.Name)
	f, err := os.CreateTemp(dir, ".export-*")
	if err != nil {
		return "", fmt.Errorf("export pack %d: %w", pack.Number, err)
	}
	defer func() { err = errors.Join(err, removeIfThere(f.Name())) }()
	sum := sha256.New()
	err = receive(stream, first.GetData(), io.MultiWriter(f, sum), pack.SizeBytes)
	if err = errors.Join(err, f.Chmod(0o444), f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("export pack %d: %w", pack.Number, err)
	}
	if [32]byte(sum.Sum(nil)) != [32]byte(pack.Sha256) {
		return "", wrongf("pack %d is not what was made (SHA-256 %x, want %x): look after the disk of the server, and take it from one of its destinations", pack.Number, sum.Sum(nil), pack.Sha256)
	}
	switch err := place(f.Name(), path); {
	case errors.Is(err, fs.ErrExist):
		if have, err := fileSum(path); err != nil {
			return "", err
		} else if have != [32]byte(pack.Sha256) {
			return "", fmt.Errorf("%s is there already, with another content; it stays as it is: choose another --output", path)
		}
	case err != nil:
		return "", fmt.Errorf("export pack %d: %w", pack.Number, err)
	}
	return path, nil
}

// place gives a file its name, which no other one has: also where there are no hard links, as on the
// sticks that auditors are handed.
func place(from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	claim, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(claim.Close(), os.Rename(from, to))
}

// packName is what packs are called.
var packName = regexp.MustCompile(`^understudy-evidence-[0-9]{6,20}-[0-9]{4}-[0-9]{2}-[0-9]{2}\.tar$`)

// receive writes what comes, at most left bytes of it.
func receive(stream grpc.ServerStreamingClient[understudyv1.GetPackResponse], data []byte, w io.Writer, left int64) error {
	for {
		if left -= int64(len(data)); left < 0 {
			return wrongf("more comes than the pack has")
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		next, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data = next.GetData()
	}
}

func removeIfThere(name string) error {
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func fileSum(name string) (sum [32]byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	var h hash.Hash = sha256.New()
	_, err = io.Copy(h, f)
	return [32]byte(h.Sum(nil)), err
}

func newArchiveHoldCommand() *cobra.Command {
	var release bool
	cmd := &cobra.Command{
		Use:   "hold NUMBER",
		Short: "Put an evidence pack under legal hold, or lift it",
		Long: `Hold asks the running daemon to put a pack under legal hold at every destination
where it is stored: it is kept until the hold is lifted, also beyond its retention.
A bucket with Object Lock enforces that; a directory only records it.

Exit codes: 0 held, or lifted, everywhere; 2 not everywhere: the message says where.`,
		Example: `  understudy archive hold 12
  understudy archive hold 12 --release`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			number, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || number == 0 {
				return fmt.Errorf("%q is no number of a pack; \"understudy archive list\" shows them", args[0])
			}
			var answer rest.PackAnswer
			if err := askDaemon(cmd.Context(), c, "/pack", rest.PackRequest{DataDir: c.absoluteDataDir(), Number: number, Hold: !release}, &answer); err != nil {
				return fmt.Errorf("hold pack %d: %w", number, err)
			}
			what := "is under legal hold"
			if release {
				what = "is not under legal hold any more"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "pack %d %s\n", number, what)
			return err
		},
	}
	cmd.Flags().BoolVar(&release, "release", false, "lift the hold")
	return cmd
}
