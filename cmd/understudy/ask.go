package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/proto/understudy/v1/client"
	"github.com/understudy-log/understudy/storage"
)

// askTime bounds everything that one verb asks.
const askTime = time.Minute

// question says which log a verb asks about, and whom: the flags that "entry" and
// "proof" share.
type question struct{ origin, name, server string }

func (q *question) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&q.origin, "origin", "", "`ORIGIN` of the log (default: the only one configured)")
	cmd.Flags().StringVar(&q.name, "log", "", "`NAME` of the log in the configuration, instead of its origin")
	cmd.Flags().StringVar(&q.server, "server", "", "`ADDRESS` of a server's gRPC API (default: listen.grpc of the configuration)")
	cmd.MarkFlagsMutuallyExclusive("origin", "log")
}

// ask connects to the server, calls f with a client that verifies what it says, and
// returns the origin of the log. If the daemon of the configuration does not run, its
// service runs in this process.
func (q *question) ask(cmd *cobra.Command, f func(context.Context, *client.Client) error) (origin string, err error) {
	c, err := configOf(cmd)
	if err != nil {
		return "", err
	}
	log, err := q.pick(c)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), askTime)
	defer cancel()
	keys, err := q.keys(ctx, c, log)
	if err != nil {
		return "", err
	}
	conn, closeConn, err := q.connect(ctx, c, log)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, closeConn()) }()
	err = f(ctx, client.New(conn, log.Origin, func(raw []byte) (uint64, client.Hash, error) {
		checkpoint, err := trust.Open(raw, log.Origin, keys)
		if err != nil {
			return 0, client.Hash{}, err
		}
		return checkpoint.Size, checkpoint.Root, nil
	}))
	return log.Origin, explainAnswer(err)
}

// pick finds the log that is meant.
func (q *question) pick(c *Config) (*LogConfig, error) {
	var names []string
	for i := range c.Logs {
		log := &c.Logs[i]
		if log.isService() {
			// Its shards are not in the configuration; each is asked about by its origin, or as
			// NAME/TREE-ID. The origin of the latter is not known without the daemon.
			if shardOrigin.MatchString(q.origin) {
				shard := *log
				shard.Origin = q.origin
				return &shard, nil
			}
			names = append(names, fmt.Sprintf("the shards of %q (--origin \"HOST - TREE-ID\", as \"understudy status\" shows them)", log.Name))
			continue
		}
		if q.name != "" && log.Name == q.name || q.origin != "" && log.Origin == q.origin {
			return log, nil
		}
		names = append(names, fmt.Sprintf("%q (--log %s)", log.Origin, strconv.Quote(log.Name)))
	}
	origin := q.origin
	if of, name, ok := strings.Cut(q.name, "/"); ok && slices.ContainsFunc(c.Logs, func(l LogConfig) bool { return l.Name == of }) {
		origin = name
	}
	if log, of := c.successor(origin, "https://"+origin); of != nil {
		return &log, nil
	}
	list := strings.Join(names, ", ")
	switch {
	case q.name != "":
		return nil, fmt.Errorf("no log has the name %q; configured are %s", q.name, list)
	case q.origin != "":
		return nil, fmt.Errorf("no log has the origin %q; configured are %s", q.origin, list)
	case len(c.Logs) == 0:
		return nil, errors.New("no log is mirrored here, so there are no entries to ask for")
	case len(c.Logs) > 1 || c.Logs[0].isService():
		return nil, fmt.Errorf("more than one log is mirrored; choose with --origin or --log: %s", list)
	}
	return &c.Logs[0], nil
}

// keys finds the keys of a log: its own, those of the trusted root, of the one that the
// daemon has cached, or of the one that is published.
func (q *question) keys(ctx context.Context, c *Config, log *LogConfig) ([]trust.Key, error) {
	k, err := newKeyring(c)
	if err != nil {
		return nil, err
	}
	if k.missing([]string{log.Origin}) {
		if err := k.fetchHeld(ctx, c, nil); err != nil {
			return nil, fmt.Errorf("no key of %q is known (%w); give its public_key or a trusted_root in the configuration, or let \"understudy serve\" fetch one", log.Origin, err)
		}
	}
	return k.keys(log.Origin)
}

// connect connects to the server that was named, to the daemon, or to its data.
func (q *question) connect(ctx context.Context, c *Config, log *LogConfig) (*grpc.ClientConn, func() error, error) {
	return connect(ctx, c, q.server, func(db *storage.DB) (rpc.Config, error) { return heldLog(c, log, db) })
}

// connect connects to a server; without one, to the daemon, or to what held makes of the data of
// a stopped one.
func connect(ctx context.Context, c *Config, server string, held func(*storage.DB) (rpc.Config, error)) (*grpc.ClientConn, func() error, error) {
	address := c.Listen.GRPC
	if server != "" {
		address = server
	}
	probe, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
	switch {
	case err == nil:
		probe.Close()
		conn, err := grpc.NewClient("passthrough:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, fmt.Errorf("ask %s: %w", address, err)
		}
		return conn, conn.Close, nil
	case server != "":
		return nil, nil, fmt.Errorf("nobody answers: %w; check --server", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		conn, closeConn, err := connectHeld(c, held)
		if errors.Is(err, storage.ErrLocked) {
			err = fmt.Errorf("no daemon answers on %s, but another process uses %s; is listen.grpc in the configuration that of the daemon?", address, c.DataDir)
		}
		return conn, closeConn, err
	}
	return nil, nil, fmt.Errorf("nobody answers: %w; check listen.grpc in the configuration", err)
}

// heldLog serves what is held of a log.
func heldLog(c *Config, log *LogConfig, db *storage.DB) (rpc.Config, error) {
	tree, err := db.OpenTree(log.Origin)
	if errors.Is(err, storage.ErrNotExist) {
		return rpc.Config{}, fmt.Errorf("%s holds nothing of %q; mirror it with \"understudy serve\"", c.DataDir, log.Origin)
	}
	if err != nil {
		return rpc.Config{}, wrongf("stored data of %q is damaged: %w; run \"understudy check\"", log.Origin, err)
	}
	m, err := mirror.New(mirror.Config{Name: log.Name, Origin: log.Origin, URL: log.URL, Tree: tree, StaleAfter: time.Duration(log.StaleAfter)})
	return rpc.Config{Mirrors: func() []*mirror.Mirror { return []*mirror.Mirror{m} }}, err
}

// connectHeld serves the data directory of a stopped daemon inside this process.
func connectHeld(c *Config, held func(*storage.DB) (rpc.Config, error)) (_ *grpc.ClientConn, _ func() error, err error) {
	db, err := c.openHeld(storage.Options{ReadOnly: true})
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	cfg, err := held(db)
	if err != nil {
		return nil, nil, err
	}
	cfg.Logger, cfg.Registerer = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	server := rpc.NewServer(cfg)
	l := bufconn.Listen(1 << 20)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) }) // ends with Stop
	conn, err := grpc.NewClient("passthrough:held", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		server.Stop()
		serving.Wait()
		return nil, nil, err
	}
	return conn, func() error {
		conn.Close()
		server.Stop()
		serving.Wait()
		return db.Close()
	}, nil
}

// explainAnswer gives an error of the client its exit code: an answer that is wrong, a
// log that is known not to have the thing, and damage are findings; the rest could not
// be answered.
func explainAnswer(err error) error {
	if _, ok := errors.AsType[*client.VerificationError](err); ok {
		return wrongf("the answer is not to be believed: %w; if the key in the configuration is right, the server lies or its data is damaged", err)
	}
	if split, ok := errors.AsType[*client.SplitViewError](err); ok {
		return wrongf("%w:\n\n%s\n%s", err, split.First, split.Second)
	}
	if refused, ok := errors.AsType[*client.RefusedError](err); ok {
		if refused.Reason == mirror.ReasonNotFound || refused.Reason == mirror.ReasonDamaged {
			return wrongf("%w", err)
		}
		return err
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Unimplemented, codes.Internal:
		return fmt.Errorf("%w; is that the gRPC address of an understudy?", err)
	}
	return err
}

// write writes data to the file of --output; without one, to standard output.
func write(cmd *cobra.Command, file string, data []byte) error {
	if file == "" {
		_, err := cmd.OutOrStdout().Write(data)
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

// encode writes v as indented JSON with a newline at its end.
func encode(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}

// parseRef reads the argument that names an entry. Sixty-four digits are a hash, also
// if all of them are decimal: no index has that many.
func parseRef(text string) (client.Ref, error) {
	if len(text) == hex.EncodedLen(len(client.Hash{})) {
		if hash, err := hex.DecodeString(text); err == nil {
			return client.LeafHash(client.Hash(hash)), nil
		}
	} else if index, err := strconv.ParseUint(text, 10, 64); err == nil {
		return client.Index(index), nil
	}
	return client.Ref{}, fmt.Errorf("%q names no entry: give its index (from 0), or its leaf hash in 64 hex digits", text)
}

// freshnessJSON is a Freshness in JSON, as protobuf writes it.
type freshnessJSON struct {
	Source        string `json:"source"`
	CheckpointAge string `json:"checkpoint_age"` // in seconds: "1.5s"
	UpstreamState string `json:"upstream_state"`
}

func freshnessOf(f client.Freshness) freshnessJSON {
	return freshnessJSON{f.Source, strconv.FormatFloat(f.CheckpointAge.Seconds(), 'f', -1, 64) + "s", f.UpstreamState}
}

// freshnessText says the same to a person.
func freshnessText(f client.Freshness) string {
	return fmt.Sprintf("the answer is %s, upstream %s, the checkpoint seen %v ago", f.Source, f.UpstreamState, f.CheckpointAge.Round(time.Second))
}
