package access

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// reloadInterval is how often files are looked at, and only when somebody connects.
const reloadInterval = time.Second

// TLS returns what a server at the log's addresses uses, for HTTP/2 and HTTP/1.1. Clients
// may show a certificate of the authorities in clientCAFile; clientCAFile may be empty.
//
// The PEM files may be replaced while it serves: new connections get what is in them within
// a second. Files that cannot be used are logged, and the last good ones stay in use.
func (c *Control) TLS(certFile, keyFile, clientCAFile string) (*tls.Config, error) {
	if clientCAFile == "" {
		for _, m := range c.certificates {
			return nil, fmt.Errorf("identity %s is known by a client certificate, but no client_ca is configured: name the file with the authority of the client certificates", m.Name)
		}
	}
	k := &keeper{certFile: certFile, keyFile: keyFile, clientCAFile: clientCAFile, logger: c.logger}
	var err error
	if k.stamps, err = k.stat(); err != nil {
		return nil, err
	}
	if k.config, err = k.load(); err != nil {
		return nil, err
	}
	k.looked = time.Now()
	config := baseConfig()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.current(), nil }
	return config, nil
}

func baseConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		// A resumed session would bring back a client certificate that was verified long ago,
		// maybe by an authority that was replaced since.
		SessionTicketsDisabled: true,
	}
}

// keeper holds what the files of a server had in them when they were last good.
type keeper struct {
	certFile, keyFile, clientCAFile string
	logger                          *slog.Logger

	mu     sync.Mutex // held while files are read, at most once in reloadInterval
	config *tls.Config
	stamps [3]stamp // of the files that config is from
	looked time.Time
	failed string // the last failure that was logged; "" if the files are good
}

// stamp tells a file from what it was before.
type stamp struct {
	modified time.Time
	size     int64
}

func (k *keeper) current() *tls.Config {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.looked) < reloadInterval {
		return k.config
	}
	k.looked = time.Now()
	// The stamps are taken before the files are read, so a file that changes in between is
	// read again. After a failure too: the key may come after the certificate.
	stamps, err := k.stat()
	if err == nil && stamps == k.stamps {
		k.failed = "" // what is in use is what is there
		return k.config
	}
	var config *tls.Config
	if err == nil {
		config, err = k.load()
	}
	if err != nil {
		if k.failed != err.Error() {
			k.failed = err.Error()
			k.logger.Error("new TLS files cannot be used, the old ones stay in use", "error", err)
		}
		return k.config
	}
	k.config, k.stamps, k.failed = config, stamps, ""
	k.logger.Info("TLS files reloaded", "certificate", k.certFile, "not_after", config.Certificates[0].Leaf.NotAfter)
	return k.config
}

func (k *keeper) stat() (stamps [3]stamp, err error) {
	for i, name := range []string{k.certFile, k.keyFile, k.clientCAFile} {
		if name == "" && i == 2 {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return stamps, fmt.Errorf("read TLS file: %w; %s", err, fileHint(err))
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	return stamps, nil
}

func fileHint(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "let the user that runs understudy read it"
	}
	return "correct the path, or put the file there"
}

// load reads the files into a configuration for one connection.
func (k *keeper) load() (*tls.Config, error) {
	config := baseConfig()
	certPEM, err := os.ReadFile(k.certFile)
	if err != nil {
		return nil, fmt.Errorf("read TLS certificate: %w; %s", err, fileHint(err))
	}
	keyPEM, err := os.ReadFile(k.keyFile)
	if err != nil {
		return nil, fmt.Errorf("read TLS key: %w; %s", err, fileHint(err))
	}
	if bytes.Contains(keyPEM, []byte("ENCRYPTED")) {
		return nil, fmt.Errorf("TLS key %s is encrypted; store it without a passphrase, readable by its owner only", k.keyFile)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("use TLS certificate %s with key %s: %s; both must be PEM, the server's certificate first, and belong together", k.certFile, k.keyFile, strings.TrimPrefix(err.Error(), "tls: "))
	}
	if end := pair.Leaf.NotAfter; time.Now().After(end) {
		return nil, fmt.Errorf("TLS certificate %s expired on %s; renew it", k.certFile, end.UTC().Format(time.DateTime))
	}
	config.Certificates = []tls.Certificate{pair}
	if k.clientCAFile == "" {
		return config, nil
	}
	if config.ClientCAs, err = loadAuthorities(k.clientCAFile); err != nil {
		return nil, err
	}
	config.ClientAuth = tls.VerifyClientCertIfGiven
	return config, nil
}

// loadAuthorities reads certificates, all of which must be usable: a client certificate
// among them would be believed whoever signed it, and one that is skipped is missed late.
func loadAuthorities(name string) (*x509.CertPool, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read authorities of client certificates: %w; %s", err, fileHint(err))
	}
	pool, found := x509.NewCertPool(), false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s has a PEM block %q; it must hold certificates only", name, block.Type)
		}
		authority, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse a certificate in %s: %w; replace it", name, err)
		}
		if !authority.IsCA {
			return nil, fmt.Errorf("%s holds the certificate of %q, which is no authority; name the certificate that signed the clients' certificates", name, authority.Subject)
		}
		pool.AddCert(authority)
		found = true
	}
	if !found {
		return nil, fmt.Errorf("%s holds no certificate; it must be PEM, with the certificates that signed the clients' certificates", name)
	}
	return pool, nil
}
