package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/understudy-log/understudy/mirror"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive"
)

// Reasons of refusals about the archive.
const (
	reasonNoArchive   = "NO_ARCHIVE"
	reasonPackMissing = "PACK_MISSING"
	noArchiveMessage  = "no evidence packs are made here: the operator needs \"archive\" in the configuration"
)

const (
	packChunk     = 64 << 10 // bytes of a message of GetPack
	maxRows       = 1000     // of one ListCheckpoints
	maxRowsAnswer = 8 << 20  // bytes of their notes and cosignatures
)

// archiveService implements understudy.v1.ArchiveService.
type archiveService struct {
	understudyv1.UnimplementedArchiveServiceServer
	archive *archive.Archive // nil: none
	tree    func(origin string) *storage.Tree
	logger  *slog.Logger
}

// ListPacks implements understudyv1.ArchiveServiceServer.
func (s *archiveService) ListPacks(_ context.Context, in *understudyv1.ListPacksRequest) (*understudyv1.ListPacksResponse, error) {
	if s.archive == nil {
		return nil, statusOf(codes.FailedPrecondition, reasonNoArchive, noArchiveMessage, nil)
	}
	st := s.archive.Status()
	out := &understudyv1.ListPacksResponse{Key: st.Key, Next: timestamppb.New(st.Next), Failing: st.Problem != nil}
	for _, p := range s.archive.Packs() {
		if p.Number >= in.GetFromNumber() {
			out.Packs = append(out.Packs, packMessage(p))
		}
	}
	return out, nil
}

func packMessage(p archive.PackStatus) *understudyv1.Pack {
	out := &understudyv1.Pack{
		Number: p.Number, Name: p.Name, SizeBytes: p.Size, Sha256: p.SHA256[:], ManifestSha256: p.Manifest[:],
		From: timestamppb.New(p.From), To: timestamppb.New(p.To), Built: timestamppb.New(p.Built), Stamped: p.Stamped,
	}
	for _, name := range slices.Sorted(maps.Keys(p.Stored)) {
		d := p.Stored[name]
		m := &understudyv1.PackDelivery{Destination: name, Verified: timestamppb.New(d.VerifiedAt), Mode: d.Mode, LegalHold: d.LegalHold}
		if !d.RetainUntil.IsZero() {
			m.RetainUntil = timestamppb.New(d.RetainUntil)
		}
		out.Deliveries = append(out.Deliveries, m)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Failures)) {
		f := p.Failures[name]
		out.Failures = append(out.Failures, &understudyv1.PackFailure{Destination: name, Since: timestamppb.New(f.Since), Tries: uint32(f.Tries)})
	}
	return out
}

// GetPack implements understudyv1.ArchiveServiceServer.
func (s *archiveService) GetPack(in *understudyv1.GetPackRequest, out grpc.ServerStreamingServer[understudyv1.GetPackResponse]) error {
	if s.archive == nil {
		return statusOf(codes.FailedPrecondition, reasonNoArchive, noArchiveMessage, nil)
	}
	number := in.GetNumber()
	if number == 0 {
		number = uint64(s.archive.Status().Packs)
	}
	f, p, err := s.archive.Pack(number)
	switch {
	case errors.Is(err, archive.ErrNoPack):
		return statusOf(codes.NotFound, mirror.ReasonNotFound, err.Error()+"; \"understudy archive list\" shows them", nil)
	case err != nil:
		s.logger.Error("an evidence pack cannot be read", "number", number, "error", err)
		return statusOf(codes.Unavailable, reasonPackMissing, "the file of this pack cannot be read here; it may be at one of its destinations", nil)
	}
	defer f.Close()
	message, chunk := &understudyv1.GetPackResponse{Pack: packMessage(p)}, make([]byte, packChunk)
	for {
		n, err := io.ReadFull(f, chunk)
		if n > 0 || message.Pack != nil {
			message.Data = chunk[:n]
			if err := out.Send(message); err != nil {
				return err
			}
			message = &understudyv1.GetPackResponse{}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			s.logger.Error("an evidence pack cannot be read", "number", number, "error", err)
			return statusOf(codes.Unavailable, reasonPackMissing, "the file of this pack cannot be read here; it may be at one of its destinations", nil)
		}
	}
}

// errPage ends a page of rows.
var errPage = errors.New("the page is full")

// ListCheckpoints implements understudyv1.ArchiveServiceServer.
func (s *archiveService) ListCheckpoints(ctx context.Context, in *understudyv1.ListCheckpointsRequest) (*understudyv1.ListCheckpointsResponse, error) {
	tree := s.tree(in.GetOrigin())
	if tree == nil {
		return nil, unknownOrigin(in.GetOrigin())
	}
	v := tree.View()
	defer v.Close()
	rows, _ := v.State().ArchiveRows()
	out := &understudyv1.ListCheckpointsResponse{Rows: rows}
	size := int(in.GetPageSize())
	if size == 0 || size > maxRows {
		size = maxRows
	}
	bytes := 0
	err := v.Archive(max(in.GetFromRow(), 1), rows, func(r storage.ArchiveRow) error {
		if len(out.Checkpoints) == size || bytes > maxRowsAnswer {
			return errPage
		}
		hash, c := r.Hash(in.GetOrigin()), r.Checkpoint
		m := &understudyv1.ArchivedCheckpoint{
			Row: r.Number, Previous: r.Previous[:], RowHash: hash[:], Checkpoint: c.Raw, FirstSeen: stampOf(c.FirstSeen), LastSeen: stampOf(c.LastSeen),
			Source: strings.ToValidUTF8(c.Source, ""), Size: c.Size, Root: c.Root[:], Relation: r.Relation.String(), Cosignatures: r.Cosignatures,
		}
		for _, h := range r.Proof {
			m.Proof = append(m.Proof, h[:])
		}
		bytes += len(c.Raw) + 32*len(r.Proof)
		for _, line := range r.Cosignatures {
			bytes += len(line)
		}
		out.Checkpoints = append(out.Checkpoints, m)
		return ctx.Err()
	})
	if err != nil && err != errPage {
		return nil, refuse(in.GetOrigin(), s.logger, err)
	}
	return out, nil
}

func stampOf(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }
