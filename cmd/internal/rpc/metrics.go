package rpc

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// metrics counts calls. Methods are those that are registered: calls of others get no
// further than gRPC.
type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_grpc_requests_total",
			Help: "Calls answered over gRPC, by method and status code; streams when they end.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "understudy_grpc_request_duration_seconds",
			Help:    "Time to answer a call over gRPC; not of streams, which last as long as the client reads.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"method"}),
	}
	r.MustRegister(m.calls, m.seconds)
	return m
}

// begin makes the series of the failures that operators are alerted about: an increase is
// seen only in a series that is there before.
func (m *metrics) begin(s *grpc.Server) {
	for service, info := range s.GetServiceInfo() {
		for _, method := range info.Methods {
			for _, code := range []codes.Code{codes.OK, codes.DataLoss, codes.Internal} {
				m.calls.WithLabelValues("/"+service+"/"+method.Name, code.String())
			}
		}
	}
}

func (m *metrics) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	answer, err := handler(ctx, request)
	m.calls.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
	m.seconds.WithLabelValues(info.FullMethod).Observe(time.Since(start).Seconds())
	return answer, err
}

func (m *metrics) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := handler(service, stream)
	m.calls.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
	return err
}
