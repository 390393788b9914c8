package e2elog

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rekorclient "github.com/sigstore/rekor-tiles/v2/pkg/client"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/read"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor/pkg/client"
	"github.com/sigstore/rekor/pkg/generated/client/tlog"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// identity is somebody who may use a log.
type identity struct {
	name, token, uri, roles string
}

func newToken() string {
	var secret [32]byte
	rand.Read(secret[:]) // never fails
	return "us_" + hex.EncodeToString(secret[:])
}

// yaml is the identity in the configuration.
func (i identity) yaml() string {
	known := fmt.Sprintf("certificate: '%s'", i.uri)
	if i.token != "" {
		known = fmt.Sprintf("token_sha256: %x", sha256.Sum256([]byte(i.token)))
	}
	return fmt.Sprintf("{name: %s, %s, roles: [%s]}", i.name, known, i.roles)
}

// guarded is a log that some may use.
type guarded struct {
	*stage
	daemon                   *daemon
	writer, reader, stranger identity
}

// newGuarded runs a log with tokens; over TLS, if there is a CA.
func newGuarded(t *testing.T, tlsCA *webCA) *guarded {
	t.Helper()
	understudyOnly(t)
	g := &guarded{
		writer:   identity{name: "pipeline", token: newToken(), roles: "append, read"},
		reader:   identity{name: "reader", token: newToken(), roles: "read"},
		stranger: identity{name: "stranger", token: newToken()},
	}
	more := ""
	s := settings{}
	if tlsCA != nil {
		s.https = true
		machine := identity{name: "machine", uri: "spiffe://us.test/ci", roles: "append, read"}
		more = ", " + machine.yaml()
		dir := t.TempDir()
		certificate, key := tlsCA.issue(&x509.Certificate{DNSNames: []string{"*.us.test", "localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		s.access = fmt.Sprintf("tls: {certificate: '%s', key: '%s', client_ca: '%s'}, ",
			save(t, filepath.Join(dir, "tls.crt"), certificate), save(t, filepath.Join(dir, "tls.key"), key), save(t, filepath.Join(dir, "clients.crt"), tlsCA.pem))
	}
	s.access = fmt.Sprintf("{%sidentities: [%s, %s%s]}", s.access, g.writer.yaml(), g.reader.yaml(), more)
	g.daemon = newUnderstudy(t, s)
	g.stage = g.daemon.stage()
	return g
}

// as returns the material with the token of somebody in the log's address: as the password for v2, in the
// path for v1, whose clients send no password.
func (g *guarded) as(t *testing.T, m material, who identity) material {
	t.Helper()
	var config struct {
		RekorTlogUrls []struct {
			URL             string
			MajorAPIVersion int
		}
	}
	text := must(os.ReadFile(m.signingConfig))
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	for _, log := range config.RekorTlogUrls {
		at := must(url.Parse(log.URL))
		if log.MajorAPIVersion == 2 {
			at.User = url.UserPassword(who.name, who.token)
		} else {
			at.Path = "/token/" + who.token
		}
		text = []byte(strings.ReplaceAll(string(text), `"`+log.URL+`"`, `"`+at.String()+`"`))
	}
	return material{signingConfig: save(t, filepath.Join(t.TempDir(), "signing_config.json"), text), trustedRoot: m.trustedRoot}
}

// TestAccessByToken: cosign and rekor-cli, which know no tokens, use the log with one in its address; who
// has none, or may not write, is told so.
func TestAccessByToken(t *testing.T) {
	t.Parallel()
	understudyOnly(t)
	for _, name := range []string{"http", "https"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var web *webCA
			if name == "https" {
				web = newWebCA()
			}
			g := newGuarded(t, web)
			u := newUser(t)
			u.keys()
			if web != nil {
				u.env = append(u.env, "SSL_CERT_FILE="+u.write("web.pem", web.pem), "SSL_CERT_DIR="+u.home)
			}
			for version := 1; version <= 2; version++ {
				m := public(t, false).export(t, "fallback", g.stage, version)
				if err := u.sign(g.as(t, m, g.writer), "bundle", signers[0]); err != nil {
					t.Errorf("v%d: %v", version, err)
					continue
				}
				if err := u.verify(m.trustedRoot, "bundle", "artifact", signers[0].verify); err != nil {
					t.Errorf("v%d: %v", version, err)
				}
				u.fails("without a token", u.sign(m, "bundle", signers[0]), "not open to everybody")
				u.fails("with a reader's token", u.sign(g.as(t, m, g.reader), "bundle", signers[0]), "role append")
				u.fails("with a stranger's token", u.sign(g.as(t, m, g.stranger), "bundle", signers[0]), "not known here")
			}
			at := func(who identity) string { return g.v1 + "/token/" + who.token }
			if err := u.rekorCLI(at(g.reader), nil, "loginfo"); err != nil {
				t.Error(err)
			}
			if err := u.rekorCLI(at(g.reader), nil, "get", "--log-index=0"); err != nil {
				t.Error(err)
			}
			u.fails("rekor-cli without a token", u.rekorCLI(g.v1, nil, "get", "--log-index=0"), "not open to everybody")
			u.fails("rekor-cli, stranger", u.rekorCLI(at(g.stranger), nil, "get", "--log-index=0"), "not known here")
			g.daemon.saysNothingOf(g.writer.token, g.reader.token, g.stranger.token)
		})
	}
}

// TestAccessByCertificate: Go clients of both generations use the log with a client certificate, and gRPC
// with a certificate or a token; others are refused.
func TestAccessByCertificate(t *testing.T) {
	t.Parallel()
	understudyOnly(t)
	web := newWebCA()
	g := newGuarded(t, web)
	ctx := within(t, time.Minute)
	config := func(uri string) *tls.Config {
		c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
		c.RootCAs.AddCert(web.certificate)
		if uri != "" {
			cert, key := web.issue(&x509.Certificate{URIs: []*url.URL{must(url.Parse(uri))}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			c.Certificates = []tls.Certificate{must(tls.X509KeyPair(cert, key))}
		}
		return c
	}
	// rekor-tiles' client does not ask a proxy once it has a tls.Config.
	v2 := must(url.Parse(g.daemon.scheme + "://" + g.daemon.v2)).String()
	direct := func(uri string) *tls.Config {
		c := config(uri)
		c.ServerName = g.daemon.v2Host
		return c
	}
	for _, test := range []struct{ name, uri, why string }{
		{"machine", "spiffe://us.test/ci", ""},
		{"stranger", "spiffe://us.test/stranger", "no name that is known"},
		{"nobody", "", "not open to everybody"},
	} {
		check := func(how string, err error) {
			t.Helper()
			if (err == nil) != (test.why == "") || err != nil && !strings.Contains(err.Error(), test.why) {
				t.Errorf("%s, %s: %v, want %q", test.name, how, err, test.why)
			}
		}
		writer := must(write.NewWriter(v2, rekorclient.WithTLSConfig(direct(test.uri))))
		_, err := writer.Add(ctx, hashedRekord())
		check("rekor-tiles write", err)
		key := must(signature.LoadVerifier(g.log(t, 2).PublicKey, crypto.SHA256))
		reader := must(read.NewReader(v2+"/api/v2", g.daemon.v2Host, key, rekorclient.WithTLSConfig(direct(test.uri))))
		if _, _, err := reader.ReadCheckpoint(ctx); (err == nil) != (test.why == "") {
			t.Errorf("%s, rekor-tiles read: %v", test.name, err)
		}
		v1 := must(client.GetRekorClient(g.v1, client.WithTLSConfig(config(test.uri))))
		_, err = v1.Tlog.GetLogInfoContext(ctx, tlog.NewGetLogInfoParams())
		if (err == nil) != (test.why == "") {
			t.Errorf("%s, rekor's client: %v", test.name, err)
		}
		check("gRPC", g.createEntry(ctx, direct(test.uri), ""))
	}
	if err := g.createEntry(ctx, direct(""), g.writer.token); err != nil {
		t.Errorf("gRPC with a token: %v", err)
	}
	if err := g.createEntry(ctx, direct(""), g.reader.token); status.Code(err) != codes.PermissionDenied {
		t.Errorf("gRPC with a reader's token: %v", err)
	}
	if err := g.createEntry(ctx, direct(""), g.stranger.token); status.Code(err) != codes.Unauthenticated {
		t.Errorf("gRPC with a stranger's token: %v", err)
	}
}

// createEntry writes by gRPC.
func (g *guarded) createEntry(ctx context.Context, config *tls.Config, token string) error {
	conn, err := grpc.NewClient("passthrough:///"+g.v2GRPC, grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer conn.Close()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	_, err = rekorpb.NewRekorClient(conn).CreateEntry(ctx, &rekorpb.CreateEntryRequest{
		Spec: &rekorpb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: hashedRekord()},
	})
	return err
}

// webCA certifies servers and clients of TLS.
type webCA struct {
	certificate *x509.Certificate
	pem         []byte
	key         *ecdsa.PrivateKey
}

func newWebCA() *webCA {
	w := &webCA{key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, w.key.Public(), w.key))
	w.certificate = must(x509.ParseCertificate(der))
	w.pem = []byte(certificatePEM(der))
	return w
}

// issue returns a certificate for a new key, and the key, in PEM.
func (w *webCA) issue(template *x509.Certificate) (certificate, key []byte) {
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template.SerialNumber = must(rand.Int(rand.Reader, big.NewInt(1<<62)))
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der := must(x509.CreateCertificate(rand.Reader, template, w.certificate, private.Public(), w.key))
	return []byte(certificatePEM(der)), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(private))})
}
