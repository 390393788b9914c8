package rest

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// countRequests counts what mux answers, by route and status code. Both are
// bounded: routes are the patterns of mux, codes those that we send.
func countRequests(r prometheus.Registerer, mux *http.ServeMux) http.Handler {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "understudy_http_requests_total",
		Help: "Requests answered on the public HTTP address.",
	}, []string{"route", "code"})
	r.MustRegister(requests)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		recorder := &codeRecorder{ResponseWriter: w, code: http.StatusOK}
		mux.ServeHTTP(recorder, req)
		route := "none"
		if _, path, ok := strings.Cut(req.Pattern, " "); ok {
			route = path
		}
		requests.WithLabelValues(route, strconv.Itoa(recorder.code)).Inc()
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

// Unwrap serves http.ResponseController.
func (r *codeRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
