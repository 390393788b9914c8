package rekorv1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// trillian is the module whose schema the database gets: that of the pinned programs.
const trillian = "github.com/google/trillian@v1.7.3"

// sequencerInterval is how often Trillian's signer looks for new entries: short, because a
// write waits for it.
const sequencerInterval = 50 * time.Millisecond

// ErrNoMariaDB says that this machine has no MariaDB server.
var ErrNoMariaDB = errors.New("there is no mariadbd (Debian: mariadb-server-core)")

// MariaDB returns the path of the database server, or ErrNoMariaDB.
func MariaDB() (string, error) {
	for _, name := range []string{"mariadbd", "/usr/sbin/mariadbd"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoMariaDB
}

// database is a MariaDB server that any local user may use.
type database struct {
	binary, dir, addr string
}

// newDatabase makes a database in dir with Trillian's schema.
func newDatabase(ctx context.Context, dir, addr string) (*database, error) {
	binary, err := MariaDB()
	if err != nil {
		return nil, err
	}
	schema, err := trillianSchema(ctx)
	if err != nil {
		return nil, err
	}
	d := &database{binary: binary, dir: filepath.Join(dir, "mariadb"), addr: addr}
	sql := filepath.Join(dir, "init.sql")
	err = errors.Join(
		os.Mkdir(d.dir, 0o700),
		os.WriteFile(sql, []byte("CREATE DATABASE search;\nCREATE DATABASE trillian;\nUSE trillian;\n"+schema), 0o600))
	if err != nil {
		return nil, err
	}
	// A database that was never shut down does not survive SIGKILL: its system tablespace is
	// on disk only then.
	p, err := d.start(ctx, "--init-file="+sql)
	if err != nil {
		return nil, err
	}
	_, _, err = p.Terminate(startLimit)
	return d, err
}

// dsn names one database in the form of Go's MySQL driver.
func (d *database) dsn(name string) string { return fmt.Sprintf("root@tcp(%s)/%s", d.addr, name) }

// start runs the server and waits until it greets. Nothing but what it is told here counts:
// no configuration of the machine, and no system tables, which --skip-grant-tables spares.
func (d *database) start(ctx context.Context, more ...string) (*process.Process, error) {
	at := mustSplit(d.addr)
	args := []string{"--no-defaults", "--datadir=" + d.dir, "--skip-grant-tables",
		"--bind-address=" + at.host, "--port=" + at.port, "--socket=socket", // below datadir
		"--innodb-flush-log-at-trx-commit=2"} // outlives SIGKILL, and no more is asked
	if os.Geteuid() == 0 {
		args = append(args, "--user=root") // it refuses root unless told
	}
	p, err := process.Start(filepath.Join(filepath.Dir(d.dir), "mariadb.log"), d.binary, append(args, more...)...)
	if err != nil {
		return nil, err
	}
	// The greeting comes after the initial SQL.
	err = p.Until(ctx, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", d.addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err = io.ReadFull(conn, make([]byte, 5))
		return err
	})
	if err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// startBackend runs MariaDB and Trillian.
func (l *Log) startBackend(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	database, err := l.database.start(ctx)
	if err != nil {
		return err
	}
	l.backend = append(l.backend, database)
	spare, err := process.FreeAddrs(1)
	if err != nil {
		return err
	}
	storage := []string{"--storage_system=mysql", "--mysql_uri=" + l.database.dsn("trillian"), "--quota_system=noop", "--http_endpoint="}
	for _, program := range [][]string{
		{"trillian-server", "--rpc_endpoint=" + l.trillianAddr},
		{"trillian-signer", "--rpc_endpoint=" + spare[0], "--force_master", "--sequencer_interval=" + sequencerInterval.String(), "--batch_size=1000"},
	} {
		binary, err := tool.Path(ctx, program[0])
		if err != nil {
			return err
		}
		p, err := process.Start(filepath.Join(l.dir, program[0]+".log"), binary, append(program[1:], storage...)...)
		if err != nil {
			return err
		}
		l.backend = append(l.backend, p)
	}
	return l.backend[1].Until(ctx, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", l.trillianAddr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// newTree makes a tree in Trillian and returns its ID.
func (l *Log) newTree(ctx context.Context) (uint64, error) {
	binary, err := tool.Path(ctx, "trillian-createtree")
	if err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, binary, "--admin_server="+l.trillianAddr).Output()
	if err != nil {
		return 0, fmt.Errorf("create tree: %w\n%s", err, l.backend[1].Tail())
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("create tree: %w", err)
	}
	return id, nil
}

// trillianSchema returns the SQL that makes Trillian's tables, out of its module.
func trillianSchema(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", trillian)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("download %s: %w\n%s", trillian, err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", fmt.Errorf("download %s: %w", trillian, err)
	}
	schema, err := os.ReadFile(filepath.Join(module.Dir, "storage", "mysql", "schema", "storage.sql"))
	return string(schema), err
}
