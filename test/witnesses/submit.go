package witnesses

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Request is the body of an add-checkpoint request, in parts that need not be right.
type Request struct {
	Old        string   // first line
	Proof      []string // lines
	Checkpoint string   // signed note
}

// String returns the body.
func (r Request) String() string {
	return strings.Join(append([]string{r.Old}, r.Proof...), "\n") + "\n\n" + r.Checkpoint
}

// Answer is a witness's answer to one request.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// String returns the answer for an error's text.
func (a Answer) String() string {
	return fmt.Sprintf("%d %q with Content-Type %q", a.Status, a.Body, a.Header.Values("Content-Type"))
}

// Submit posts a body to a witness's add-checkpoint.
func Submit(ctx context.Context, client *http.Client, prefix, body string) (Answer, error) {
	return do(ctx, client, http.MethodPost, prefix+"/add-checkpoint", body)
}

// do makes a request and reads its answer, of which no honest one has a megabyte.
func do(ctx context.Context, client *http.Client, method, url, body string) (Answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return Answer{}, fmt.Errorf("read answer of %s: %w", url, err)
	}
	return Answer{Status: response.StatusCode, Header: response.Header, Body: string(raw)}, nil
}
