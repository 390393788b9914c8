package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/rest"
)

// tokenFileVariable names the file with the token of who gives an order, if no flag does.
const tokenFileVariable = "UNDERSTUDY_TOKEN_FILE"

// operator is a verb that gives the daemon an order, in the name of the owner of a token.
type operator struct {
	tokenFile string
	ticket    string
}

// flags adds what every order needs.
func (o *operator) flags(cmd *cobra.Command, ticket bool) *cobra.Command {
	cmd.Flags().StringVar(&o.tokenFile, "token-file", "", "`FILE` with your token (default: the one that "+tokenFileVariable+" names)")
	if ticket {
		cmd.Flags().StringVar(&o.ticket, "ticket", "", "`TICKET` where it is written down that this was agreed on")
	}
	return cmd
}

// token reads the token.
func (o *operator) token() (string, error) {
	name := o.tokenFile
	setDefault(&name, os.Getenv(tokenFileVariable))
	if name == "" {
		return "", fmt.Errorf("say who you are: --token-file is the file with your token, or %s names it; \"understudy log token\" makes one", tokenFileVariable)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read your token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if !access.IsToken(token) {
		return "", fmt.Errorf("read your token: there is none in %s, or more than that; it has one line, us_ and 64 hexadecimal digits, as \"understudy log token\" prints it first", name)
	}
	return token, nil
}

// order gives the daemon an order. request is made with the data directory that is meant.
func (o *operator) order(cmd *cobra.Command, path string, request func(dataDir string) any) (done rest.Done, err error) {
	token, err := o.token()
	if err != nil {
		return done, err
	}
	c, err := configOf(cmd)
	if err != nil {
		return done, err
	}
	err = askDaemonAs(cmd.Context(), c, token, path, request(c.absoluteDataDir()), &done)
	return done, explainNoDaemon(err)
}

func explainNoDaemon(err error) error {
	if errors.Is(err, errNoDaemon) {
		return fmt.Errorf("%w: start it with \"understudy serve\"", err)
	}
	return err
}

// look reads something of the running daemon.
func look(ctx context.Context, cmd *cobra.Command, path string, answer any) error {
	c, err := configOf(cmd)
	if err != nil {
		return err
	}
	return explainNoDaemon(askDaemon(ctx, c, path, nil, answer))
}
