package outage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"
)

// Coded gives an error the code that its cause has: for what is told by the upstream's content, such as
// CodeRollback and CodeSignature. A nil error stays nil.
func Coded(code string, err error) error {
	if err == nil {
		return nil
	}
	return &codedError{code, err}
}

type codedError struct {
	code string
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// CodeOf says what kind of failure an error is: the code of Coded, else CodeRateLimited or CodeHTTPError by its method
// StatusCode() int, CodeDNS, CodeTimeout, CodeTLS or CodeNotReachable. What is none of these was an answer, and is
// CodeMalformed. It is "" for nil.
func CodeOf(err error) string {
	var (
		coded  *codedError
		status interface{ StatusCode() int }
		dns    *net.DNSError
		late   interface{ Timeout() bool }
		op     *net.OpError
		asked  *url.Error
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &status):
		if status.StatusCode() == http.StatusTooManyRequests {
			return CodeRateLimited
		}
		return CodeHTTPError
	case errors.As(err, &dns):
		return CodeDNS
	case isTLS(err):
		return CodeTLS
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &late) && late.Timeout():
		return CodeTimeout
	case errors.As(err, &op), errors.As(err, &asked), errors.Is(err, io.EOF), errors.Is(err, context.Canceled):
		return CodeNotReachable
	}
	return CodeMalformed
}

func isTLS(err error) bool {
	var (
		unverified *tls.CertificateVerificationError
		record     tls.RecordHeaderError
		alert      tls.AlertError
		authority  x509.UnknownAuthorityError
		host       x509.HostnameError
		invalid    x509.CertificateInvalidError
	)
	return errors.As(err, &unverified) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) ||
		strings.Contains(err.Error(), "tls: ") // most errors of a handshake have no type
}

// retryAfter is how long upstream asked not to be asked, by an error's method RetryAfter() time.Duration.
func retryAfter(err error) time.Duration {
	var wait interface{ RetryAfter() time.Duration }
	if !errors.As(err, &wait) {
		return 0
	}
	return min(max(wait.RetryAfter(), 0), maxRetryAfter)
}

// maxText bounds what upstream can make us write down.
const maxText = 300

// causeOf is the cause that a failure would be.
func causeOf(err error) Cause { return Cause{CodeOf(err), short(err.Error())} }

// short makes one line of a text that upstream may have had a hand in.
func short(text string) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + " …"
	}
	return text
}
