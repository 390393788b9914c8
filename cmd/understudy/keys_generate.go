package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/witness"
)

func newKeysCommand() *cobra.Command {
	keys := &cobra.Command{
		Use:   "keys",
		Short: "Make keys that cosign",
		Long: `Keys makes the keys of a witness, of a mirror cosigner, and of an archive. Those of
a TUF repository are made by "understudy trust init".`,
	}
	keys.AddCommand(newKeysGenerateCommand())
	return keys
}

func newKeysGenerateCommand() *cobra.Command {
	var name, algorithm, output string
	var forArchive bool
	cmd := &cobra.Command{
		Use:   "generate --name NAME --output FILE",
		Short: "Make a key, and print the verifier key that others are told",
		Long: `Generate makes a private key, writes it to a file that only its owner can read, and
prints the verifier key, which is what others are told. It never overwrites a file.

The name says who signs: a host and a path without a scheme, such as
witness.example.com/w1. A witness, a mirror cosigner and an archive need names
and keys of their own, because they say different things. The type ml-dsa-44
withstands quantum computers; ed25519 is what every client knows today. A witness
can have both, under one name or two. With --archive it is the key of an archive,
which signs evidence packs with ed25519: its verifier key has another form.

The file is not encrypted, since the daemon must read it without a person: whoever
has it can speak in your name. Keep a copy where the daemon is not.

Exit codes: 0 written; 2 the file is there already, or cannot be written.`,
		Example: `  understudy keys generate --name witness.example.com/w1 --output w1.key
  understudy keys generate --name witness.example.com/w1 --type ml-dsa-44 --output w1-pq.key
  understudy keys generate --name archive.example.com/a1 --archive --output a1.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case name == "":
				return errors.New("generate a key: --name says who signs, such as witness.example.com/w1")
			case output == "":
				return errors.New("generate a key: --output is the file for the private key")
			}
			if forArchive && algorithm != witness.Ed25519 {
				return errors.New("generate a key: evidence packs are signed with ed25519")
			}
			private, vkey, err := witness.GenerateKey(name, algorithm)
			if err == nil && forArchive {
				_, vkey, err = parseArchiveKey(private)
			}
			if err != nil {
				return err
			}
			f, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s is there already and stays as it is; name another with --output", output)
			}
			if err != nil {
				return fmt.Errorf("write key: %w", err)
			}
			_, err = f.WriteString(private + "\n")
			if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
				return errors.Join(fmt.Errorf("write key: %w", err), os.Remove(output))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), vkey)
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the one who signs")
	cmd.Flags().StringVar(&algorithm, "type", witness.Ed25519, "ed25519 or ml-dsa-44")
	cmd.Flags().BoolVar(&forArchive, "archive", false, "make a key that signs evidence packs")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` for the private key")
	return cmd
}
