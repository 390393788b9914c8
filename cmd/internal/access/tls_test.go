package access

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// authority is a CA of a test.
type authority struct {
	t    *testing.T
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, name: name}
	a.cert, a.key = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.NotBefore = template.NotAfter.Add(-48 * time.Hour)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// server signs a certificate for 127.0.0.1 with a common name to know it by.
func (a *authority) server(name string, notAfter time.Time) (certPEM, keyPEM []byte) {
	return a.pem(a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: notAfter}))
}

func (a *authority) pem(cert *x509.Certificate, key *ecdsa.PrivateKey) (certPEM, keyPEM []byte) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return certificatePEM(cert), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func certificatePEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// client signs a certificate of the identity pipe.
func (a *authority) client(notAfter time.Time) *tls.Certificate {
	uri := &url.URL{Scheme: "spiffe", Host: "example.com", Path: "/ci"}
	cert, key := a.sign(&x509.Certificate{URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotAfter: notAfter})
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// tlsFiles are the three files of a server.
type tlsFiles struct {
	t             *testing.T
	cert, key, ca string
	written       time.Time
}

func newFiles(t *testing.T) *tlsFiles {
	dir := t.TempDir()
	return &tlsFiles{t: t, cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"), ca: filepath.Join(dir, "clients.crt"), written: time.Now().Add(-time.Hour)}
}

// write replaces a file, a second later than the last one.
func (f *tlsFiles) write(name string, data []byte) {
	f.t.Helper()
	f.written = f.written.Add(time.Second)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Chtimes(name, f.written, f.written); err != nil {
		f.t.Fatal(err)
	}
}

// standardFiles has a server's certificate of servers, and clients as the clients' authority.
func standardFiles(t *testing.T, servers, clients *authority) *tlsFiles {
	f := newFiles(t)
	cert, key := servers.server("first", time.Time{})
	f.write(f.cert, cert)
	f.write(f.key, key)
	f.write(f.ca, certificatePEM(clients.cert))
	return f
}

// serve serves h over TLS and returns its address.
func serve(t *testing.T, config *tls.Config, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, TLSConfig: config, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() {
		if config == nil {
			done <- server.Serve(l)
		} else {
			done <- server.ServeTLS(l, "", "")
		}
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return l.Addr().String()
}

// clientConfig trusts servers and shows a certificate even to a server that does not want it.
func clientConfig(servers *authority, cert *tls.Certificate) *tls.Config {
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AddCert(servers.cert)
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return config
}

func get(t *testing.T, address, path string, config *tls.Config, token string) (status int, body, proto string, err error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", "", err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(data), answer.Proto, err
}

// TestTLS holds who gets through a real handshake, and as whom.
func TestTLS(t *testing.T) {
	servers, clients, others := newAuthority(t, "servers"), newAuthority(t, "clients"), newAuthority(t, "clients") // others has the same name
	files := standardFiles(t, servers, clients)
	control := newControl(t, testConfig())
	config, err := control.TLS(files.cert, files.key, files.ca)
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, config, control.Guard(nil, routes(control)))
	for _, c := range []struct {
		name   string
		cert   *tls.Certificate
		token  string
		status int // 0: no handshake
		want   string
	}{
		{"certificate", clients.client(time.Time{}), "", 200, "pipe true"},
		{"certificate and its token", clients.client(time.Time{}), pipeToken, 200, "pipe true"},
		{"certificate and another token", clients.client(time.Time{}), readToken, 401, "same identity"},
		{"token", nil, readToken, 200, "reader true"},
		{"neither", nil, "", 401, "not open to everybody"},
		{"wrong authority", others.client(time.Time{}), "", 0, ""},
		{"wrong authority and a good token", others.client(time.Time{}), readToken, 0, ""},
		{"the servers' authority", servers.client(time.Time{}), "", 0, ""},
		{"expired", clients.client(time.Now().Add(-time.Minute)), "", 0, ""},
	} {
		status, body, proto, err := get(t, address, "/read/x", clientConfig(servers, c.cert), c.token)
		if status != c.status || (err != nil) != (c.status == 0) || !strings.Contains(body, c.want) {
			t.Errorf("%s: got %d %q, %v", c.name, status, body, err)
		}
		if c.status != 0 && proto != "HTTP/2.0" {
			t.Errorf("%s: got %s", c.name, proto)
		}
	}
	old := clientConfig(servers, nil)
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	if conn, err := tls.Dial("tcp", address, old); err == nil { // not HTTP/2, which refuses it by itself
		conn.Close()
		t.Error("TLS 1.1 is accepted")
	}
}

// TestTLSWithoutClientCA holds that a certificate means nothing where none is asked for.
func TestTLSWithoutClientCA(t *testing.T) {
	servers := newAuthority(t, "servers")
	files := standardFiles(t, servers, servers)
	if _, err := newControl(t, testConfig()).TLS(files.cert, files.key, ""); err == nil || !strings.Contains(err.Error(), "no client_ca") {
		t.Errorf("identities by certificate without an authority: %v", err)
	}
	control := newControl(t, Config{Identities: []Identity{{Name: "reader", TokenSHA256: hashOf(readToken), Roles: []Role{Read}}}})
	config, err := control.TLS(files.cert, files.key, "")
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, config, control.Guard(nil, routes(control)))
	for token, want := range map[string]int{readToken: 200, "": 401} {
		status, _, _, err := get(t, address, "/read/x", clientConfig(servers, servers.client(time.Time{})), token)
		if err != nil || status != want {
			t.Errorf("%q: got %d, %v", token, status, err)
		}
	}
}

// TestNoResumption holds that a connection never begins with an old handshake's certificate.
func TestNoResumption(t *testing.T) {
	servers, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
	files := standardFiles(t, servers, clients)
	control := newControl(t, testConfig())
	config, err := control.TLS(files.cert, files.key, files.ca)
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, config, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			t.Error("the session was resumed")
		}
	}))
	client := clientConfig(servers, clients.client(time.Time{}))
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 3 {
		if _, _, _, err := get(t, address, "/", client, ""); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTLSRefuses(t *testing.T) {
	servers, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
	_, otherKey := servers.server("other", time.Time{})
	expired, expiredKey := servers.server("old", time.Now().Add(-time.Minute))
	leaf := &x509.Certificate{Raw: clients.client(time.Time{}).Certificate[0]}
	for _, c := range []struct {
		name  string
		spoil func(*tlsFiles)
		want  string
	}{
		{"no certificate", func(f *tlsFiles) { os.Remove(f.cert) }, "correct the path"},
		{"no key", func(f *tlsFiles) { os.Remove(f.key) }, "correct the path"},
		{"no authority", func(f *tlsFiles) { os.Remove(f.ca) }, "correct the path"},
		{"junk certificate", func(f *tlsFiles) { f.write(f.cert, []byte("junk")) }, "both must be PEM"},
		{"other key", func(f *tlsFiles) { f.write(f.key, otherKey) }, "belong together"},
		{"encrypted key", func(f *tlsFiles) {
			f.write(f.key, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}))
		}, "is encrypted"},
		{"expired", func(f *tlsFiles) { f.write(f.cert, expired); f.write(f.key, expiredKey) }, "renew it"},
		{"empty authority", func(f *tlsFiles) { f.write(f.ca, nil) }, "holds no certificate"},
		{"key as authority", func(f *tlsFiles) { f.write(f.ca, otherKey) }, "certificates only"},
		{"broken authority", func(f *tlsFiles) {
			f.write(f.ca, append(certificatePEM(clients.cert), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})...))
		}, "parse a certificate"},
		{"client as authority", func(f *tlsFiles) { f.write(f.ca, certificatePEM(leaf)) }, "is no authority"},
	} {
		files := standardFiles(t, servers, clients)
		c.spoil(files)
		if _, err := newControl(t, testConfig()).TLS(files.cert, files.key, files.ca); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestReload holds that new files are used within a second and not looked at more often,
// that broken ones are logged once and change nothing, and that the authority changes too.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
		files := standardFiles(t, servers, clients)
		var logged bytes.Buffer
		config := testConfig()
		config.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		base, err := newControl(t, config).TLS(files.cert, files.key, files.ca)
		if err != nil {
			t.Fatal(err)
		}
		now := func() *tls.Config {
			c, err := base.GetConfigForClient(nil)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		expect := func(name string, failures int) {
			t.Helper()
			if got := now().Certificates[0].Leaf.Subject.CommonName; got != name {
				t.Errorf("the certificate is of %s, want %s", got, name)
			}
			if got := strings.Count(logged.String(), "level=ERROR"); got != failures {
				t.Errorf("%d failures are logged, want %d: %s", got, failures, &logged)
			}
		}
		expect("first", 0)
		cert, key := servers.server("second", time.Time{})
		files.write(files.cert, cert) // and the key later
		expect("first", 0)            // not looked at yet
		time.Sleep(reloadInterval)
		expect("first", 1)
		time.Sleep(reloadInterval)
		expect("first", 1) // the same failure is logged once
		files.write(files.key, key)
		expect("first", 1)
		time.Sleep(reloadInterval)
		expect("second", 1)
		second := now()
		time.Sleep(reloadInterval)
		if now() != second {
			t.Error("unchanged files are read again")
		}

		os.Remove(files.cert)
		time.Sleep(reloadInterval)
		expect("second", 2)
		files.write(files.cert, cert)
		time.Sleep(reloadInterval)
		expect("second", 2)
		old, oldKey := servers.server("old", time.Now().Add(-time.Minute))
		files.write(files.cert, old)
		files.write(files.key, oldKey)
		time.Sleep(reloadInterval)
		expect("second", 3)
		files.write(files.cert, cert)
		files.write(files.key, key)

		others := newAuthority(t, "others")
		files.write(files.ca, certificatePEM(others.cert))
		time.Sleep(reloadInterval)
		want := x509.NewCertPool()
		want.AddCert(others.cert)
		if c := now(); !c.ClientCAs.Equal(want) || c.ClientAuth != tls.VerifyClientCertIfGiven {
			t.Error("the new authority is not in use")
		}
		expect("second", 3)
	})
}

// TestReloadServes holds that a server in use takes a new certificate without a restart.
func TestReloadServes(t *testing.T) {
	servers, next, clients := newAuthority(t, "servers"), newAuthority(t, "next"), newAuthority(t, "clients")
	files := standardFiles(t, servers, clients)
	control := newControl(t, testConfig())
	config, err := control.TLS(files.cert, files.key, files.ca)
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, config, control.Guard(nil, routes(control)))
	if status, _, _, err := get(t, address, "/read/x", clientConfig(servers, clients.client(time.Time{})), ""); status != 200 {
		t.Fatal(status, err)
	}
	cert, key := next.server("next", time.Time{})
	files.write(files.key, key)
	files.write(files.cert, cert)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		status, _, _, err := get(t, address, "/read/x", clientConfig(next, clients.client(time.Time{})), "")
		if status == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not served: ", err)
		}
	}
}
