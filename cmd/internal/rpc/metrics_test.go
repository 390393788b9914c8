package rpc_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/understudy-log/understudy/cmd/internal/rpc"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// TestMetrics: calls are counted by method and code, also those that are refused or panic,
// and answers are timed.
func TestMetrics(t *testing.T) {
	s := newStage(t, 10)
	registry := prometheus.NewRegistry()
	server := rpc.NewServer(rpc.Config{Mirrors: only(s.mirror), Logger: slog.New(slog.DiscardHandler), Registerer: registry},
		grpc.ChainUnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if _, ok := in.(*understudyv1.GetConsistencyProofRequest); ok {
				panic("a defect")
			}
			return handler(ctx, in)
		}))
	api := understudyv1.NewLogServiceClient(serve(t, server)())
	const prefix = "/understudy.v1.LogService/"
	if _, ok := callMetric(t, registry, prefix+"GetEntry", "DataLoss"); !ok {
		t.Error("failures have no series before the first")
	}
	for index := range uint64(12) {
		api.GetEntry(t.Context(), &understudyv1.GetEntryRequest{Origin: origin, Entry: &understudyv1.GetEntryRequest_Index{Index: index}})
	}
	api.GetConsistencyProof(t.Context(), &understudyv1.GetConsistencyProofRequest{Origin: origin})
	stream, err := api.ListEntries(t.Context(), &understudyv1.ListEntriesRequest{Origin: origin})
	check(t, err)
	for err == nil {
		_, err = stream.Recv()
	}
	server.GracefulStop() // the stream has been counted, too
	for _, want := range []struct {
		method, code string
		n            float64
	}{{"GetEntry", "OK", 10}, {"GetEntry", "NotFound", 2}, {"GetConsistencyProof", "Internal", 1}, {"ListEntries", "OK", 1}, {"GetEntry", "", 12}} {
		if n, _ := callMetric(t, registry, prefix+want.method, want.code); n != want.n {
			t.Errorf("%s %s: %v, want %v", want.method, want.code, n, want.n)
		}
	}
	if _, ok := callMetric(t, registry, prefix+"ListEntries", ""); ok {
		t.Error("streams are timed")
	}
}

// callMetric returns how many calls were counted with a code, or how many were timed.
func callMetric(t *testing.T, g prometheus.Gatherer, method, code string) (n float64, ok bool) {
	t.Helper()
	families, err := g.Gather()
	check(t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["method"] != method || labels["code"] != code {
				continue
			}
			switch family.GetName() {
			case "understudy_grpc_requests_total":
				return m.GetCounter().GetValue(), true
			case "understudy_grpc_request_duration_seconds":
				return float64(m.GetHistogram().GetSampleCount()), true
			}
		}
	}
	return 0, false
}
