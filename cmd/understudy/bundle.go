package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"syscall"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/log/rekor"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/proto/understudy/v1/client"
)

func newBundleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Work on Sigstore bundles",
	}
	cmd.AddCommand(newBundleRefreshCommand(), newBundlePublishCommand())
	return cmd
}

// refreshOptions are the flags of "bundle refresh".
type refreshOptions struct {
	output, server              string
	signature, verifier, digest string
}

func newBundleRefreshCommand() *cobra.Command {
	var o refreshOptions
	cmd := &cobra.Command{
		Use:   "refresh [FILE]",
		Short: "Give a bundle a fresh proof, or make a bundle of a legacy signature",
		Long: `Refresh asks the daemon, or another server, for the log entries of a bundle and
writes the bundle with proofs to the newest checkpoint. All else in it stays as it
was. A bundle without an inclusion proof gets one.

A legacy cosign bundle (what "cosign sign-blob --bundle" wrote before Sigstore
bundles) becomes a Sigstore bundle. So does a signature that stands alone, given
with --signature and --verifier instead of a FILE, if its entry can be found by the
certificate, or by the public key and --digest.

The answer is held against the bundle: its entry must be the same, and the proof
must lead from it to the root of the checkpoint. The signatures are for who verifies
the bundle: "understudy verify" does, with the trusted root.

Exit codes: 0 written; 1 the log's entry is another, or it is not in the log; 2 it
could not be had.`,
		Example: `  understudy bundle refresh artifact.sigstore.json -o fresh.json
  understudy bundle refresh legacy.bundle -o artifact.sigstore.json
  understudy bundle refresh --signature a.sig --verifier a.pem -o a.sigstore.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (o.signature != "") {
				return errors.New("give the FILE of a bundle, or --signature and --verifier")
			}
			file := ""
			if len(args) == 1 {
				file = args[0]
			}
			return refreshBundle(cmd, &o, file)
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "`FILE` to write (default: standard output)")
	cmd.Flags().StringVar(&o.server, "server", "", "`ADDRESS` of a server's gRPC API (default: listen.grpc of the configuration)")
	cmd.Flags().StringVar(&o.signature, "signature", "", "`FILE` of a signature that stands alone, raw or in base64")
	cmd.Flags().StringVar(&o.verifier, "verifier", "", "`FILE` of its certificate or public key, PEM")
	cmd.Flags().StringVar(&o.digest, "digest", "", "sha256:`HEX` of the artifact, to find the entry of a public key by")
	cmd.MarkFlagsRequiredTogether("signature", "verifier")
	return cmd
}

func refreshBundle(cmd *cobra.Command, o *refreshOptions, file string) error {
	c, err := configOf(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), askTime)
	defer cancel()
	conn, err := connectDaemon(ctx, c, o.server)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := refresher{config: c, logs: understudyv1.NewLogServiceClient(conn)}
	out, err := r.refresh(ctx, o, file)
	if err != nil {
		return explainRefresh(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, out, "", "  "); err != nil {
		return err
	}
	pretty.WriteByte('\n')
	return write(cmd, o.output, pretty.Bytes())
}

// explainRefresh tells an entry that is another, or none, from one that could not be had.
func explainRefresh(err error) error {
	if errors.Is(err, rekor.ErrMismatch) {
		return wrongf("%w: check that the file was not altered", err)
	}
	return explainAnswer(err)
}

// connectDaemon connects to the server that was named, or to the daemon.
func connectDaemon(ctx context.Context, c *Config, server string) (*grpc.ClientConn, error) {
	address, hint := c.Listen.GRPC, "start it with \"understudy serve\", or check listen.grpc in the configuration"
	if server != "" {
		address, hint = server, "check --server"
	}
	probe, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("no daemon answers on %s: %s", address, hint)
	}
	if err != nil {
		return nil, fmt.Errorf("nobody answers: %w; %s", err, hint)
	}
	probe.Close()
	conn, err := grpc.NewClient("passthrough:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", address, err)
	}
	return conn, nil
}

// refresher asks a server for entries in the form that stands in bundles.
type refresher struct {
	config *Config
	logs   understudyv1.LogServiceClient
}

// refresh returns the bundle.
func (r *refresher) refresh(ctx context.Context, o *refreshOptions, file string) ([]byte, error) {
	if file == "" {
		return r.alone(ctx, o)
	}
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	var kind struct {
		Legacy json.RawMessage `json:"rekorBundle"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return nil, fmt.Errorf("%s is no JSON (%w): want a Sigstore bundle, or a legacy cosign bundle", file, err)
	}
	if kind.Legacy == nil {
		return rekor.RefreshBundle(ctx, data, r.byLogID)
	}
	legacy, err := rekor.ParseLegacy(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	name, err := r.serviceName()
	if err != nil {
		return nil, err
	}
	entry, err := r.entry(ctx, &understudyv1.GetTransparencyLogEntryRequest{Origin: name, Entry: &understudyv1.GetTransparencyLogEntryRequest_Index{Index: legacy.Entry.LogIndex}})
	if err != nil {
		return nil, err
	}
	return legacy.Upgrade(entry)
}

// alone makes a bundle of a signature that stands alone. Its entry is found by search.
func (r *refresher) alone(ctx context.Context, o *refreshOptions) ([]byte, error) {
	signature, err := readFile(o.signature)
	if err != nil {
		return nil, err
	}
	verifier, err := readFile(o.verifier)
	if err != nil {
		return nil, err
	}
	legacy, err := rekor.NewLegacy(signature, verifier)
	if err != nil {
		return nil, err
	}
	name, err := r.serviceName()
	if err != nil {
		return nil, err
	}
	q := legacy.Query()
	found, err := r.logs.SearchEntries(ctx, &understudyv1.SearchEntriesRequest{
		Origin: name, Digest: o.digest, All: true,
		PublicKey: &understudyv1.PublicKey{Format: q.Format, Content: q.PublicKey},
	})
	if err != nil {
		return nil, client.Refused("search", err)
	}
	if len(found.Hits) == 0 {
		return nil, wrongf("no entry of the log is known for this certificate or key; an entry can be found while it is held, or the log is reachable")
	}
	if len(found.Hits) > maxCandidates {
		return nil, fmt.Errorf("the key has more than %d entries: name the artifact with --digest", maxCandidates)
	}
	for _, hit := range found.Hits {
		entry, err := r.entry(ctx, &understudyv1.GetTransparencyLogEntryRequest{Entry: &understudyv1.GetTransparencyLogEntryRequest_Uuid{Uuid: hit.Uuid}})
		if err != nil {
			return nil, err
		}
		out, err := legacy.Upgrade(entry)
		if !errors.Is(err, rekor.ErrMismatch) {
			return out, err
		}
	}
	return nil, fmt.Errorf("the log has entries for this certificate or key, but not with this signature: %w", rekor.ErrMismatch)
}

// maxCandidates bounds the entries that are asked for one by one.
const maxCandidates = 100

// byLogID asks for an entry by the log ID and index that a bundle has.
func (r *refresher) byLogID(ctx context.Context, logID []byte, index uint64) (*protorekor.TransparencyLogEntry, error) {
	name, err := r.logByID(ctx, logID)
	if err != nil {
		return nil, err
	}
	return r.entry(ctx, &understudyv1.GetTransparencyLogEntryRequest{Origin: name, Entry: &understudyv1.GetTransparencyLogEntryRequest_Index{Index: index}})
}

// logByID returns the name of the configured log with a log ID.
func (r *refresher) logByID(ctx context.Context, logID []byte) (string, error) {
	keys, err := newKeyring(r.config)
	if err != nil {
		return "", err
	}
	if keys.root == nil {
		keys.fetchHeld(ctx, r.config, nil) // without it, the logs with keys of their own are known
	}
	unkeyed := ""
	for i := range r.config.Logs {
		log := &r.config.Logs[i]
		if log.isService() {
			own, _ := keys.serviceKeys(log)
			for _, key := range own {
				if id := sha256.Sum256(key.SPKI()); bytes.Equal(id[:], logID) {
					return log.Name, nil
				}
			}
			continue
		}
		own, _ := keys.keys(log.Origin)
		for _, key := range own {
			if bytes.Equal(key.LogID, logID) {
				return log.Name, nil
			}
			if len(key.LogID) == 0 {
				unkeyed = log.Name // its log ID stands in no file: the answer is held against the bundle
			}
		}
	}
	if keys.root != nil {
		for _, shard := range keys.root.Shards() {
			if log, of := r.config.successor(shard.Origin, shard.URL); of != nil && bytes.Equal(shard.LogID, logID) {
				return log.Name, nil
			}
		}
	}
	if unkeyed != "" {
		return unkeyed, nil
	}
	return "", fmt.Errorf("the bundle is of the log with the ID %x, and no configured log has a key with it", logID)
}

func (r *refresher) serviceName() (string, error) {
	for i := range r.config.Logs {
		if r.config.Logs[i].isService() {
			return r.config.Logs[i].Name, nil
		}
	}
	return "", errors.New("no log with \"source: rekor-v1\" is configured, and legacy signatures are in no other")
}

func (r *refresher) entry(ctx context.Context, ask *understudyv1.GetTransparencyLogEntryRequest) (*protorekor.TransparencyLogEntry, error) {
	answer, err := r.logs.GetTransparencyLogEntry(ctx, ask)
	if err != nil {
		return nil, client.Refused("get log entry", err)
	}
	var entry protorekor.TransparencyLogEntry
	if err := proto.Unmarshal(answer.TransparencyLogEntry, &entry); err != nil {
		return nil, fmt.Errorf("the answer is no log entry: %w", err)
	}
	return &entry, nil
}
