package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/trust/publish"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// exportOptions say what to export.
type exportOptions struct {
	asOf, server               string
	trustedRoot, signingConfig string // files, in place of the daemon's
	addRoots                   []string
	logs, ownSigning           string
	apiVersion                 int // of those of our own logs that signers use; 0: all
	v1URL, url, name           string
	own                        []trust.OwnLog // our own logs, as the configuration has them
}

func newTrustExportCommand() *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export DIR",
		Short: "Write trust material as files that clients take",
		Long: `Export writes into DIR, out of the running daemon or the data of a stopped one:

  trusted_root.json       what verifiers trust: Sigstore's entries as they stand, and yours
                          (--add-trusted-root: a TrustedRoot that lists, say, a log of your own)
  signing_config.json     where signers log and get times
  signing_config.fallback.json     the same for an outage of the public log: in yours alone
  policy-controller.yaml  TrustRoot for sigstore/policy-controller
  trusted_root.ecdsa.json trusted_root.json without Rekor v2 logs, which policy-controller refuses
  root.json, kyverno.yaml, cosign.env     if there is a TUF repository: where its clients begin, a
                          policy for Kyverno to complete, an environment for cosign to source
  history/                every version of both that was ever seen

"understudy trust sign --material DIR" then signs the first three and the history for clients
of your own TUF repository. Files that are there are overwritten; exported.txt lists what
was written, and the next export removes those of it that it does not write.

With "log" in the configuration trusted_root.json has your own log, always: verifiers must
know it before it is needed.

--logs says where signers log: public (as Sigstore says), always (in a public log and in
yours), fallback (in yours alone, for an outage). Your log is taken out of the configuration,
or out of --own-signing-config, a SigningConfig that lists it. With public and always the
SigningConfig for an outage is written beside, for a daemon that switches by itself. Clients use
the highest API version that is listed: --api-version 1 has signers use your v1 log though
there is a v2 one. Time-stamping authorities are carried over. Without one in force API version 1 is listed
where it can be, because a log of version 2 gives no time, and short-lived certificates
need one.

The address of a Rekor v2 log is never changed: its name is in it. That of the Rekor v1
log is changed by --v1-url, for verifiers that look entries up in a mirror.

Exit codes: 0 written; 1 there was no such file then; 2 it could not be written.`,
		Example: `  understudy trust export ./material
  understudy trust export ./material --as-of 2026-03-01 --url http://mirror.example.com:8080/trust
  understudy trust export ./fallback --logs fallback --api-version 1
  understudy trust export ./fallback --logs fallback --own-signing-config ours.json --add-trusted-root our_root.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			if o.own, err = c.ownLogs(cmd.Context()); err != nil {
				return err
			}
			return o.export(cmd.Context(), c, args[0], cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.asOf, "as-of", "", "`TIME` at which it was in force, as 2026-03-01T12:00:00Z or 2026-03-01 (default: now)")
	f.StringVar(&o.trustedRoot, "trusted-root", "", "`FILE` with a TrustedRoot to begin with, in place of the daemon's")
	f.StringVar(&o.signingConfig, "signing-config", "", "`FILE` with a SigningConfig to begin with, in place of the daemon's")
	f.StringArrayVar(&o.addRoots, "add-trusted-root", nil, "`FILE` with a TrustedRoot whose entries are added (may be repeated)")
	f.StringVar(&o.logs, "logs", string(trust.SigningPublic), "where signers log: `public`, always or fallback")
	f.StringVar(&o.ownSigning, "own-signing-config", "", "`FILE` with a SigningConfig that lists your log (default: the log of the configuration)")
	f.IntVar(&o.apiVersion, "api-version", 0, "of the logs of the configuration, have signers use only the one of this `VERSION` of Rekor's API: 1 or 2")
	f.StringVar(&o.v1URL, "v1-url", "", "`URL` that the Rekor v1 log is to have in trusted_root.json")
	f.StringVar(&o.url, "url", "", "`URL` at which clients find the TUF repository (default: on listen.http, /trust if there is one of your own, else /tuf)")
	f.StringVar(&o.name, "name", "understudy", "`NAME` of Kubernetes objects")
	f.StringVar(&o.server, "server", "", "`ADDRESS` of a server's gRPC API (default: listen.grpc of the configuration)")
	return cmd
}

// kubernetesName is what objects may be called (RFC 1123).
var kubernetesName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

// exported is what is written.
type exported struct {
	root     []byte
	signing  map[string][]byte // SigningConfigs by the name of their target
	fallback []byte            // SigningConfig for an outage; nil: none is written
	keys     map[string][]byte // files of keys that older clients ask for, by name
	history  map[string][]byte // by the name of the target

	tufRoot   []byte // nil if there is no TUF repository
	own       bool   // it is our own
	url, name string
}

func (o *exportOptions) export(ctx context.Context, c *Config, dir string, notes io.Writer) (err error) {
	logs := trust.SigningLogs(o.logs)
	if err := o.checkLogs(logs); err != nil {
		return err
	}
	if !kubernetesName.MatchString(o.name) {
		return fmt.Errorf("--name %q: Kubernetes wants lower-case letters, digits, dots and dashes", o.name)
	}
	e := &exported{name: o.name, signing: map[string][]byte{}, keys: map[string][]byte{}, history: map[string][]byte{}}
	if err := o.gather(ctx, c, e, notes); err != nil {
		return err
	}
	if err := o.addToRoot(e, notes); err != nil {
		return err
	}
	if err := o.signers(e, logs, notes); err != nil {
		return err
	}
	if o.v1URL != "" {
		host, err := c.serviceHost()
		if err != nil {
			return err
		}
		if !isLogURL(o.v1URL) {
			return fmt.Errorf("--v1-url %q is no address", o.v1URL)
		}
		if e.root, err = trust.RewriteV1(e.root, host, o.v1URL); err != nil {
			return err
		}
	}
	if e.tufRoot, e.url, err = c.whereClientsBegin(o.url, notes); err != nil {
		return err
	}
	e.own = c.Trust != nil
	return e.write(dir)
}

// gather gets what is exported, and the history of it.
func (o *exportOptions) gather(ctx context.Context, c *Config, e *exported, notes io.Writer) (err error) {
	if o.trustedRoot != "" {
		if e.root, err = os.ReadFile(o.trustedRoot); err != nil {
			return err
		}
	}
	if o.signingConfig != "" {
		if e.signing[trust.SigningTarget], err = os.ReadFile(o.signingConfig); err != nil {
			return err
		}
	}
	at, err := parseTime(o.asOf)
	if err != nil {
		return err
	}
	if c.TUF == nil && o.server == "" && (o.trustedRoot != "" || len(o.own) > 0) {
		if at != nil {
			return errors.New("--as-of is of a copy of a TUF repository, and none is configured")
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	conn, closeConn, err := connect(ctx, c, o.server, c.heldTUF)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeConn()) }()
	service := understudyv1.NewTrustServiceClient(conn)
	list, err := service.ListTrustMaterial(ctx, &understudyv1.ListTrustMaterialRequest{})
	if err != nil {
		return explainTrust(err)
	}
	if e.root == nil {
		answer, err := getTrust(ctx, service, &understudyv1.GetTrustMaterialRequest{AsOf: at})
		if err != nil {
			return explainTrust(err)
		}
		e.root = answer.GetContent()
	}
	for _, m := range list.GetMaterials() {
		isSigning, isKey := trust.IsSigningConfig(m.GetName()), isKeyFile(m.GetName())
		inForce := m.GetUntil() == nil || at != nil && m.GetUntil().AsTime().After(at.AsTime())
		if m.GetName() != trust.RootTarget && !isSigning && !(isKey && inForce) || at != nil && m.GetSeen().AsTime().After(at.AsTime()) {
			continue
		}
		answer, err := getTrust(ctx, service, &understudyv1.GetTrustMaterialRequest{Name: m.GetName(), AsOf: m.GetSeen()})
		if err != nil {
			fmt.Fprintf(notes, "note: the %s of %s is left out of the history: %v\n", m.GetName(), m.GetSeen().AsTime().Format(time.RFC3339), explainTrust(err))
			continue
		}
		if isKey {
			e.keys[m.GetName()] = answer.GetContent()
			continue
		}
		e.history[historyName(m.GetName(), m.GetSeen().AsTime())] = answer.GetContent()
		if isSigning && inForce && (m.GetName() != trust.SigningTarget || o.signingConfig == "") {
			e.signing[m.GetName()] = answer.GetContent()
		}
	}
	tellAge(notes, list.GetChecked(), at)
	return nil
}

// tellAge says how old what is exported may be.
func tellAge(notes io.Writer, checked, at *timestamppb.Timestamp) {
	if at == nil && (checked == nil || time.Since(checked.AsTime()) > 24*time.Hour) {
		tellVouched(notes, checked)
	}
}

// signers makes the SigningConfigs those that are wanted.
func (o *exportOptions) signers(e *exported, logs trust.SigningLogs, notes io.Writer) error {
	if err := o.fallback(e, logs, notes); err != nil {
		return err
	}
	ours, err := o.ownSigningConfig(logs)
	if err != nil {
		return err
	}
	if e.signing[trust.SigningTarget] == nil {
		switch {
		case logs == trust.SigningFallback && o.ownSigning == "": // ours alone are what is wanted
			e.signing[trust.SigningTarget] = ours
			fmt.Fprintln(notes, "note: there is no SigningConfig to begin with: the one that is written has our logs, and neither certificate authorities nor time-stamping authorities (--signing-config gives them)")
		case logs != trust.SigningPublic:
			return errors.New("there is no SigningConfig to begin with: give one with --signing-config")
		default:
			fmt.Fprintln(notes, "note: there is no SigningConfig: none is written")
		}
	}
	var failed error
	for _, name := range slices.Sorted(maps.Keys(e.signing)) {
		config, said, err := trust.CombineSigning(e.signing[name], ours, logs, time.Now())
		if err != nil { // there are some of several API versions: not all go together with ours
			failed = errors.Join(failed, fmt.Errorf("%s: %w", exportedAs(name), err))
			delete(e.signing, name)
			continue
		}
		for _, note := range said {
			fmt.Fprintf(notes, "note: %s: %s\n", exportedAs(name), note)
		}
		e.signing[name] = config
		if err := o.tellUnknown(exportedAs(name), config, e.root, notes); err != nil {
			return err
		}
	}
	if failed != nil && len(e.signing) == 0 {
		return failed
	} else if failed != nil {
		fmt.Fprintf(notes, "note: not written: %v\n", failed)
	}
	return nil
}

// fallback makes the SigningConfig for an outage, beside one for good days. That it cannot be made is told.
func (o *exportOptions) fallback(e *exported, logs trust.SigningLogs, notes io.Writer) error {
	base := e.signing[trust.SigningTarget]
	if logs == trust.SigningFallback || base == nil || o.ownSigning == "" && len(o.own) == 0 {
		return nil
	}
	ours, err := o.ownSigningConfig(trust.SigningFallback)
	if err != nil {
		return err
	}
	config, said, err := trust.CombineSigning(base, ours, trust.SigningFallback, time.Now())
	if err != nil {
		fmt.Fprintf(notes, "note: not written: %s: %v\n", fallbackFile, err)
		return nil
	}
	for _, note := range said {
		fmt.Fprintf(notes, "note: %s: %s\n", fallbackFile, note)
	}
	e.fallback = config
	return o.tellUnknown(fallbackFile, config, e.root, notes)
}

// tellUnknown tells of logs in a SigningConfig that a trusted root does not know.
func (o *exportOptions) tellUnknown(file string, config, root []byte, notes io.Writer) error {
	unknown, err := trust.UnknownLogs(config, root, time.Now(), o.own...)
	for _, log := range unknown {
		fmt.Fprintf(notes, "note: %s: signers log in %s, which trusted_root.json does not know: what they sign there cannot be verified with it\n", file, log)
	}
	return err
}

// isKeyFile says whether a target is a key or certificate, as Sigstore had them before there was a
// TrustedRoot: rekor.pub, ctfe.pub, fulcio.crt.pem. Older clients ask for these names.
func isKeyFile(name string) bool {
	return publish.TargetName.MatchString(name) && !strings.Contains(name, "/") && (strings.HasSuffix(name, ".pub") || strings.HasSuffix(name, ".crt.pem"))
}

// historyPrefix begins the names of targets that were in force once.
const historyPrefix = "history/"

// historyName is the target with a version of another target.
func historyName(name string, seen time.Time) string {
	return historyPrefix + strings.TrimSuffix(name, ".json") + "/" + seen.UTC().Format("20060102T150405.000Z") + ".json"
}

// signingFile is the file with the SigningConfig; its target has a version in its name.
const signingFile = "signing_config.json"

// fallbackFile is the file with the SigningConfig for an outage.
const fallbackFile = "signing_config.fallback.json"

// targetOf returns the target that a file of an export is for; ok is false if it is for none.
func targetOf(file string) (target string, ok bool) {
	switch {
	case file == signingFile:
		return trust.SigningTarget, true
	case file == fallbackFile:
		return publish.FallbackTarget, true
	case file == trust.RootTarget, file == trust.ECDSATarget, trust.IsSigningConfig(file), isKeyFile(file), strings.HasPrefix(file, historyPrefix):
		return file, true
	}
	return "", false
}

// serviceHost is the host of the Rekor v1 service that is configured.
func (c *Config) serviceHost() (string, error) {
	for _, log := range c.Logs {
		if log.isService() {
			u, err := url.Parse(log.URL)
			return u.Hostname(), err
		}
	}
	return "", errors.New("--v1-url is the address of a mirror of a Rekor v1 service, and none is configured")
}

// whereClientsBegin returns the root and the address of the TUF repository for clients: ours if
// there is one; nil if there is none.
func (c *Config) whereClientsBegin(at string, notes io.Writer) (root []byte, address string, err error) {
	path := "/tuf"
	switch {
	case c.Trust != nil:
		path = "/trust"
		root, err = os.ReadFile(filepath.Join(c.Trust.Repository, "1.root.json"))
	case c.TUF != nil:
		var cfg trust.RepositoryConfig
		cfg, err = c.repository(nil)
		root = cfg.Root
	default:
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if at != "" {
		if !isLogURL(at) || strings.ContainsAny(at, "'\"\\ ") {
			return nil, "", fmt.Errorf("--url %q is no address", at)
		}
		return root, strings.TrimRight(at, "/"), nil
	}
	host, _, err := net.SplitHostPort(c.Listen.HTTP)
	ip := net.ParseIP(host)
	switch {
	case err != nil:
		return nil, "", err
	case host == "" || ip != nil && ip.IsUnspecified():
		return nil, "", fmt.Errorf("clients have to find the TUF repository: give its address with --url, like http://mirror.example.com:8080%s", path)
	case ip != nil && ip.IsLoopback() || host == "localhost":
		fmt.Fprintf(notes, "note: clients are sent to http://%s%s, which is this machine: --url gives another address\n", c.Listen.HTTP, path)
	}
	return root, "http://" + c.Listen.HTTP + path, nil
}

// exportedFile lists what an export has written: the next one into the same directory takes away what
// it does not write itself.
const exportedFile = "exported.txt"

// exportedAs is the file that a target is written to.
func exportedAs(target string) string {
	if target == trust.SigningTarget {
		return signingFile
	}
	return target
}

// write writes all files.
func (e *exported) write(dir string) error {
	files := map[string][]byte{trust.RootTarget: e.root}
	for target, data := range e.signing {
		files[exportedAs(target)] = data
	}
	if e.fallback != nil {
		files[fallbackFile] = e.fallback
	}
	for _, more := range []map[string][]byte{e.keys, e.history} {
		maps.Copy(files, more)
	}
	if err := e.clientFiles(dir, files); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // whatever is there, nothing outside is touched
	if err != nil {
		return err
	}
	defer root.Close()
	list := strings.Join(slices.Sorted(maps.Keys(files)), "\n") + "\n"
	if old, err := root.ReadFile(exportedFile); err == nil {
		for name := range strings.Lines(string(old)) {
			if name = strings.TrimSpace(name); files[name] == nil && filepath.IsLocal(name) {
				if err := root.Remove(filepath.FromSlash(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	}
	files[exportedFile] = []byte(list)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := replaceIn(root, filepath.FromSlash(name), files[name]); err != nil {
			return err
		}
	}
	return nil
}

// replaceIn writes a file as a whole: who reads it sees the one before or this one.
func replaceIn(root *os.Root, name string, data []byte) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	fresh := filepath.Join(filepath.Dir(name), ".new-"+rand.Text())
	if err := root.WriteFile(fresh, data, 0o644); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), root.Remove(fresh))
	}
	return root.Rename(fresh, name)
}
