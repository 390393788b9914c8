package rest

import (
	"bytes"
	"html/template"
	"net/http"

	"github.com/understudy-log/understudy/mirror"
)

// page is what a person sees who opens the public address in a browser.
var page = template.Must(template.New("index").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Understudy</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color-scheme: light dark }
table { border-collapse: collapse } th, td { text-align: left; padding: .2em 1em .2em 0; vertical-align: top }
td.number { text-align: right }
</style>
<h1>Understudy</h1>
<p>This server holds verified copies of transparency logs and serves them when they
cannot be reached. What it serves was signed by the logs, not by this server: verify it
with their keys.</p>
<table>
<tr><th>Log<th>Entries held<th>Upstream<th>Answers are<th>Checkpoint
{{range .Logs}}<tr><td>{{.Origin}}<td class="number">{{if eq .Coverage "pinned"}}{{.Pins.Count}} pinned{{else}}{{.NextIndex}}{{end}}<td>{{.UpstreamState}}<td>{{.Source}}<td>{{if eq .Coverage "pinned"}}<a href="/api/v1/log">log info</a>{{else}}<a href="/{{.OriginHash}}/checkpoint">checkpoint</a>{{end}}
{{end}}</table>
<p>Each log is served as <a href="https://c2sp.org/tlog-tiles">tlog-tiles</a> under its
checkpoint's address; <a href="/logs">/logs</a> lists them for programs. Entries and
proofs are served over gRPC.</p>
{{with .Rekor}}<p>Clients of Rekor v1 are served at <code>/api/v1</code>, with the entries of {{.}}: give
them this address as the URL of Rekor. Their trust root stays as it is.</p>
{{end}}</html>
`))

func (p *public) index(w http.ResponseWriter, _ *http.Request) {
	var out bytes.Buffer
	if err := page.Execute(&out, struct {
		Logs  []mirror.Status
		Rekor string
	}{p.statuses(), p.rekor}); err != nil {
		p.logger.Error("render index page", "error", err)
		refuse(w, http.StatusInternalServerError, "the page cannot be shown; see /logs")
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	w.Write(out.Bytes())
}
