package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
)

// What a folder with the keys of a private log has.
const (
	logPassphrase   = "passphrase"
	logProposalsKey = "proposals.key"
	logV1Key        = "log-v1.key"
	logV2Key        = "log-v2.key"
	logV2MLDSAKey   = "log-v2-mldsa.key"
)

// logInit is what "log init" makes.
type logInit struct {
	dir, v1Host, v2Origin string
	noMLDSA               bool
	passphrase            string // the file that has it
	config                string // the configuration that will name the keys

	made []string // keys that sign
}

func newLogInitCommand() *cobra.Command {
	var l logInit
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make the keys of a private log, and print its configuration",
		Long: `Init makes, in DIR, the keys of a private log, and prints the sections "listen" and "log"
for the configuration, with what verifiers need to know as comments.

  DIR/log-v1.key          signs as a Rekor v1 log: ECDSA on P-256
  DIR/log-v2.key          signs as a Rekor v2 log: Ed25519
  DIR/log-v2-mldsa.key    signs that, too: ML-DSA-44, which withstands quantum computers
  DIR/proposals.key       encrypts entries as they were proposed
  DIR/passphrase          decrypts the keys that sign; none is made with --passphrase-file

Each key that signs has its public half beside it, in NAME.pub. Nothing is overwritten. A
second generation can be made later, in the same DIR; it shares passphrase and proposals.key.

The daemon needs all of these files: keep a copy where the daemon is not. A log that loses a
key is at its end, and whoever has the key can speak in its name. Keys of a key management
service (in a program built with -tags kms) are named in the configuration instead.

Exit codes: 0 made; 2 something is there already, or it could not be made.`,
		Example: `  understudy log init keys --v1-host rekor.example.com --v2-origin rekor2026-1.example.com
  understudy log init keys --v2-origin rekor2026-1.example.com --no-mldsa
  understudy log init keys --v1-host rekor.example.com --passphrase-file /run/secrets/log >> understudy.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if l.config, err = cmd.Flags().GetString("config"); err != nil {
				return err
			}
			l.dir = args[0]
			setDefault(&l.config, defaultConfigFile)
			setDefault(&l.passphrase, filepath.Join(l.dir, logPassphrase))
			return l.run(cmd)
		},
	}
	cmd.Flags().StringVar(&l.v1Host, "v1-host", "", "`HOST` of a log that speaks Rekor v1, without port")
	cmd.Flags().StringVar(&l.v2Origin, "v2-origin", "", "`ORIGIN` of a log that speaks Rekor v2: a host without port")
	cmd.Flags().BoolVar(&l.noMLDSA, "no-mldsa", false, "make no ML-DSA-44 key")
	cmd.Flags().StringVar(&l.passphrase, "passphrase-file", "", "`FILE` with the passphrase of the keys (default: one is made, DIR/passphrase)")
	return cmd
}

func (l *logInit) file(name string) string { return filepath.Join(l.dir, name) }

func (l *logInit) run(cmd *cobra.Command) error {
	if err := l.check(); err != nil {
		return err
	}
	return l.build(cmd)
}

func (l *logInit) build(cmd *cobra.Command) error {
	if l.passphrase == l.file(logPassphrase) { // the configuration has one for all keys
		if _, err := os.Stat(l.passphrase); err != nil && l.has(logV1Key, logV2Key) {
			return fmt.Errorf("%s has keys, and their passphrase is not there: give its file with --passphrase-file", l.dir)
		}
		if err := makePassphrase(l.passphrase); err != nil {
			return fmt.Errorf("make the passphrase: %w", err)
		}
	}
	pass := passphrases{l.passphrase}
	if _, err := pass.get(l.dir, false); err != nil { // before anything is made with it
		return err
	}
	if err := makeProposalsKey(l.file(logProposalsKey)); err != nil {
		return fmt.Errorf("make the key of proposed entries: %w", err)
	}
	p, signers, err := l.make(cmd.Context(), pass)
	if err != nil {
		for _, file := range l.made { // nobody has them yet, and they would be in the way of the next try
			err = errors.Join(err, os.Remove(file), os.Remove(file+".pub"))
		}
		return err
	}
	return l.tell(cmd.OutOrStdout(), p, signers)
}

// make makes the keys that sign, and opens them: what was written is what works.
func (l *logInit) make(ctx context.Context, pass passphrases) (*PrivateConfig, *logSigners, error) {
	p := &PrivateConfig{PassphraseFile: pass.file}
	if l.v1Host != "" {
		p.V1 = &PrivateV1Config{Host: l.v1Host, TreeID: newTreeID(), Key: l.file(logV1Key)}
		if _, err := makeKey(p.V1.Key, pass); err != nil {
			return nil, nil, err
		}
		l.made = append(l.made, p.V1.Key)
	}
	if l.v2Origin != "" {
		p.V2 = &PrivateV2Config{Origin: l.v2Origin, Key: l.file(logV2Key)}
		if _, err := makeEd25519Key(p.V2.Key, pass); err != nil {
			return nil, nil, err
		}
		l.made = append(l.made, p.V2.Key)
		if !l.noMLDSA {
			p.V2.MLDSAKey = l.file(logV2MLDSAKey)
			if _, err := makeMLDSAKey(p.V2.MLDSAKey, l.v2Origin, pass); err != nil {
				return nil, nil, err
			}
			l.made = append(l.made, p.V2.MLDSAKey)
		}
	}
	signers, err := openLogSigners(ctx, p)
	return p, signers, err
}

// keys are the files of the keys that sign and are to be made.
func (l *logInit) keys() (names []string) {
	if l.v1Host != "" {
		names = append(names, logV1Key)
	}
	if l.v2Origin != "" {
		names = append(names, logV2Key)
		if !l.noMLDSA {
			names = append(names, logV2MLDSAKey)
		}
	}
	return names
}

// check refuses what cannot be made, before anything is.
func (l *logInit) check() error {
	switch {
	case l.v1Host == "" && l.v2Origin == "":
		return errors.New("make a private log: --v1-host or --v2-origin says what it is called; give one of them, or both")
	case l.v1Host != "" && !isDNSName(l.v1Host):
		return fmt.Errorf("--v1-host: %s", notDNSName(l.v1Host))
	case l.v2Origin != "" && !isDNSName(l.v2Origin):
		return fmt.Errorf("--v2-origin: %s", notDNSName(l.v2Origin))
	}
	for _, name := range l.keys() {
		for _, file := range []string{l.file(name), l.file(name + ".pub")} {
			if _, err := os.Lstat(file); err == nil {
				return fmt.Errorf("%s is there already, and a log may need it: nothing was made; name another folder", file)
			}
		}
	}
	return nil
}

// has says whether one of some files is there.
func (l *logInit) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		_, err := os.Stat(l.file(name))
		return err == nil
	})
}

// newTreeID makes a tree ID that no other log has.
func newTreeID() TreeID {
	n, _ := rand.Int(rand.Reader, big.NewInt(math.MaxInt64)) // rand.Reader does not fail
	return TreeID(n.Uint64() + 1)
}

// tell prints the configuration.
func (l *logInit) tell(out io.Writer, p *PrivateConfig, s *logSigners) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Of \"understudy log init\", for %s. If there is a section \"listen\" already, its addresses go there.\nlisten:\n", l.config)
	if p.V1 != nil {
		fmt.Fprintf(&b, "  log_v1: 127.0.0.1:3000\n")
	}
	if p.V2 != nil {
		fmt.Fprintf(&b, "  log_v2: 127.0.0.1:3003\n")
	}
	fmt.Fprintf(&b, "\n# The private log. \"understudy log create\" makes its trees, once.\nlog:\n")
	fmt.Fprintf(&b, "  operator: %s   # who runs it, for clients\n", cmp.Or(l.v1Host, l.v2Origin))
	fmt.Fprintf(&b, "  passphrase_file: %s\n", l.path(l.passphrase))
	if v := p.V1; v != nil {
		pem, err := cryptoutils.MarshalPublicKeyToPEM(s.v1.public)
		if err != nil {
			return err
		}
		vkey, err := s.v1.vkey()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "\n  # Origin: %s\n", v.origin())
		tellLogID(&b, s.v1.logID)
		fmt.Fprintf(&b, "  # Verifier key: %s\n", vkey)
		fmt.Fprintf(&b, "  # Public key, also in %s.pub:\n", l.path(v.Key))
		comment(&b, string(pem))
		fmt.Fprintf(&b, "  v1:\n    host: %s\n    tree_id: %d\n    key: %s\n", v.Host, v.TreeID, l.path(v.Key))
		fmt.Fprintf(&b, "    #url: https://%s:3000   # where clients reach it; default: the host\n", v.Host)
	}
	if v := p.V2; v != nil {
		pem, err := cryptoutils.MarshalPublicKeyToPEM(s.v2.public)
		if err != nil {
			return err
		}
		vkey, err := note.NewEd25519VerifierKey(v.Origin, s.v2.public)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "\n  # Origin: %s\n", v.Origin)
		tellLogID(&b, s.v2.logID)
		fmt.Fprintf(&b, "  # Verifier key: %s\n", vkey)
		fmt.Fprintf(&b, "  # Public key, also in %s.pub:\n", l.path(v.Key))
		comment(&b, string(pem))
		fmt.Fprintf(&b, "  v2:\n    origin: %s\n    key: %s\n", v.Origin, l.path(v.Key))
		if v.MLDSAKey != "" {
			fmt.Fprintf(&b, "    mldsa_key: %s   # its verifier key is in %s.pub\n", l.path(v.MLDSAKey), l.path(v.MLDSAKey))
		}
		fmt.Fprintf(&b, "    #url: https://%s   # where clients reach it: this host, with a port if need be\n", v.Origin)
	}
	fmt.Fprintf(&b, "\n  proposals:               # entries as they were proposed, encrypted, to be published later\n    key: %s\n    retention: 2160h\n", l.path(l.file(logProposalsKey)))
	b.WriteString(initialAccess)
	_, err := out.Write(b.Bytes())
	return err
}

// initialAccess is the end of what "log init" prints.
const initialAccess = `
  #checkpoint_interval: 10s   # a checkpoint is signed at least this often
  #witness_policy:            # whose cosignatures a checkpoint needs (C2SP tlog-policy)
  #  file: witnesses.policy
  #  timeout: 5s
  #  without_quorum: wait     # or publish
  #  logs: [v2]               # default: both; few witnesses know keys of Rekor v1

  # Everybody on this machine may use the log, to try it out. For others, replace this by tls and
  # identities; "understudy log token" makes tokens.
  access:
    without_authentication: on loopback only
    #tls: {certificate: tls.crt, key: tls.key}   # and client_ca, if clients have certificates
    #identities:
    #  - {name: release-pipeline, token_sha256: HASH, roles: [append, read]}
    #  - {name: on-call, certificate: on-call@example.com, roles: [read, operate]}
`

func tellLogID(out io.Writer, id [32]byte) {
	fmt.Fprintf(out, "  # Log ID: %s, in bundles %s\n", hex.EncodeToString(id[:]), base64.StdEncoding.EncodeToString(id[:]))
}

// comment prints lines as comments.
func comment(out io.Writer, text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(out, "  #   %s", line)
	}
}

// plainText is what YAML takes for a text as it stands.
var plainText = regexp.MustCompile(`^[A-Za-z./_][A-Za-z0-9./_-]*$`)

// path writes a file name as the configuration has it: as it is from its folder.
func (l *logInit) path(name string) string {
	if !filepath.IsAbs(name) {
		abs, err := filepath.Abs(name)
		dir, errDir := filepath.Abs(filepath.Dir(l.config))
		if err == nil && errDir == nil {
			name = abs
			if relative, err := filepath.Rel(dir, abs); err == nil {
				name = relative
			}
		}
	}
	if plainText.MatchString(name) {
		return name
	}
	return strconv.Quote(name)
}
