package drill

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
)

// Scenario is a kind of outage that can be rehearsed.
type Scenario struct {
	Name string `json:"name"`
	Text string `json:"text"` // one sentence: what upstream does
	// Paths are the kinds of components that it can be aimed at ("read", "write", "tuf", "service"),
	// the usual ones first. None: it has a log of its own.
	Paths []string `json:"paths,omitempty"`

	// fault makes what disturbs one component; it is made anew for each drill. Nil: no request is
	// disturbed.
	fault func(r *Runner, component string) (fault, error)
	clock time.Duration // how far the client's clock is ahead
	// slack is what detecting may take beyond the targets, where that is in the nature of the thing.
	slack func(r *Runner, component string) (time.Duration, error)
	// noticed: a component need not fall back; it is enough that it is not taken for live.
	noticed bool
	flaps   bool // upstream comes and goes
	fork    bool
}

// expired is more than any metadata of TUF is valid for.
const expired = 20 * 365 * 24 * time.Hour

// maxFlaps is how often a component may fall back in one drill whose upstream comes and goes: once,
// and again before hysteresis has got hold of it.
const maxFlaps = 3

// Scenarios returns all that there are.
func Scenarios() []Scenario {
	var (
		all    = []string{kindRead, kindWrite, kindTUF, kindService}
		read   = []string{kindRead}
		tuf    = []string{kindTUF}
		always = func(f fault) func(*Runner, string) (fault, error) {
			return func(*Runner, string) (fault, error) { return f, nil }
		}
		anew = func(f func() fault) func(*Runner, string) (fault, error) {
			return func(*Runner, string) (fault, error) { return f(), nil }
		}
	)
	return []Scenario{
		{Name: "refuse", Text: "upstream refuses connections", Paths: all, fault: always(refuse)},
		{Name: "hang", Text: "upstream takes requests and never answers", Paths: all, fault: always(hang)},
		{Name: "slow-drip", Text: "upstream answers with a byte a second", Paths: all, fault: always(slowDrip)},
		{Name: "server-errors", Text: "upstream answers 503 and 500", Paths: all, fault: anew(serverErrors)},
		{Name: "rate-limited", Text: "upstream answers 429 and asks to wait", Paths: all, fault: always(rateLimited)},
		{Name: "tls-failure", Text: "upstream has a certificate of an unknown authority", Paths: all, fault: always(untrusted)},
		{Name: "dns-failure", Text: "upstream's name is not known", Paths: all, fault: always(noName)},
		{Name: "truncation", Text: "upstream's answers break off in the middle", Paths: all, fault: always(truncate)},
		{Name: "stale-checkpoint", Text: "upstream serves one and the same checkpoint for ever", Paths: read, fault: anew(stale), slack: growth, noticed: true},
		{Name: "rollback", Text: "upstream serves an older checkpoint than before", Paths: read, fault: older},
		{Name: "fork", Text: "a log of the drill, with a key of the drill, signs two irreconcilable checkpoints", fork: true},
		{Name: "tuf-expiry", Text: "the metadata of the TUF repository has expired", Paths: tuf, clock: expired},
		{Name: "cdn-gone", Text: "the TUF repository refuses connections", Paths: tuf, fault: always(refuse)},
		{Name: "write-only", Text: "upstream refuses connections that submit entries, and goes on answering others", Paths: []string{kindWrite}, fault: always(refuse)},
		{Name: "read-only", Text: "upstream refuses connections that read, and goes on taking entries", Paths: read, fault: always(refuse)},
		{
			Name: "flapping", Text: fmt.Sprintf("upstream is away and there again, in turns of %s", flapTurn), Paths: all, fault: always(flap),
			slack: func(*Runner, string) (time.Duration, error) { return flapSlack, nil }, noticed: true, flaps: true,
		},
	}
}

// flapSlack is the time over which it shows that an upstream fails more often than not.
const flapSlack = 30 * time.Second

// Kinds of components (outage.Status).
const (
	kindRead    = "read"
	kindWrite   = "write"
	kindTUF     = "tuf"
	kindService = "service"
)

// older is the fault that needs a checkpoint out of the archive.
func older(r *Runner, component string) (fault, error) {
	if r.cfg.OldCheckpoint == nil {
		return nil, fmt.Errorf("%w: no older checkpoint of %s can be had here", ErrUnfit, component)
	}
	note, err := r.cfg.OldCheckpoint(component)
	if err != nil {
		return nil, fmt.Errorf("%w: no older checkpoint of %s can be had: %w", ErrUnfit, component, err)
	}
	if _, ok := headOf(note); !ok {
		return nil, fmt.Errorf("%w: what is archived for %s is no checkpoint: run `understudy check`", ErrUnfit, component)
	}
	return rollBack(note), nil
}

// growth is how long a log may stand still.
func growth(r *Runner, component string) (time.Duration, error) {
	var within time.Duration
	if r.cfg.GrowsWithin != nil {
		within = r.cfg.GrowsWithin(component)
	}
	if within <= 0 {
		return 0, fmt.Errorf("%w: nothing watches whether %s grows, so a checkpoint that stands still would not be noticed: set grows_within of the log", ErrUnfit, component)
	}
	return within + lastGrowth, nil
}

// lastGrowth is how long after the beginning a stale log may be seen to grow once more: what it is
// first asked for then, it has.
const lastGrowth = 10 * time.Second

func findScenario(name string) (Scenario, error) {
	all := Scenarios()
	i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		names := make([]string, len(all))
		for i, s := range all {
			names[i] = s.Name
		}
		return Scenario{}, fmt.Errorf("%w scenario %q: there are %s", ErrUnknown, name, strings.Join(names, ", "))
	}
	return all[i], nil
}

// part is a component that a drill is aimed at.
type part struct{ name, kind string }

// logOf is the part of a component's name before the last slash: a successor is called after the log that it succeeds,
// and is another log.
func logOf(component string) string {
	if i := strings.LastIndexByte(component, '/'); i >= 0 {
		return component[:i]
	}
	return component
}

// aim returns the components that a scenario disturbs: one by its name, those of a log, or
// with "" those of the first log that there is.
func (s Scenario) aim(component string, all []outage.Status) ([]part, error) {
	if s.fork {
		if component != "" {
			return nil, fmt.Errorf("%w component %q: %s has a log of its own, so leave the component out", ErrUnknown, component, s.Name)
		}
		return nil, nil
	}
	var fit []part
	for _, kind := range s.Paths {
		for _, status := range all {
			if status.Kind == kind {
				fit = append(fit, part{status.Component, kind})
			}
		}
	}
	if component == "" && len(fit) > 0 {
		component = logOf(fit[0].name)
	}
	var names []string
	var aimed []part
	for _, p := range fit {
		names = append(names, p.name)
		if p.name == component || logOf(p.name) == component {
			aimed = append(aimed, p)
		}
	}
	switch {
	case len(fit) == 0:
		return nil, fmt.Errorf("%w: there is no component of the kind %s, which %s is aimed at", ErrUnfit, strings.Join(s.Paths, " or "), s.Name)
	case len(aimed) == 0:
		return nil, fmt.Errorf("%w component %q: %s can be aimed at %s, or at a log", ErrUnknown, component, s.Name, strings.Join(names, ", "))
	}
	return aimed, nil
}
