package store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// answerError is an error that the service answered with.
type answerError struct {
	status        int
	code, message string // of the service's choice
}

func (e *answerError) Error() string {
	if e.message == "" {
		return fmt.Sprintf("the service answered %.60q (%d)", e.code, e.status)
	}
	return fmt.Sprintf("the service answered %.60q (%d): %.300q", e.code, e.status, e.message)
}

// is reports whether a service answered with a code.
func is(err error, code string) bool {
	var answer *answerError
	return errors.As(err, &answer) && answer.code == code
}

// do runs one request, with a limit of time that allows for size bytes, and puts its error
// into one sentence.
func (s *S3) do(ctx context.Context, verb string, size int64, request func(context.Context) error) error {
	limit := 2*s.limits.patience + time.Duration(size/s.limits.rate)*time.Second
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	defer cancel()
	_, err := s.credentials.Retrieve(limited)
	if err != nil && !errors.As(err, new(*Permanent)) {
		err = &Permanent{fmt.Errorf("find credentials: %w", err), "name a credentials file, or start this process with AWS_SHARED_CREDENTIALS_FILE or a role"}
	}
	if err == nil {
		err = request(limited)
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(limited); cause != nil {
		return fmt.Errorf("%s: %w", verb, cause)
	}
	return s.explain(verb, err)
}

// explain reduces what the SDK says to what happened, and says whether it is for people.
func (s *S3) explain(verb string, err error) error {
	var answer smithy.APIError
	var response *awshttp.ResponseError
	var sending *smithyhttp.RequestSendError
	var garbled *smithy.DeserializationError
	var permanent *Permanent
	hint := ""
	switch {
	case errors.As(err, &permanent):
		err, hint = permanent.Err, permanent.Hint
	case errors.As(err, &answer):
		e := &answerError{code: answer.ErrorCode(), message: answer.ErrorMessage()}
		if errors.As(err, &response) {
			e.status = response.HTTPStatusCode()
			e.name()
		}
		err, hint = e, s.hint(e)
	case errors.As(err, &sending):
		err = sending.Err
	case errors.As(err, &garbled):
		err = fmt.Errorf("the service's answer cannot be read: %w", garbled.Err)
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		hint = "AWS_CA_BUNDLE names a file with the certificates of those who are trusted"
	}
	err = fmt.Errorf("%s: %w", verb, err)
	if hint != "" {
		return &Permanent{err, hint}
	}
	return err
}

// name gives an answer without a code, as those to HEAD requests are, that of its status.
func (e *answerError) name() {
	switch {
	case e.status == http.StatusPreconditionFailed:
		e.code = "PreconditionFailed"
	case e.code != "" && e.code != "UnknownError":
	case e.status == http.StatusNotFound:
		e.code = "NotFound"
	case e.status == http.StatusForbidden:
		e.code = "Forbidden"
	case e.status == http.StatusMovedPermanently:
		e.code = "PermanentRedirect"
	}
	e.code, e.message = strings.TrimSpace(e.code), strings.TrimSpace(e.message)
}

// hint says what a person can do about an answer; "" if another try may help.
func (s *S3) hint(e *answerError) string {
	switch e.code {
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidClientTokenId", "UnrecognizedClientException":
		return "the credentials are wrong or have expired: put right ones in their place"
	case "AccessDenied", "Forbidden", "AllAccessDisabled", "AccountProblem":
		return "the credentials are wrong, or lack a permission (PutObject, GetObject, GetObjectVersion and ListBucketVersions, and to lock also GetBucketObjectLockConfiguration, " +
			"PutObjectRetention, GetObjectRetention, PutObjectLegalHold and GetObjectLegalHold)"
	case "RequestTimeTooSkewed":
		return "the clock of this machine is wrong"
	case "NoSuchBucket":
		return "create the bucket " + s.cfg.Bucket + ", with Object Lock if packs are to be locked"
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return "the bucket is in another region: name that"
	case "NotImplemented", "MethodNotAllowed":
		return "the service has no such function: Object Lock, versions and conditional writes are needed"
	case "ObjectLockConfigurationNotFoundError", "InvalidRequest", "InvalidArgument", "InvalidBucketName", "InvalidRetentionPeriod", "EntityTooLarge", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded":
		return "see what the service says"
	}
	return ""
}
