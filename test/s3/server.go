// Package s3 runs a real S3 service for tests: versitygw, on loopback, with Object Lock, and
// what it stores in a folder of the test.
package s3

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// Region is the one that the service is in.
const Region = "us-east-1"

// Server is an S3 service and what it stores, with or without a process that serves it. Its
// buckets are in the path of a URL, not in the host name.
type Server struct {
	Endpoint             string // URL
	AccessKey, SecretKey string // of who may do everything

	tb      testing.TB
	dir     string
	addr    string
	binary  string
	process *process.Process
}

// Start makes a service without buckets and runs it until the test ends. It builds the
// program first if it is not there.
func Start(ctx context.Context, tb testing.TB) *Server {
	tb.Helper()
	binary, err := tool.Path(ctx, "versitygw")
	if err != nil {
		tb.Fatal(err)
	}
	addrs, err := process.FreeAddrs(1)
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{Endpoint: "http://" + addrs[0], AccessKey: "understudy", SecretKey: "not-a-secret", tb: tb, dir: tb.TempDir(), addr: addrs[0], binary: binary}
	for _, folder := range []string{"objects", "versions", "attributes"} {
		if err := os.Mkdir(s.folder(folder), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(func() {
		if s.process != nil {
			s.process.Kill()
		}
	})
	s.Restart(ctx)
	return s
}

func (s *Server) folder(name string) string { return filepath.Join(s.dir, name) }

// Restart runs the service again, after Stop or Kill, at the same address, with what it has
// stored.
func (s *Server) Restart(ctx context.Context) {
	s.tb.Helper()
	var err error
	// Attributes are files of their own, because not every file system has extended ones.
	s.process, err = process.Start(filepath.Join(s.dir, "versitygw.log"), s.binary,
		"--port", s.addr, "--access", s.AccessKey, "--secret", s.SecretKey, "--region", Region, "--health", "/health",
		"posix", "--versioning-dir", s.folder("versions"), "--sidecar", s.folder("attributes"), s.folder("objects"))
	if err != nil {
		s.tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := s.process.Until(ctx, s.healthy); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *Server) healthy(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/health", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("/health: %s", answer.Status)
	}
	return nil
}

// Stop ends the service with SIGTERM.
func (s *Server) Stop() {
	s.tb.Helper()
	if _, _, err := s.process.Terminate(20 * time.Second); err != nil {
		s.tb.Fatal(err)
	}
}

// Kill ends the service with SIGKILL.
func (s *Server) Kill() { s.process.Kill() }

// Tail returns the last lines that the service printed.
func (s *Server) Tail() string { return s.process.Tail() }

// Client returns a client with all permissions.
func (s *Server) Client() *s3.Client {
	return s3.New(s3.Options{
		Region: Region, BaseEndpoint: &s.Endpoint, UsePathStyle: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}, nil
		}),
	})
}

// CreateLockedBucket creates a bucket with Object Lock, and thus with versions, that locks
// nothing by itself.
func (s *Server) CreateLockedBucket(ctx context.Context, name string) {
	s.tb.Helper()
	s.createBucket(ctx, name, true)
}

// CreateBucket creates a bucket that cannot lock objects.
func (s *Server) CreateBucket(ctx context.Context, name string) {
	s.tb.Helper()
	s.createBucket(ctx, name, false)
}

func (s *Server) createBucket(ctx context.Context, name string, locked bool) {
	s.tb.Helper()
	if _, err := s.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: &locked}); err != nil {
		s.tb.Fatalf("create bucket %s: %v\n%s", name, err, s.Tail())
	}
}

// CredentialsFile writes the keys into a file as AWS's shared credentials are, and returns
// its name.
func (s *Server) CredentialsFile() string {
	s.tb.Helper()
	file := s.folder("credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s.AccessKey, s.SecretKey)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	return file
}
