package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"
)

// S3Config says which bucket an S3 is. Bucket must be set.
type S3Config struct {
	Name      string // empty: s3://BUCKET/PREFIX
	Endpoint  string // URL of the service; empty: AWS
	Region    string // empty: that of the environment; with an endpoint, us-east-1
	Bucket    string
	Prefix    string // of the keys; a '/' follows it
	PathStyle bool   // the bucket is in the path of a URL, not in its host name

	// CredentialsFile is a file in the format of AWS's shared credentials, of which
	// Profile (empty: default) is taken. It is read again for every request. Empty: the
	// SDK's default chain, so environment, shared files or a role of the machine, as found
	// at the start.
	CredentialsFile, Profile string

	// Mode locks every pack against deletion, for Retention from when it was stored, or
	// until Pack.Retain. Empty: nothing is locked, and Pack.Retain is refused. The bucket
	// must have Object Lock for it, and for LegalHold.
	Mode      Mode
	Retention time.Duration
	LegalHold bool // put every pack under legal hold, too

	// Timeout is how long nothing may move before a request is given up. 0: one minute.
	// All of a request may take twice that, and 16 seconds for each MiB of a pack.
	Timeout time.Duration
}

// S3 keeps packs as objects in a bucket. It needs permission for s3:PutObject,
// s3:GetObject, s3:GetObjectVersion and s3:ListBucketVersions; to lock, also for
// s3:GetBucketObjectLockConfiguration, s3:PutObjectRetention, s3:GetObjectRetention,
// s3:PutObjectLegalHold and s3:GetObjectLegalHold. It should have none to delete.
type S3 struct {
	cfg         S3Config
	client      *s3.Client
	credentials aws.CredentialsProvider
	limits      limits
}

var _ Destination = (*S3)(nil)

// limits bound what a server can make us wait for.
type limits struct {
	patience time.Duration // for the next byte
	rate     int64         // slowest transfer of a pack, in bytes a second
	backoff  time.Duration // longest time between two tries of the SDK
}

const (
	defaultTimeout = time.Minute
	slowest        = 64 << 10
	tries          = 3       // of the SDK, at a request
	largest        = 5 << 30 // what S3 takes in one request
)

// NewS3 returns an S3. It reads the credentials file, if there is one, and does not ask the
// service.
func NewS3(ctx context.Context, cfg S3Config) (*S3, error) {
	return newS3(ctx, cfg, limits{cmp.Or(cfg.Timeout, defaultTimeout), slowest, 5 * time.Second})
}

func newS3(ctx context.Context, cfg S3Config, l limits) (*S3, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.Prefix = strings.TrimSuffix(cfg.Prefix, "/")
	cfg.Name = cmp.Or(cfg.Name, strings.TrimSuffix("s3://"+cfg.Bucket+"/"+cfg.Prefix, "/"))
	options := []func(*config.LoadOptions) error{
		config.WithAppID("understudy"),
		config.WithLogger(logging.Nop{}), // what matters is in errors
		config.WithHTTPClient(awshttp.NewBuildableClient()),
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired), // we have our own
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = tries, l.backoff })
		}),
	}
	if cfg.Region != "" {
		options = append(options, config.WithRegion(cfg.Region))
	}
	if cfg.CredentialsFile != "" {
		cfg.Profile = cmp.Or(cfg.Profile, "default")
		file := credentialsFile{cfg.CredentialsFile, cfg.Profile}
		if _, err := file.Retrieve(ctx); err != nil {
			return nil, err
		}
		options = append(options, config.WithCredentialsProvider(file)) // so that nothing else is looked for
	} else if cfg.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(cfg.Profile))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("configure S3: %w", err)
	}
	if loaded.Region == "" {
		if cfg.Endpoint == "" {
			return nil, fmt.Errorf("bucket %s needs a region: neither the configuration nor the environment (AWS_REGION) names one", cfg.Bucket)
		}
		loaded.Region = "us-east-1"
	}
	if cfg.CredentialsFile != "" {
		loaded.Credentials = credentialsFile{cfg.CredentialsFile, cfg.Profile} // without the SDK's cache
	}
	loaded.HTTPClient = &patientClient{loaded.HTTPClient, l.patience}
	client := s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.UsePathStyle = cfg.PathStyle
		if cfg.Endpoint != "" {
			o.BaseEndpoint = &cfg.Endpoint
		}
	})
	return &S3{cfg, client, loaded.Credentials, l}, nil
}

func (c S3Config) check() error {
	if c.Bucket == "" || strings.ContainsAny(c.Bucket, "/\\ ") {
		return fmt.Errorf("%q is no name of a bucket", c.Bucket)
	}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("endpoint %q is not as https://HOST", c.Endpoint)
		}
	}
	if prefix := strings.TrimSuffix(c.Prefix, "/"); c.Prefix != "" && (path.Clean("/"+prefix) != "/"+prefix || prefix == "" || len(prefix) > 500) {
		return fmt.Errorf("prefix %q is not as some/folder", c.Prefix)
	}
	switch {
	case c.Mode != "" && c.Mode != Governance && c.Mode != Compliance:
		return fmt.Errorf("object-lock mode %q is neither %s nor %s", c.Mode, Governance, Compliance)
	case c.Retention < 0:
		return fmt.Errorf("retention %s is negative", c.Retention)
	case c.Timeout < 0:
		return fmt.Errorf("timeout %s is negative", c.Timeout)
	case c.Mode == "" && c.Retention != 0:
		return fmt.Errorf("a retention in bucket %s needs an object-lock mode: %s or %s", c.Bucket, Governance, Compliance)
	case c.Mode != "" && c.Retention == 0:
		return fmt.Errorf("object-lock mode %s needs a retention", c.Mode)
	}
	return nil
}

// locks reports whether packs are locked at all.
func (c S3Config) locks() bool { return c.Mode != "" || c.LegalHold }

// Name returns the name from the configuration.
func (s *S3) Name() string { return s.cfg.Name }

func (s *S3) key(name string) string { return s.prefix() + name }

func (s *S3) prefix() string {
	if s.cfg.Prefix == "" {
		return ""
	}
	return s.cfg.Prefix + "/"
}

// credentialsFile gives the credentials of one profile of a file, as it is now.
type credentialsFile struct{ file, profile string }

// Retrieve reads the file.
func (c credentialsFile) Retrieve(ctx context.Context) (aws.Credentials, error) {
	shared, err := config.LoadSharedConfigProfile(ctx, c.profile, func(o *config.LoadSharedConfigOptions) {
		o.CredentialsFiles, o.ConfigFiles = []string{c.file}, []string{}
		o.Logger = logging.Nop{}
	})
	if err == nil && !shared.Credentials.HasKeys() {
		err = errors.New("it has no access key")
	}
	if err != nil {
		return aws.Credentials{}, &Permanent{
			Err:  fmt.Errorf("read profile %s of the credentials file %s: %w", c.profile, c.file, err),
			Hint: fmt.Sprintf("below [%s] it has lines with aws_access_key_id = ... and aws_secret_access_key = ...", c.profile),
		}
	}
	return shared.Credentials, nil
}

// apiMode is the mode in the words of S3.
func (m Mode) apiMode() string { return strings.ToUpper(string(m)) }

// modeOf returns the mode that S3 names.
func modeOf[T types.ObjectLockMode | types.ObjectLockRetentionMode](m T) Mode {
	return Mode(strings.ToLower(string(m)))
}
