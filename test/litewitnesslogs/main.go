// Command litewitnesslogs adds logs to the database of a litewitness (filippo.io/torchwood) that
// has been started once, as its witnessctl does with add-log and add-key:
//
//	litewitnesslogs DATABASE [ORIGIN VKEY]...
//
// A log that is there is left alone. It stands in for witnessctl, whose other verbs need modules
// that not every module proxy has; it has a module of its own for the sake of SQLite.
package main

import (
	"errors"
	"fmt"
	"os"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// emptyRoot is the root hash of the empty tree, which is what litewitness knows of a new log.
const emptyRoot = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "litewitnesslogs:", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	if len(args)%2 != 1 {
		return errors.New("want DATABASE [ORIGIN VKEY]...")
	}
	conn, err := sqlite.OpenConn(args[0], sqlite.OpenReadWrite)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer sqlitex.Transaction(conn)(&err)
	for logs := args[1:]; len(logs) > 0; logs = logs[2:] {
		if err := add(conn, logs[0], logs[1]); err != nil {
			return fmt.Errorf("add %s: %w", logs[0], err)
		}
	}
	return nil
}

func add(conn *sqlite.Conn, origin, vkey string) error {
	if err := sqlitex.Execute(conn, "INSERT OR IGNORE INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)",
		&sqlitex.ExecOptions{Args: []any{origin, emptyRoot}}); err != nil {
		return err
	}
	if conn.Changes() == 0 {
		return nil
	}
	return sqlitex.Execute(conn, "INSERT INTO key (origin, key) VALUES (?, ?)", &sqlitex.ExecOptions{Args: []any{origin, vkey}})
}
