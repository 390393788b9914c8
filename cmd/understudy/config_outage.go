package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/understudy-log/understudy/witness/archive/calendar"
)

// OutageConfig says how it is noticed that an upstream is away, and what is done then.
type OutageConfig struct {
	// SLO is how many of a hundred requests an upstream is to answer in order.
	SLO float64 `yaml:"slo"`
	// Probe says how often upstreams are asked only to see whether they answer.
	Probe ProbeConfig `yaml:"probe"`
	// WriteProbe says how the write path of a log is asked: off, refused or entry.
	WriteProbe string `yaml:"write_probe"`
	// Probes are services beside the logs that are watched.
	Probes ServicesConfig `yaml:"probes"`
	// Webhook is told of every change; nil: nobody is.
	Webhook *WebhookConfig `yaml:"webhook"`
	// ReportKey is the file of the key that signs reports, made if it is not there: ECDSA on P-256 in PEM.
	ReportKey string `yaml:"report_key"`
	// Identities are those who may operate and approve, beside those of the private log.
	Identities []IdentityConfig `yaml:"identities"`
	// MaxForce is the longest time for which a state may be forced.
	MaxForce  Duration        `yaml:"max_force"`
	Reconcile ReconcileConfig `yaml:"reconcile"`
	Drills    DrillsConfig    `yaml:"drills"`
}

// ProbeConfig is how upstreams are asked.
type ProbeConfig struct {
	Every   Duration `yaml:"every"`
	Timeout Duration `yaml:"timeout"`
}

// ServicesConfig are the addresses of services that signers need beside a log; empty: not watched.
type ServicesConfig struct {
	Fulcio string `yaml:"fulcio"`
	TSA    string `yaml:"tsa"`
	CTLog  string `yaml:"ct_log"`
}

// WebhookConfig is who is told of changes.
type WebhookConfig struct {
	URL string `yaml:"url"`
	// SecretFile has the secret with which each message is authenticated; empty: none is.
	SecretFile string `yaml:"secret_file"`
}

// ReconcileConfig is what is done when an upstream is back.
type ReconcileConfig struct {
	// Submit says whether entries of the private log are submitted to the public one, where everybody reads
	// them; default: if the private log is there for outages alone, with "mode: fallback".
	Submit *bool `yaml:"submit"`
	// RequestsPerSecond is the rate of that; the public log allows 16.
	RequestsPerSecond float64 `yaml:"requests_per_second"`
	// Patience is how long a log that is back may show less than before, as caches do, until that counts
	// as a lost tail.
	Patience Duration `yaml:"patience"`
}

// DrillsConfig says what drills may do, and what is expected of them.
type DrillsConfig struct {
	// Max is the longest time that a drill may last.
	Max      Duration           `yaml:"max"`
	Targets  DrillTargetsConfig `yaml:"targets"`
	Schedule []DrillConfig      `yaml:"schedule"`
}

// DrillTargetsConfig are the times within which things are to happen.
type DrillTargetsConfig struct {
	Detect    Duration `yaml:"detect"`
	FallBack  Duration `yaml:"fall_back"`
	Recover   Duration `yaml:"recover"`
	Reconcile Duration `yaml:"reconcile"`
}

// DrillConfig is a drill that is held again and again.
type DrillConfig struct {
	Scenario string `yaml:"scenario"`
	// Log is the name of a log; default: the first one.
	Log string `yaml:"log"`
	// Cron says when, with five fields, in UTC.
	Cron   string   `yaml:"cron"`
	For    Duration `yaml:"for"`
	Ticket string   `yaml:"ticket"`
}

// How the write path of a log is asked.
const (
	writeProbeOff     = "off"
	writeProbeRefused = "refused" // with what is no entry: the refusal is the good answer
	writeProbeEntry   = "entry"   // with an entry, which is logged
)

func (c *Config) completeOutage() error {
	o := c.Outage
	if o == nil {
		return nil
	}
	setDefault(&o.SLO, 99.5)
	setDefault(&o.Probe.Every, Duration(2*time.Second))
	setDefault(&o.Probe.Timeout, Duration(2*time.Second))
	setDefault(&o.WriteProbe, writeProbeRefused)
	setDefault(&o.MaxForce, Duration(24*time.Hour))
	if o.Reconcile.Submit == nil {
		submit := c.Private != nil && c.Private.Mode == modeFallback
		o.Reconcile.Submit = &submit
	}
	setDefault(&o.Reconcile.Patience, Duration(time.Minute))
	setDefault(&o.Drills.Max, Duration(30*time.Minute))
	setDefault(&o.Drills.Targets.Detect, Duration(5*time.Second))
	setDefault(&o.Drills.Targets.FallBack, Duration(10*time.Second))
	setDefault(&o.Drills.Targets.Recover, Duration(10*time.Second))
	setDefault(&o.Drills.Targets.Reconcile, Duration(time.Minute))
	switch {
	case !(o.SLO > 0 && o.SLO < 100):
		return c.mistake("slo is a part of a hundred, such as 99.5: more than 0, and less than 100, which nothing on a network reaches", "outage", "slo")
	case !slices.Contains([]string{writeProbeOff, writeProbeRefused, writeProbeEntry}, o.WriteProbe):
		return c.mistake(c.oneOf(o.WriteProbe, writeProbeOff, writeProbeRefused, writeProbeEntry), "outage", "write_probe")
	case o.Webhook != nil && !isHookURL(o.Webhook.URL):
		return c.mistake(fmt.Sprintf("%q is not the address of a webhook; write it like https://hooks.example.com/understudy", o.Webhook.URL), "outage", "webhook")
	case !(o.Reconcile.RequestsPerSecond >= 0):
		return c.mistake("requests_per_second must be positive", "outage", "reconcile", "requests_per_second")
	}
	for _, probe := range []struct{ key, url string }{{"fulcio", o.Probes.Fulcio}, {"tsa", o.Probes.TSA}, {"ct_log", o.Probes.CTLog}} {
		if probe.url != "" && !isLogURL(probe.url) {
			return c.mistake(fmt.Sprintf("%q is not the address of a service; write it like https://fulcio.sigstore.dev", probe.url), "outage", "probes", probe.key)
		}
	}
	if err := c.completeOperators(); err != nil {
		return err
	}
	return c.completeDrills()
}

// isHookURL says whether something is an address to post to; unlike that of a log it may have a query.
func isHookURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Fragment == ""
}

// completeOperators checks who may operate: with tokens alone, since the admin listener has no TLS.
func (c *Config) completeOperators() error {
	seen := map[string]string{}
	if c.Private != nil {
		for _, id := range c.Private.Access.Identities {
			seen["name "+id.Name], seen["token_sha256"+id.TokenSHA256] = id.Name, id.Name
		}
	}
	for i := range c.Outage.Identities {
		if err := c.completeIdentity(c.Outage.Identities, i, nil, seen, "outage", "identities"); err != nil {
			return err
		}
		for j, role := range c.Outage.Identities[i].Roles {
			if role != roleOperate && role != roleApprove {
				return c.mistake(c.oneOf(role, roleOperate, roleApprove), "outage", "identities", i, "roles", j)
			}
		}
	}
	return nil
}

func (c *Config) completeDrills() error {
	d := &c.Outage.Drills
	for i := range d.Schedule {
		s := &d.Schedule[i]
		wrong := func(text string, key ...any) error {
			return c.mistake(text, append([]any{"outage", "drills", "schedule", i}, key...)...)
		}
		if s.Log == "" && len(c.Logs) > 0 {
			s.Log = c.Logs[0].Name
		}
		switch {
		case s.Scenario == "":
			return wrong("a drill without \"scenario\"; \"understudy drill list\" names them")
		case !slices.ContainsFunc(c.Logs, func(l LogConfig) bool { return l.Name == s.Log }):
			return wrong(fmt.Sprintf("no log is called %q", s.Log), "log")
		case s.For == 0:
			return wrong("a drill without \"for\", how long it lasts, such as 10m")
		case s.For > d.Max:
			return wrong(fmt.Sprintf("a drill lasts at most %s; \"max\" of \"drills\" says so", time.Duration(d.Max)), "for")
		case strings.TrimSpace(s.Ticket) == "":
			return wrong("a drill without \"ticket\", where it is written down that it was agreed on")
		}
		if !slices.Contains(drillNames(), s.Scenario) {
			return wrong(c.oneOf(s.Scenario, drillNames()...), "scenario")
		}
		if _, err := calendar.Parse(s.Cron, "UTC"); err != nil {
			return wrong(err.Error(), "cron")
		}
	}
	return nil
}

// VerificationConfig says what is verified for others, and how strictly.
type VerificationConfig struct {
	// MaxAudit is the longest time for which a policy may be in audit.
	MaxAudit Duration       `yaml:"max_audit"`
	Policies []PolicyConfig `yaml:"policies"`
	// HighRisk are identities and keys for which a policy is never in audit.
	HighRisk []HighRiskConfig `yaml:"high_risk"`
}

// PolicyConfig is what a bundle must satisfy.
type PolicyConfig struct {
	Name string `yaml:"name"`
	// Identities and PublicKeys are who may sign, any of them; none: whom the request names.
	Identities []SignerConfig `yaml:"identities"`
	PublicKeys []string       `yaml:"public_keys"` // files in PEM
	// Accept is which logs a proof may rest on: public, private; default: both.
	Accept []string `yaml:"accept"`
}

// SignerConfig is the identity in a certificate, as cosign has it.
type SignerConfig struct {
	Identity       string `yaml:"identity"`
	IdentityRegexp string `yaml:"identity_regexp"`
	Issuer         string `yaml:"issuer"`
	IssuerRegexp   string `yaml:"issuer_regexp"`
}

// HighRiskConfig is an identity, in which * stands for anything, or a key.
type HighRiskConfig struct {
	Identity  string `yaml:"identity"`
	Issuer    string `yaml:"issuer"`
	PublicKey string `yaml:"public_key"`
}

// What a proof may rest on.
const (
	acceptPublic  = "public"
	acceptPrivate = "private"
)

func (c *Config) completeVerification() error {
	v := c.Verification
	if v == nil {
		return nil
	}
	setDefault(&v.MaxAudit, Duration(24*time.Hour))
	if c.Outage == nil {
		return c.mistake("what is decided while a log is away is written into the ledger of outages: \"verification\" needs \"outage\", which may be {}", "verification")
	}
	names := map[string]bool{}
	for i := range v.Policies {
		p := &v.Policies[i]
		wrong := func(text string, key ...any) error {
			return c.mistake(text, append([]any{"verification", "policies", i}, key...)...)
		}
		switch {
		case p.Name == "":
			return wrong("a policy without \"name\", by which requests choose it")
		case !identityName.MatchString(p.Name):
			return wrong(fmt.Sprintf("%q is no name of a policy; it has small letters, digits, and . _ -", p.Name), "name")
		case names[p.Name]:
			return wrong(fmt.Sprintf("two policies are called %q", p.Name), "name")
		}
		names[p.Name] = true
		for j, id := range p.Identities {
			if id.Identity+id.IdentityRegexp == "" || id.Issuer+id.IssuerRegexp == "" {
				return wrong("an identity is a name and its issuer: \"identity\" or \"identity_regexp\", and \"issuer\" or \"issuer_regexp\"", "identities", j)
			}
		}
		for j, accept := range p.Accept {
			if accept != acceptPublic && accept != acceptPrivate {
				return wrong(c.oneOf(accept, acceptPublic, acceptPrivate), "accept", j)
			}
		}
	}
	for i, h := range v.HighRisk {
		if (h.Identity == "") == (h.PublicKey == "") {
			return c.mistake("what is high-risk is one of \"identity\", with \"issuer\" if only that one is meant, and \"public_key\"", "verification", "high_risk", i)
		}
	}
	return nil
}

// writeURL is where entries of a log are proposed; empty: it is only read.
func (l *LogConfig) writeURL() string {
	switch {
	case l.WriteURL != "":
		return l.WriteURL
	case l.isService() || strings.HasSuffix(l.URL, "/api/v2"):
		return l.URL
	}
	return ""
}
