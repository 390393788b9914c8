package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
	tlogproof "github.com/transparency-dev/formats/proof"

	"github.com/understudy-log/understudy/proto/understudy/v1/client"
)

func newProofCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proof",
		Short: "Prove an entry, or that the log only grew",
		Long: `Proof gets a Merkle proof from the running daemon, or from the data directory when
none runs, verifies it with the log's key, and writes it in a form that can be
verified offline: by "understudy verify" and by other programs.`,
	}
	cmd.AddCommand(newInclusionCommand(), newConsistencyCommand())
	return cmd
}

// proofOutput says where a proof goes.
type proofOutput struct {
	json bool
	file string
}

func (o *proofOutput) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON on standard output")
	cmd.Flags().StringVarP(&o.file, "output", "o", "", "write the proof to `FILE`")
}

func newInclusionCommand() *cobra.Command {
	var q question
	var o proofOutput
	var size uint64
	cmd := &cobra.Command{
		Use:   "inclusion INDEX|LEAFHASH",
		Short: "Prove that an entry is in the log",
		Long: `Inclusion proves that an entry, named by its index or by its leaf hash (SHA-256 of
a zero byte and the entry, in hex), is in the tree of a checkpoint that the log
signed: the newest, or with --tree-size that of another size.

It writes a C2SP .tlog-proof (https://c2sp.org/tlog-proof) to standard output, or
with --output to a file. With --json it prints JSON instead, or beside the file;
a file whose name ends in .json gets JSON too. A .tlog-proof needs a signed
checkpoint; for a size without one, the JSON has an empty "checkpoint", and its
root was proven to be an earlier one of the log.

How current the answer is stands in the JSON, and else goes to standard error.

Exit codes: 0 written; 1 the log is known not to have it, or the answer does not
verify; 2 it could not be answered (nobody knows, network, configuration).`,
		Example: `  understudy proof inclusion 42 -o 42.tlog-proof
  understudy proof inclusion 42 --tree-size 1000 --json
  understudy proof inclusion 42 --log rekor-v2 --server mirror.example.com:8081`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseRef(args[0])
			if err != nil {
				return err
			}
			var p client.InclusionProof
			origin, err := q.ask(cmd, func(ctx context.Context, c *client.Client) (err error) {
				p, err = inclusionProof(ctx, c, ref, size)
				return err
			})
			if err != nil {
				return err
			}
			return o.writeInclusion(cmd, origin, p)
		},
	}
	q.addFlags(cmd)
	o.addFlags(cmd)
	cmd.Flags().Uint64Var(&size, "tree-size", 0, "`SIZE` of the tree (default: that of the newest checkpoint)")
	return cmd
}

// inclusionProof gets a proof to a signed checkpoint, or for a size that has none to a
// root that is proven to be the log's.
func inclusionProof(ctx context.Context, c *client.Client, ref client.Ref, size uint64) (client.InclusionProof, error) {
	p, err := c.InclusionProof(ctx, ref, size)
	if !errors.Is(err, client.ErrUnsigned) {
		return p, err
	}
	prefix, err := c.ConsistencyProof(ctx, size, 0)
	if err != nil {
		return p, err
	}
	return c.InclusionProofAt(ctx, ref, prefix.First)
}

func (o *proofOutput) writeInclusion(cmd *cobra.Command, origin string, p client.InclusionProof) error {
	freshness := freshnessOf(p.Freshness)
	asJSON := inclusionJSON{
		Kind: "inclusion", Origin: origin, Index: p.Index, TreeSize: p.Head.Size,
		LeafHash: p.LeafHash, RootHash: p.Head.Root, Hashes: hexOf(p.Hashes), Checkpoint: string(p.Head.Checkpoint), Freshness: &freshness,
	}
	toFile := filepath.Ext(o.file) == ".json"
	if (o.file != "" || !o.json) && !toFile {
		if p.Head.Checkpoint == nil {
			return fmt.Errorf("a .tlog-proof needs a signed checkpoint, and none of size %d is held; leave out --tree-size, or ask for --json", p.Head.Size)
		}
		if err := write(cmd, o.file, tlogproof.TLogProof{Index: p.Index, Hashes: p.Hashes, Checkpoint: p.Head.Checkpoint}.Marshal()); err != nil {
			return err
		}
	}
	if err := o.writeJSON(cmd, asJSON, toFile); err != nil || o.json {
		return err
	}
	_, err := fmt.Fprintf(cmd.ErrOrStderr(), "entry %d of %s is in the tree of %s; %s\n", p.Index, origin, count(p.Head.Size, "entry", "entries"), freshnessText(p.Freshness))
	return err
}

// writeJSON writes v to the file, if it is meant for that, and with --json to standard
// output.
func (o *proofOutput) writeJSON(cmd *cobra.Command, v any, toFile bool) error {
	data, err := encode(v)
	if err == nil && toFile {
		err = write(cmd, o.file, data)
	}
	if err == nil && o.json {
		err = write(cmd, "", data)
	}
	return err
}

func newConsistencyCommand() *cobra.Command {
	var q question
	var o proofOutput
	cmd := &cobra.Command{
		Use:   "consistency FIRST [LAST]",
		Short: "Prove that the log only grew between two sizes",
		Long: `Consistency proves that the tree of the first FIRST entries is the beginning of
that of the first LAST entries: nothing was changed or removed in between.
Without LAST it goes to the newest checkpoint. FIRST is at least 1.

It writes JSON to standard output, or with --output to a file. "first_checkpoint"
and "checkpoint" are empty where the log is not known to have signed that size;
the roots are proven to the newest signed checkpoint all the same.

Exit codes: 0 written; 1 the log is known not to have that many entries, or the
answer does not verify; 2 it could not be answered (nobody knows, network,
configuration).`,
		Example: `  understudy proof consistency 1000
  understudy proof consistency 1000 2000 -o grew.json`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var sizes [2]uint64
			for i, arg := range args {
				var err error
				if sizes[i], err = strconv.ParseUint(arg, 10, 64); err != nil || sizes[i] == 0 {
					return fmt.Errorf("%q is no tree size; give a number of entries, at least 1", arg)
				}
			}
			var p client.ConsistencyProof
			origin, err := q.ask(cmd, func(ctx context.Context, c *client.Client) (err error) {
				p, err = consistencyProof(ctx, c, sizes[0], sizes[1])
				return err
			})
			if err != nil {
				return err
			}
			return o.writeConsistency(cmd, origin, p)
		},
	}
	q.addFlags(cmd)
	o.addFlags(cmd)
	return cmd
}

// consistencyProof is like inclusionProof.
func consistencyProof(ctx context.Context, c *client.Client, first, last uint64) (client.ConsistencyProof, error) {
	p, err := c.ConsistencyProof(ctx, first, last)
	if !errors.Is(err, client.ErrUnsigned) {
		return p, err
	}
	prefix, err := c.ConsistencyProof(ctx, last, 0)
	if err != nil {
		return p, err
	}
	return c.ConsistencyProofAt(ctx, first, prefix.First)
}

func (o *proofOutput) writeConsistency(cmd *cobra.Command, origin string, p client.ConsistencyProof) error {
	freshness := freshnessOf(p.Freshness)
	o.json = o.json || o.file == ""
	return o.writeJSON(cmd, consistencyJSON{
		Kind: "consistency", Origin: origin, FirstSize: p.First.Size, LastSize: p.Last.Size,
		FirstRootHash: p.First.Root, RootHash: p.Last.Root, Hashes: hexOf(p.Hashes),
		FirstCheckpoint: string(p.First.Checkpoint), Checkpoint: string(p.Last.Checkpoint), Freshness: &freshness,
	}, o.file != "")
}

func hexOf(hashes []client.Hash) []hexHash {
	out := make([]hexHash, len(hashes))
	for i, h := range hashes {
		out[i] = h
	}
	return out
}
