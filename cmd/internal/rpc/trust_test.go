package rpc

import (
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/understudy-log/understudy/mirror/trust"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/tufrepo"
)

const emptyRoot = `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`

// TestTrustService: each answer and each refusal.
func TestTrustService(t *testing.T) {
	wants := func(what string, err error, code codes.Code, reason string) {
		t.Helper()
		got := ""
		for _, detail := range status.Convert(err).Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok {
				got = info.GetReason()
			}
		}
		if status.Code(err) != code || got != reason {
			t.Errorf("%s: %v (%s), want %s (%s)", what, err, got, code, reason)
		}
	}
	get := func(s *trustService, name string, at *timestamppb.Timestamp) (*understudyv1.GetTrustMaterialResponse, error) {
		return s.GetTrustMaterial(t.Context(), &understudyv1.GetTrustMaterialRequest{Name: name, AsOf: at})
	}
	s := &trustService{logger: slog.New(slog.DiscardHandler)}
	_, err := get(s, "", nil)
	wants("no repository", err, codes.FailedPrecondition, reasonNoRepository)
	_, err = s.ListTrustMaterial(t.Context(), &understudyv1.ListTrustMaterialRequest{})
	wants("no repository", err, codes.FailedPrecondition, reasonNoRepository)

	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	repo := tufrepo.New(t, []byte(emptyRoot))
	if s.repository, err = trust.NewRepository(trust.RepositoryConfig{DB: db, URL: repo.URL, Root: repo.PublishRoot(t)}); err != nil {
		t.Fatal(err)
	}
	_, err = get(s, "", nil)
	wants("nothing yet", err, codes.Unavailable, "NOT_YET_MIRRORED")
	if err := s.repository.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	answer, err := get(s, "", nil)
	if m := answer.GetMaterial(); err != nil || string(answer.GetContent()) != emptyRoot || m.GetName() != "trusted_root.json" || len(m.GetSha256()) != 32 ||
		m.GetUntil() != nil || m.GetTargetsVersion() != 1 || time.Since(m.GetSeen().AsTime()) > time.Minute || answer.GetChecked() == nil {
		t.Errorf("now: %v, %v", answer, err)
	}
	_, err = get(s, "trusted_root.json", timestamppb.New(time.Now().Add(-time.Hour)))
	wants("before", err, codes.Unavailable, reasonBeforeFirst)
	_, err = get(s, "other.json", nil)
	wants("no such target", err, codes.NotFound, "NOT_FOUND")
	_, err = get(s, "", &timestamppb.Timestamp{Nanos: -1})
	wants("no time", err, codes.InvalidArgument, "INVALID_REQUEST")
	for name, want := range map[string]int{"": 1, "trusted_root.json": 1, "other.json": 0} {
		list, err := s.ListTrustMaterial(t.Context(), &understudyv1.ListTrustMaterialRequest{Name: name})
		if err != nil || len(list.GetMaterials()) != want || list.GetChecked() == nil {
			t.Errorf("list of %q: %v, %v", name, list, err)
		}
	}
	if err := db.Records("tuf ", func(name string, _ []byte) error { return db.PutRecord(name, []byte("rubbish")) }); err != nil {
		t.Fatal(err)
	}
	_, err = get(s, "", nil)
	wants("damaged", err, codes.DataLoss, "STORAGE_DAMAGED")
}
