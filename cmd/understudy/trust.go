package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/mirror/trust"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
)

func newTrustCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Trust material: show it, export it, and sign a TUF repository of your own",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTrustShowCommand(), newTrustExportCommand(), newTrustInitCommand(), newTrustSignCommand(), newTrustRotateCommand())
	return cmd
}

func newTrustShowCommand() *cobra.Command {
	var name, asOf, output, server string
	var list bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the TrustedRoot that was in force at a time, or list all that were",
		Long: `Show prints a file of the mirrored TUF repository, byte for byte: the newest
TrustedRoot, or the one that was in force at a time. It asks the running daemon,
or reads the data of a stopped one; every version that was ever verified is kept.

Times are those at which this copy saw a version, which is up to a poll later than
it was published. What was in force before the first one is not known here.

With --list it lists what there is: when each version was seen first, when another
took its place, its SHA-256 and its name.

Exit codes: 0 shown; 1 there was no such file then; 2 it could not be answered.`,
		Example: `  understudy trust show > trusted_root.json
  understudy trust show --as-of 2026-03-01T12:00:00Z
  understudy trust show --as-of 2026-03-01 --name signing_config.v0.2.json
  understudy trust show --list`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			request := &understudyv1.GetTrustMaterialRequest{Name: name}
			if request.AsOf, err = parseTime(asOf); err != nil {
				return err
			}
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askTime)
			defer cancel()
			conn, closeConn, err := connect(ctx, c, server, c.heldTUF)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, closeConn()) }()
			service := understudyv1.NewTrustServiceClient(conn)
			if list {
				return listTrust(ctx, cmd, service, name)
			}
			answer, err := getTrust(ctx, service, request)
			if err != nil {
				return explainTrust(err)
			}
			if until, checked := request.GetAsOf(), answer.GetChecked(); answer.GetMaterial().GetUntil() == nil && (checked == nil || until != nil && until.AsTime().After(checked.AsTime())) {
				tellVouched(cmd.ErrOrStderr(), checked)
			}
			return write(cmd, output, answer.GetContent())
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the file (default: trusted_root.json; with --list: all)")
	cmd.Flags().StringVar(&asOf, "as-of", "", "`TIME` at which it was in force, as 2026-03-01T12:00:00Z or 2026-03-01 (default: now)")
	cmd.Flags().BoolVar(&list, "list", false, "list the versions")
	cmd.Flags().StringVar(&output, "output", "", "`FILE` to write (default: standard output)")
	cmd.Flags().StringVar(&server, "server", "", "`ADDRESS` of a server's gRPC API (default: listen.grpc of the configuration)")
	cmd.MarkFlagsMutuallyExclusive("list", "as-of")
	cmd.MarkFlagsMutuallyExclusive("list", "output")
	return cmd
}

// tellVouched says when the repository last vouched for its newest version.
func tellVouched(notes io.Writer, checked *timestamppb.Timestamp) {
	last := "never since it was damaged"
	if checked != nil {
		last = checked.AsTime().Format(time.RFC3339)
	}
	fmt.Fprintf(notes, "note: the repository last vouched for this version at %s; what came after is not known here\n", last)
}

// heldTUF serves the copy of the TUF repository in the data of a stopped daemon.
func (c *Config) heldTUF(db *storage.DB) (rpc.Config, error) {
	if c.TUF == nil {
		return rpc.Config{}, errors.New("no TUF repository is configured: put \"tuf: {}\" into the configuration, and let \"understudy serve\" copy it")
	}
	cfg, err := c.repository(db)
	if err != nil {
		return rpc.Config{}, err
	}
	repository, err := trust.NewRepository(cfg)
	return rpc.Config{TUF: repository}, err
}

func getTrust(ctx context.Context, service understudyv1.TrustServiceClient, request *understudyv1.GetTrustMaterialRequest) (*understudyv1.GetTrustMaterialResponse, error) {
	return service.GetTrustMaterial(ctx, request, grpc.MaxCallRecvMsgSize(64<<20))
}

// trustAsOf returns a keyring of the TrustedRoot that was in force at a time.
func trustAsOf(ctx context.Context, c *Config, asOf string) (_ *keyring, err error) {
	at, err := parseTime(asOf)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	conn, closeConn, err := connect(ctx, c, "", c.heldTUF)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeConn()) }()
	answer, err := getTrust(ctx, understudyv1.NewTrustServiceClient(conn), &understudyv1.GetTrustMaterialRequest{AsOf: at})
	if err != nil {
		return nil, errors.New(status.Convert(err).Message())
	}
	root, err := trust.ParseRoot(answer.GetContent())
	return &keyring{root: root, from: "the trusted root of " + at.AsTime().Format(time.RFC3339)}, err
}

func listTrust(ctx context.Context, cmd *cobra.Command, service understudyv1.TrustServiceClient, name string) error {
	answer, err := service.ListTrustMaterial(ctx, &understudyv1.ListTrustMaterialRequest{Name: name})
	if err != nil {
		return explainTrust(err)
	}
	var b strings.Builder
	for _, m := range answer.GetMaterials() {
		until := "now"
		if m.GetUntil() != nil {
			until = m.GetUntil().AsTime().Format(time.RFC3339)
		}
		fmt.Fprintf(&b, "%s  %-20s  %x  %s\n", m.GetSeen().AsTime().Format(time.RFC3339), until, m.GetSha256(), m.GetName())
	}
	_, err = cmd.OutOrStdout().Write([]byte(b.String()))
	return err
}

// explainTrust gives a refusal its exit code.
func explainTrust(err error) error {
	text := status.Convert(err).Message()
	if status.Code(err) == codes.NotFound {
		return wrongf("%s", text)
	}
	return errors.New(text)
}

// parseTime reads a time, or the beginning of a day in UTC; nil if there is none.
func parseTime(text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return timestamppb.New(at), nil
		}
	}
	return nil, fmt.Errorf("%q is no time; write it like 2026-03-01T12:00:00Z or 2026-03-01", text)
}
