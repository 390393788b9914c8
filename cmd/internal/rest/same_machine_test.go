package rest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The operator's address on loopback is no site, whatever a browser was told about that site's address.
func TestSameMachine(t *testing.T) {
	server := httptest.NewServer(sameMachine(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer server.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	for host, want := range map[string]int{
		"127.0.0.1:" + port: http.StatusOK, "localhost:" + port: http.StatusOK, "[::1]:" + port: http.StatusOK, OwnName: http.StatusOK, "10.0.0.7": http.StatusOK,
		"evil.example:" + port: http.StatusForbidden, "localhost.evil.example": http.StatusForbidden, "127.0.0.1.evil.example:" + port: http.StatusForbidden,
	} {
		r, err := http.NewRequest(http.MethodGet, server.URL+"/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("asked as %s: %d, want %d", host, answer.StatusCode, want)
		}
	}
}
