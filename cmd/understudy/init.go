package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

// initialConfig is what "init" writes and what serve uses without a file.
const initialConfig = `# Configuration of Understudy. Relative paths start at the folder of this file.

# Everything that is stored. Give it room: a Rekor v2 shard with 100 million
# entries takes about 85 GB.
data_dir: ./understudy-data

listen:
  http: 127.0.0.1:8080    # tiles (C2SP tlog-tiles), for everybody
  grpc: 127.0.0.1:8081    # entries and proofs, for everybody
  admin: 127.0.0.1:8082   # metrics, health, backup, profiles: for you alone
  #log_v1: 127.0.0.1:3000 # the private log below, as Rekor v1 and as Rekor v2: for those whom it knows
  #log_v2: 127.0.0.1:3003

# Where keys come from: a Sigstore TrustedRoot JSON file. Without it, the public
# one is fetched over TUF if a log below has no public_key.
#trusted_root: trusted_root.json

# A verified copy of Sigstore's TUF repository, served at /tuf/ of listen.http. The trusted
# root comes out of it, too. Another repository needs url, and root: one of its root.json.
#tuf: {poll: 1h}

# A TUF repository of your own, served at /trust/ of listen.http: it lives on when Sigstore's cannot be
# reached for weeks. "understudy trust init" makes it, and its keys; "understudy trust sign" signs what
# clients trust, offline. The daemon signs snapshots and timestamps, so it has these two keys alone.
#trust:
#  repository: trust/repository
#  snapshot_key: trust/keys/snapshot.pem
#  timestamp_key: trust/keys/timestamp.pem
#  #signing_key: trust/keys/signing.pem   # with "log": in an outage it tells signers to use that alone
#  passphrase_file: trust/keys/online.passphrase
#  #timestamp_lifetime: 168h          # signed anew after a seventh of it

# Cosign checkpoints, at /witness/ of listen.http: those of the logs below, and of others. Keys are made by
# "understudy keys generate". mirror_keys say "and I hold and serve all of it", of logs with coverage full.
#witness:
#  keys: [w1.key]
#  #mirror_keys: [m1.key]
#  #logs: [{public_key: log.example.com+0123abcd+AZ...}]   # only witnessed; origin: if it is not the key's name
#  #log_list: logs.txt                # more of them, in the format of the witness network

# Evidence packs for auditors (docs/evidence.md). They stay in data_dir/packs, and are stored elsewhere, too.
#archive:
#  key: archive.key                   # made by "understudy keys generate --archive"
#  #vantage: Frankfurt, rack 7        # from where the logs are watched; default: the host name
#  schedule: "0 0 * * 1"              # cron: minute, hour, day, month, weekday; at most once an hour
#  time_zone: UTC
#  #tsa: {url: https://timestamp.sigstore.dev/api/v1/timestamp, certificates: tsa.pem}
#  #entries:                          # go into every pack, with their proofs
#  #  - {digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
#  #  - {identity: release@example.com}
#  #  - {uuid: 108e9186e8c5677a0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f}
#  #  - {indexes: 100-200, log: rekor}
#  destinations:
#    - directory: /mnt/evidence
#      #retention: 61320h             # recorded; a directory enforces nothing
#    #- s3: {bucket: evidence, region: eu-central-1, prefix: rekor, mode: compliance}   # endpoint, path_style, credentials_file, profile
#    #  retention: 61320h             # Object Lock: nobody deletes it before
#    #  legal_hold: false

# A private log: it takes what Rekor takes, and signs it with keys of your own. "understudy log init" makes
# them and prints this section, "understudy log create" makes the empty trees. It needs its addresses above.
#log:
#  #mode: always                      # fallback: it takes entries only while a public log takes none; needs "outage"
#  operator: example.com              # who runs it, for clients; default: the host of v1
#  passphrase_file: keys/passphrase   # of all keys that are encrypted
#  v1:                                # either of v1 and v2 may be left out
#    host: rekor.example.com          # the origin is "<host> - <tree_id>"
#    tree_id: 3141592653589793238
#    key: keys/log-v1.key             # ECDSA on P-256; or a key of a key management service
#    #url: https://rekor.example.com:3000   # where clients reach it; default: the host
#  v2:
#    origin: rekor2026-1.example.com
#    key: keys/log-v2.key             # Ed25519; or a key of a key management service
#    mldsa_key: keys/log-v2-mldsa.key # ML-DSA-44; may be left out
#    #url: https://rekor2026-1.example.com
#  #checkpoint_interval: 10s          # a checkpoint is signed at least this often
#  proposals:                         # entries as they were proposed, encrypted, to be published later
#    key: keys/proposals.key
#    #retention: 2160h
#  #witness_policy: {file: witnesses.policy, timeout: 5s, without_quorum: wait}   # or publish; logs: [v2] has only that one witnessed
#  access:                            # or, to try it out: {without_authentication: on loopback only}
#    tls: {certificate: tls.crt, key: tls.key, client_ca: clients.crt}   # client_ca: if clients have certificates
#    identities:                      # roles: append, read, operate, approve
#      # tokens are made by "understudy log token"; what stands here is read at the start
#      - {name: release-pipeline, token_sha256: "4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a", roles: [append, read]}
#      - {name: on-call, certificate: on-call@example.com, roles: [read, operate]}   # a name in it, or "CN=..."
#      #  entries_per_second: 50, requests_at_once: 64

# Whether the logs below, and what else signers and verifiers need, are there: each has a state, which
# "understudy outage status" shows, and what follows from it is done by itself (docs/outage.md).
#outage:
#  #slo: 99.5                         # percent of requests that an upstream answers in order
#  #probe: {every: 2s, timeout: 2s}
#  #write_probe: refused              # how the write path is asked: with what is refused; off; entry: private logs only
#  #probes: {fulcio: "https://fulcio.sigstore.dev", tsa: "https://timestamp.sigstore.dev", ct_log: "https://ctfe.sigstore.dev/2022"}
#  #webhook: {url: "https://hooks.example.com/understudy", secret_file: hook.secret}
#  #report_key: report.key            # signs reports; default: made in data_dir
#  identities:                        # who may force states, hold drills, ask for exceptions, and approve them; beside those of the log
#    - {name: on-call-1, token_sha256: "4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459b", roles: [operate]}
#    - {name: security, token_sha256: "4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459c", roles: [approve]}
#  #max_force: 24h
#  #reconcile: {submit: true, requests_per_second: 16, patience: 1m}   # submit: entries of the private log go public; default: if its mode is fallback
#  #drills:
#  #  max: 30m
#  #  targets: {detect: 5s, fall_back: 10s, recover: 10s, reconcile: 1m}
#  #  schedule: [{scenario: refuse, log: rekor-v2, cron: "0 10 * * 2", for: 10m, ticket: OPS-1}]   # in UTC

# Verification for others: the gRPC service VerificationService, and "understudy verify --server".
#verification:
#  #max_audit: 24h                    # the longest exception
#  policies:
#    - name: production
#      identities: [{identity: release@example.com, issuer: "https://accounts.example.com"}]   # or identity_regexp, issuer_regexp
#      #public_keys: [release.pub]
#      #accept: [public, private]     # whose logs a proof may rest on
#  high_risk: [{identity: "*@release.example.com"}]   # never in audit; or public_key: FILE

# From this checkpoint age on, answers say that they are stale.
#stale_after: 24h

# How the operators of the logs can reach you: stands in the User-Agent.
#contact: ops@example.com

# debug, info, warn or error.
#log_level: info

logs:
  - name: rekor-v2                      # in metrics and messages
    source: tiles
    url: https://log2025-1.rekor.sigstore.dev/api/v2
    origin: log2025-1.rekor.sigstore.dev  # first line of the log's checkpoints
    #public_key: key.pem                # PEM file or vkey; else by origin from the trusted root
    # How much is held. full: every entry from 0 on, copied from there. window: from an
    # index on, so that what is new is protected within seconds; it then grows backwards.
    coverage: window
    window: 1000000                     # the last so many entries; or: minimum_index: 8192, a multiple of 256
    history: full                       # how far it grows: full, none, or {to: INDEX}
    # Further places that have the log, such as another understudy. They are not trusted:
    # all is verified against the log's own signature. History comes from them first,
    # and so does what a disk has damaged.
    #sources: [{url: http://mirror.example.com/ORIGIN-HASH}]
    # With "tuf" above, logs of the same domain that come after it are followed, too, as soon as the
    # trust material announces them.
    #successors: false
    #write_url: https://log2025-1.rekor.sigstore.dev/api/v2   # where entries are proposed; default: url, of Rekor
    #grows_within: 10m                  # it is never the same for longer; then it is not in order
    poll: 5s
    requests_per_second: 20             # the budget of requests to that server; history takes half of it

  # Rekor v1, served at /api/v1 of listen.http to clients that have this address as their
  # Rekor URL. Its shards are found by themselves; their keys are in the trusted root.
  #- name: rekor
  #  source: rekor-v1
  #  url: https://rekor.sigstore.dev
  #  #public_keys: [shard-a.pem, shard-b.pem]
  #  # pinned: every checkpoint, and chosen entries: what clients asked for, what is watched,
  #  # and what "understudy pin" was given. full, window: of a private service, or of frozen
  #  # shards by tree ID; the public active shard grows faster than its API can be read.
  #  coverage: pinned
  #  #shards: {"3904496407287907110": full}
  #  poll: 10s
  #  requests_per_second: 8
  #  #misses_per_second: 8              # of each client, for what is not held; default: as above
  #  #read_through_mib: 1024            # for what was only read; the oldest reads give way
  #  # Entries to pin as soon as they can be found, by one key each.
  #  #watch:
  #  #  - digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
  #  #  - identity: ci@example.com      # e-mail or URI; with * a pattern among what comes by
  #  #  - public_key: key.pem
  #  #  - uuid: 108e9186e8c5677a0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f
  #  #  - indexes: 100-200              # virtual indexes, both included
  #  #watch_every: 1h
`

func newInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Write a commented configuration file",
		Long: `Init writes a commented configuration: ./understudy.yaml, or the file that
--config names. It never overwrites a file.

Exit codes: 0 written; 2 the file is there already or cannot be written.`,
		Example: `  understudy init
  understudy init --config /etc/understudy/understudy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := cmd.Flags().GetString("config")
			if err != nil {
				return err
			}
			setDefault(&name, defaultConfigFile)
			if err := writeNew(name, initialConfig); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s; look through it, then run: understudy serve --config %s\n", name, name)
			return err
		},
	}
}

// writeNew writes a file that must not exist.
func writeNew(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already and stays as it is; name another with --config", name)
	}
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
