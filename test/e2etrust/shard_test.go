package e2etrust

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// proxyTo starts a forward proxy for hosts, each of which stands for an address.
func proxyTo(t *testing.T, hosts map[string]string) string {
	t.Helper()
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		if to, ok := hosts[r.In.URL.Host]; ok {
			r.SetURL(must(url.Parse(to)))
		}
	}})
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// TestShardIsAnnounced: a Rekor v2 log that appears in the trust material is followed at once, as the
// one before it, also after a restart with everything gone, until its key is withdrawn.
func TestShardIsAnnounced(t *testing.T) {
	const first, second, other = "log2025-1.us.test", "log2026-1.us.test", "log2026-1.them.test"
	logs, roots, hosts := map[string]*rekor.Log{}, map[string][]byte{}, map[string]string{}
	for _, origin := range []string{first, second, other} {
		log := must(rekor.Start(t.Context(), rekor.Config{Binary: must(tool.Path(t.Context(), "rekor-tiles")), Dir: t.TempDir(), Origin: origin}))
		t.Cleanup(log.Close)
		if _, err := log.Write(t.Context(), 3, func(int) {}); err != nil {
			t.Fatal(err)
		}
		logs[origin], hosts[origin] = log, strings.TrimSuffix(log.ReadURL, "/api/v2")
		roots[origin] = bytes.ReplaceAll(must(os.ReadFile(log.TrustedRootFile)), []byte("https://log"), []byte("http://log"))
	}
	t.Setenv("HTTP_PROXY", proxyTo(t, hosts))
	w := newWorld(t)
	w.daemon.Kill()
	config := string(must(os.ReadFile(w.config)))
	w.write(w.config, []byte(strings.Replace(config, config[strings.Index(config, "logs:"):],
		fmt.Sprintf("logs: [{name: us, url: 'http://%s/api/v2', origin: %s, poll: 100ms}]\n", first, first), 1)))
	w.start()
	publish := func(root []byte) { w.repo.Publish(t, root, time.Now().Add(time.Hour)) }
	publish(roots[first])
	w.status("us (" + first + ")\n  held      3 of 3")
	publish(must(trust.CombineRoots(roots[first], roots[second], roots[other])))
	w.status("us/" + second + " (" + second + ")\n  held      3 of 3")
	if out := w.understudy("status"); strings.Contains(out, other) {
		t.Errorf("a log of somebody else is followed:\n%s", out)
	}
	if _, err := logs[second].Write(t.Context(), 2, func(int) {}); err != nil {
		t.Fatal(err)
	}
	w.status("us/" + second + " (" + second + ")\n  held      5 of 5")
	proof := filepath.Join(t.TempDir(), "proof")
	for _, ask := range [][]string{{"--log", "us/" + second}, {"--origin", second}} {
		w.understudy(append([]string{"proof", "inclusion", "4", "-o", proof}, ask...)...)
		w.understudy("entry", "4", "--output", proof+".entry", ask[0], ask[1])
		w.understudy("verify", proof, "--entry", proof+".entry")
	}
	w.repo.Down(true)
	for _, log := range logs {
		log.Kill()
	}
	w.daemon.Kill()
	w.start()
	w.status("us/" + second + " (" + second + ")\n  held      5 of 5")
	w.daemon.Kill()
	out := w.understudy("status")
	if !strings.Contains(out, "us/"+second+" ("+second+")") {
		t.Errorf("the status of a stopped daemon:\n%s", out)
	}
	w.understudy("check")
	w.understudy("proof", "inclusion", "4", "-o", proof, "--log", "us/"+second)
	w.understudy("verify", proof, "--entry", proof+".entry")
	w.start()
	w.repo.Down(false)
	publish(roots[first])
	w.status("lists no key for \"" + second + "\"")
	if out := w.understudy("status"); !strings.Contains(out, "us/"+second+" ("+second+")\n  held      5 of 5") {
		t.Errorf("what was held is gone:\n%s", out)
	}
}
