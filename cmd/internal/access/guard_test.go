package access

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Tokens of the identities of testConfig, and one of nobody.
const (
	pipeToken  = "us_1111111111111111111111111111111111111111111111111111111111111111"
	readToken  = "us_2222222222222222222222222222222222222222222222222222222222222222"
	strayToken = "us_3333333333333333333333333333333333333333333333333333333333333333"
)

func testConfig() Config {
	return Config{Identities: []Identity{
		{Name: "pipe", TokenSHA256: hashOf(pipeToken), Certificate: "spiffe://example.com/ci", Roles: []Role{Append, Read}},
		{Name: "reader", TokenSHA256: hashOf(readToken), Certificate: "reader.example.com", Roles: []Role{Read}},
		{Name: "chief", Certificate: "chief@example.com", Roles: []Role{Operate}},
		{Name: "second", Certificate: "CN=second", Roles: []Role{Approve}},
		// Not a token that NewToken makes: it must not work.
		{Name: "weak", TokenSHA256: hashOf("password"), Roles: []Role{Read}},
		{Name: "empty", TokenSHA256: hashOf(""), Roles: []Role{Read}},
	}}
}

// routes has one route for each role; each answers with what the handler saw.
func routes(c *Control) http.Handler {
	mux := http.NewServeMux()
	for _, role := range roles {
		mux.Handle("/"+string(role)+"/", c.Require(role, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			identity, ok := FromContext(r.Context())
			fmt.Fprint(w, identity.Name, " ", ok, " ", identity.TokenSHA256 == nil, " ", r.URL.Path)
		})))
	}
	return mux
}

// verified makes a request look as if it came with a certificate that TLS verified.
func verified(c *x509.Certificate) func(*http.Request) {
	c.NotAfter = time.Now().Add(time.Hour)
	return func(r *http.Request) {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}
	}
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Add("Authorization", "Bearer "+token) }
}

func basic(user, token string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, token) }
}

func withURI(s string) *x509.Certificate {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return &x509.Certificate{URIs: []*url.URL{u}}
}

type change = func(*http.Request)

func TestWhoGetsWhat(t *testing.T) {
	ci := verified(withURI("spiffe://example.com/ci"))
	for _, c := range []struct {
		name   string
		path   string
		with   []change
		status int
		want   string // in the answer
	}{
		{"nobody", "/read/x", nil, 401, "not open to everybody"},
		{"nobody, unknown route", "/else", nil, 401, "not open to everybody"},
		{"bearer", "/append/x", []change{bearer(pipeToken)}, 200, "pipe true true /append/x"},
		{"bearer in small letters", "/append/x", []change{func(r *http.Request) { r.Header.Set("Authorization", "bearer "+pipeToken) }}, 200, "pipe"},
		{"bearer without role", "/append/x", []change{bearer(readToken)}, 403, "identity reader does not have the role append"},
		{"append is not operate", "/operate/x", []change{bearer(pipeToken)}, 403, "role operate"},
		{"append is not approve", "/approve/x", []change{bearer(pipeToken)}, 403, "role approve"},
		{"operate is not read", "/read/x", []change{verified(&x509.Certificate{EmailAddresses: []string{"chief@example.com"}})}, 403, "role read"},
		{"unknown token", "/read/x", []change{bearer(strayToken)}, 401, "not known here"},
		{"weak token", "/read/x", []change{bearer("password")}, 401, "not a token"},
		{"empty token", "/read/x", []change{bearer("")}, 401, "not a token"},
		{"other scheme", "/read/x", []change{func(r *http.Request) { r.Header.Set("Authorization", "Digest "+readToken) }}, 401, "must be Bearer"},
		{"broken basic", "/read/x", []change{func(r *http.Request) { r.Header.Set("Authorization", "Basic !") }}, 401, "must be Bearer"},
		{"two headers", "/read/x", []change{bearer(readToken), bearer(readToken)}, 401, "one Authorization header"},

		{"basic", "/append/x", []change{basic("", pipeToken)}, 200, "pipe"},
		{"basic with name", "/append/x", []change{basic("pipe", pipeToken)}, 200, "pipe"},
		{"basic with other name", "/append/x", []change{basic("reader", pipeToken)}, 401, "user name"},
		{"basic without password", "/append/x", []change{basic(pipeToken, "")}, 401, "not a token"},

		{"path", "/token/" + pipeToken + "/append/x", nil, 200, "pipe true true /append/x"},
		{"path, escape after the token", "/token/" + pipeToken + "/append/a%2Fb", nil, 200, "pipe true true /append/a/b"},
		{"path, escape in the token", "/token/%75" + pipeToken[1:] + "/append/a%2Fb", nil, 401, "not a token"},
		{"path, escaped slash after the token", "/token/" + pipeToken + "%2Fappend/x", nil, 401, "not a token"},
		{"path, unknown", "/token/" + strayToken + "/append/x", nil, 401, "not known here"},
		{"path, only a token", "/token/" + pipeToken, nil, 404, ""},
		{"path, empty", "/token//append/x", nil, 401, "not a token"},
		{"path, longer token", "/token/" + pipeToken + "0/append/x", nil, 401, "not a token"},
		{"path, twice", "/token/" + pipeToken + "/token/" + pipeToken + "/append/x", nil, 401, "wrong place"},
		{"path, after another slash", "//token/" + pipeToken + "/append/x", nil, 401, "wrong place"},
		{"path, at the end", "/append/" + pipeToken, []change{bearer(pipeToken)}, 401, "wrong place"},
		{"query", "/append/x?token=" + pipeToken, nil, 401, "wrong place"},
		{"path and header", "/token/" + pipeToken + "/append/x", []change{bearer(pipeToken)}, 200, "pipe"},
		{"path and other header", "/token/" + pipeToken + "/read/x", []change{bearer(readToken)}, 401, "not of the same identity"},
		{"path and unknown header", "/token/" + pipeToken + "/read/x", []change{bearer(strayToken)}, 401, "not known here"},

		{"URI", "/append/x", []change{ci}, 200, "pipe"},
		{"DNS", "/read/x", []change{verified(&x509.Certificate{DNSNames: []string{"a.example.com", "reader.example.com"}})}, 200, "reader"},
		{"e-mail", "/operate/x", []change{verified(&x509.Certificate{EmailAddresses: []string{"chief@example.com"}})}, 200, "chief"},
		{"common name", "/approve/x", []change{verified(&x509.Certificate{Subject: pkix.Name{CommonName: "second"}})}, 200, "second"},
		{"common name in a DNS name", "/approve/x", []change{verified(&x509.Certificate{DNSNames: []string{"CN=second"}})}, 401, "no name that is known"},
		{"common name in a URI", "/approve/x", []change{verified(withURI("CN=second"))}, 401, "no name that is known"},
		{"DNS name as a common name", "/read/x", []change{verified(&x509.Certificate{Subject: pkix.Name{CommonName: "reader.example.com"}})}, 401, "no name that is known"},
		{"URI in a DNS name", "/append/x", []change{verified(&x509.Certificate{DNSNames: []string{"spiffe://example.com/ci"}})}, 401, "no name that is known"},
		{"longer URI", "/append/x", []change{verified(withURI("spiffe://example.com/ci/x"))}, 401, "no name that is known"},
		{"no name", "/append/x", []change{verified(&x509.Certificate{})}, 401, "no name that is known"},
		{"two identities' names", "/read/x", []change{verified(&x509.Certificate{DNSNames: []string{"reader.example.com"}, EmailAddresses: []string{"chief@example.com"}})}, 401, "names of two identities"},
		{"not verified", "/append/x", []change{ci, func(r *http.Request) { r.TLS.VerifiedChains = nil }}, 401, "not open to everybody"},
		{"expired since", "/append/x", []change{ci, func(r *http.Request) {
			old := withURI("spiffe://example.com/ci")
			old.NotAfter = time.Now().Add(-time.Second)
			r.TLS.VerifiedChains[0][0] = old
		}}, 401, "expired since"},
		{"certificate and its token", "/append/x", []change{ci, bearer(pipeToken)}, 200, "pipe"},
		{"certificate and another token", "/read/x", []change{ci, bearer(readToken)}, 401, "not of the same identity"},
		{"certificate and unknown token", "/read/x", []change{ci, bearer(strayToken)}, 401, "not known here"},
		{"unknown certificate and a token", "/read/x", []change{verified(withURI("spiffe://example.com/else")), bearer(readToken)}, 401, "no name that is known"},

		{"another site's page", "/append/x", []change{bearer(pipeToken), func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }}, 403, "web page"},
	} {
		control := newControl(t, testConfig())
		r := httptest.NewRequest(http.MethodPost, c.path, nil)
		for _, with := range c.with {
			with(r)
		}
		w := httptest.NewRecorder()
		control.Guard(nil, routes(control)).ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: got %d %s", c.name, w.Code, w.Body)
		}
		if named := len(w.Header()["Www-Authenticate"]) == 2; named != (c.status == 401) {
			t.Errorf("%s: WWW-Authenticate is %q", c.name, w.Header()["Www-Authenticate"])
		}
		if refused := w.Header().Get("Cache-Control") == "no-store"; refused != (c.status == 401 || c.status == 403) {
			t.Errorf("%s: Cache-Control is %q", c.name, w.Header().Get("Cache-Control"))
		}
	}
}

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		name, remote, path string
		header             string
		status             int
	}{
		{"append", "127.0.0.1:9", "/append/x", "", 200},
		{"read", "[::1]:9", "/read/x", "", 200},
		{"mapped", "[::ffff:127.0.0.1]:9", "/read/x", "", 200},
		{"operate", "127.0.0.1:9", "/operate/x", "", 403},
		{"approve", "127.0.0.1:9", "/approve/x", "", 403},
		{"path of a client that has a token", "127.0.0.1:9", "/token/" + pipeToken + "/append/x", "", 200},
		{"elsewhere", "192.0.2.1:9", "/read/x", "", 403},
		{"elsewhere, IPv6", "[2001:db8::1]:9", "/read/x", "", 403},
		{"no address", "@", "/read/x", "", 403},
		{"proxy", "127.0.0.1:9", "/read/x", "X-Forwarded-For", 403},
		{"proxy of RFC 7239", "127.0.0.1:9", "/read/x", "Forwarded", 403},
		{"another site's page", "127.0.0.1:9", "/append/x", "Origin", 403},
	} {
		control := newControl(t, Config{Open: true, Hosts: []string{"example.com"}})
		r := httptest.NewRequest(http.MethodPost, c.path, nil)
		r.RemoteAddr = c.remote
		if c.header != "" {
			r.Header.Set(c.header, "https://192.0.2.1")
		}
		w := httptest.NewRecorder()
		control.Guard(nil, routes(control)).ServeHTTP(w, r)
		if w.Code != c.status || c.status == 200 && !strings.HasPrefix(w.Body.String(), "loopback true") {
			t.Errorf("%s: got %d %s", c.name, w.Code, w.Body)
		}
	}
}

// TestRequireOutsideGuard holds that a route that was put outside by mistake is closed.
func TestRequireOutsideGuard(t *testing.T) {
	for _, config := range []Config{testConfig(), {Open: true, Hosts: []string{"example.com"}}} {
		r := httptest.NewRequest(http.MethodGet, "/read/x", nil)
		r.RemoteAddr = "127.0.0.1:9"
		bearer(readToken)(r)
		w := httptest.NewRecorder()
		if routes(newControl(t, config)).ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
		if _, ok := FromContext(r.Context()); ok {
			t.Error("an identity without Guard")
		}
	}
}

// TestRefuse holds that refusals of both kinds go through the hook, after the headers.
func TestRefuse(t *testing.T) {
	control := newControl(t, testConfig())
	refuse := func(w http.ResponseWriter, r *http.Request, status int, text string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]string{"message": text, "path": r.URL.Path})
	}
	h := control.Guard(refuse, routes(control))
	for path, status := range map[string]int{"/token/" + strayToken + "/read/x": 401, "/token/" + readToken + "/append/x": 403} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		var got map[string]string
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != status || got["message"] == "" || !strings.HasSuffix(path, got["path"]) {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
}

// TestTokenIsNotSeen holds that no token is in what a handler sees, in what is logged, in
// an answer, or in metrics, wherever a client puts it and whether it is known or not.
func TestTokenIsNotSeen(t *testing.T) {
	for _, open := range []bool{false, true} {
		var logged bytes.Buffer
		config := testConfig()
		if open {
			config = Config{Open: true, Hosts: []string{"example.com"}}
		}
		config.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		control := newControl(t, config)
		var seen, mayBeSeen strings.Builder
		see := func(r *http.Request) {
			fmt.Fprintf(&seen, "%s %s %s %q %q %q %v %v\n", r.Method, r.RequestURI, r.URL, r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.Header, r)
			config.Logger.Info("request", "path", r.URL.Path, "uri", r.RequestURI, "header", r.Header)
		}
		mux := http.NewServeMux()
		mux.Handle("/", control.Require(Read, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { see(r) })))
		mux.Handle("/folder/", http.NotFoundHandler()) // the mux redirects /folder
		h := control.Guard(func(w http.ResponseWriter, r *http.Request, status int, text string) {
			see(r)
			refuseText(w, r, status, text)
		}, mux)
		handled, answered := 0, 0
		for _, token := range []string{readToken, strayToken} {
			for _, path := range []string{
				"/x", "/token/TOKEN", "/token/TOKEN/", "/token/TOKEN/x", "/token/TOKEN/a%2Fb?c=d", "/token/TOKEN//x", "/token/TOKEN/folder",
				"/token/TOKEN/../x", "//token/TOKEN/x", "/x/../token/TOKEN/x", "/token/TOKEN/token/TOKEN/x", "/token/TOKENx/x",
				"/token/%75" + strings.TrimPrefix("TOKEN", "u") + "/x", "/TOKEN", "/x?token=TOKEN", "http://user:TOKEN@example.com/x", "/token/TOKEN%2Fx",
			} {
				for _, header := range []string{"", "Bearer TOKEN", "Basic TOKEN", "TOKEN"} {
					path, header := strings.ReplaceAll(path, "TOKEN", token), strings.ReplaceAll(header, "TOKEN", token)
					r := httptest.NewRequest(http.MethodGet, path, nil)
					r.RemoteAddr = fmt.Sprintf("127.0.0.1:%d", handled)
					if !open {
						r.RemoteAddr = fmt.Sprintf("10.0.%d.1:9", handled)
					}
					if header != "" {
						r.Header.Set("Authorization", header)
					}
					handled++
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r)
					fmt.Fprintln(&mayBeSeen, w.Header(), w.Body)
					if w.Code == http.StatusOK {
						answered++
					}
				}
			}
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(control.metrics.requests)
		metrics, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		everything := seen.String() + mayBeSeen.String() + logged.String() + fmt.Sprint(metrics)
		if answered < 8 {
			t.Errorf("open %v: only %d of %d requests got to the handler", open, answered, handled)
		}
		for _, token := range []string{readToken, strayToken} {
			if i := strings.Index(everything, token[8:60]); i >= 0 {
				t.Errorf("open %v: a token is seen: %s", open, everything[max(0, i-300):i+100])
			}
		}
		if !open && !strings.Contains(logged.String(), "request refused") {
			t.Error("refusals are not logged")
		}
	}
}

// TestMetrics holds that each outcome is counted once, for whom it was.
func TestMetrics(t *testing.T) {
	config := testConfig()
	config.Identities[0].EntriesPerSecond = 0.001
	control := newControl(t, config)
	h := control.Guard(nil, routes(control))
	for _, c := range []struct {
		path string
		with change
		want [2]string // identity, outcome
	}{
		{"/append/x", bearer(pipeToken), [2]string{"pipe", admitted}},
		{"/append/x", bearer(pipeToken), [2]string{"pipe", limited}},
		{"/operate/x", bearer(pipeToken), [2]string{"pipe", forbidden}},
		{"/read/x", bearer(strayToken), [2]string{nobody, unauthenticated}},
	} {
		before := testutil.ToFloat64(control.metrics.requests.WithLabelValues(c.want[0], c.want[1]))
		r := httptest.NewRequest(http.MethodPost, c.path, nil)
		c.with(r)
		h.ServeHTTP(httptest.NewRecorder(), r)
		if got := testutil.ToFloat64(control.metrics.requests.WithLabelValues(c.want[0], c.want[1])); got != before+1 {
			t.Errorf("%v: %v after %v", c.want, got, before)
		}
	}
	// All series are there from the start: those of six identities, and of nobody.
	if got := testutil.CollectAndCount(control.metrics.requests); got != 6*4+3 {
		t.Errorf("%d series", got)
	}
}

// TestOpenHosts holds that a web page whose site made its name lead to this machine gets nothing: to its
// browser the log and the page are one site.
func TestOpenHosts(t *testing.T) {
	control := newControl(t, Config{Open: true, Hosts: []string{"rekor.example.com"}})
	h := control.Guard(nil, routes(control))
	for host, status := range map[string]int{
		"rekor.example.com": 200, "rekor.example.com:3000": 200, "Rekor.Example.com.": 200, "localhost:3000": 200,
		"127.0.0.1:3000": 200, "127.0.0.2": 200, "[::1]:3000": 200, "[::1]": 200,
		"evil.example.net:3000": 403, "evil.example.net": 403, "x.rekor.example.com": 403, "192.0.2.1:3000": 403, "": 403,
		"127.0.0.1.evil.example.net": 403, "localhost.evil.example.net:3000": 403, "0.0.0.0:3000": 403,
	} {
		for _, path := range []string{"/append/x", "/read/x"} {
			r := httptest.NewRequest(http.MethodPost, path, nil)
			r.RemoteAddr, r.Host = "127.0.0.1:9", host
			r.Header.Set("Origin", "http://"+host)
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, r); w.Code != status {
				t.Errorf("%s at %q: got %d %s", path, host, w.Code, w.Body)
			}
		}
	}
	// Who has a token is not asked under which name.
	control = newControl(t, testConfig())
	if w := ask(control.Guard(nil, routes(control)), "/append/x", "192.0.2.1:9", bearer(pipeToken), func(r *http.Request) { r.Host = "any.example.net" }); w.Code != 200 {
		t.Errorf("with a token: got %d %s", w.Code, w.Body)
	}
}
