package rest

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// countRequests counts and times what next answers, by route and status code. Both are
// bounded: routes are the patterns of a ServeMux in next, which are those of paths, codes
// those that we send.
func countRequests(r prometheus.Registerer, paths []string, next http.Handler) http.Handler {
	return countRequestsAs(r, "understudy_http", "on the public HTTP address", paths, next)
}

// countRequestsOf is countRequests for an address of a private log.
func countRequestsOf(r prometheus.Registerer, address string, paths []string, next http.Handler) http.Handler {
	return countRequestsAs(prometheus.WrapRegistererWith(prometheus.Labels{"address": address}, r), "understudy_private_log_http", "at the addresses of the private log", paths, next)
}

func countRequestsAs(r prometheus.Registerer, prefix, where string, paths []string, next http.Handler) http.Handler {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "_requests_total",
		Help: "Requests answered " + where + ", by route and status code.",
	}, []string{"route", "code"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    prefix + "_request_duration_seconds",
		Help:    "Time to answer a request " + where + ", until the client has taken the answer.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
	}, []string{"route"})
	r.MustRegister(requests, seconds)
	for _, route := range paths { // an increase is seen only in a series that is there before
		requests.WithLabelValues(route, "500")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		start := time.Now()
		recorder := &codeRecorder{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(recorder, req)
		route := "none"
		if _, path, ok := strings.Cut(req.Pattern, " "); ok {
			route = path
		}
		requests.WithLabelValues(route, strconv.Itoa(recorder.code)).Inc()
		seconds.WithLabelValues(route).Observe(time.Since(start).Seconds())
	})
}

type codeRecorder struct {
	http.ResponseWriter
	code int
}

func (r *codeRecorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

// Flush serves gRPC, which asks for it by type.
func (r *codeRecorder) Flush() { http.NewResponseController(r.ResponseWriter).Flush() }

// Unwrap serves http.ResponseController.
func (r *codeRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
