package storage

import (
	"context"
	"fmt"
	"log/slog"
)

// fatalError is what Pebble calls Fatalf with, and what Fatalf panics with.
type fatalError struct {
	message string
	cause   error // nil if there was none among the arguments
}

func (e *fatalError) Error() string { return e.message }
func (e *fatalError) Unwrap() error { return e.cause }

// fail reports an error after which the process must end; first is false if it is not the
// first one.
func (db *DB) fail(err error) (first bool) {
	if !db.dead.CompareAndSwap(nil, &err) {
		return false
	}
	db.logger.Error("the disk failed; stopping", "error", err.Error()) // the engine's errors have stack traces
	if db.fatal != nil {
		db.fatal(err)
	}
	return true
}

// Err returns the error after which the process must end, or nil.
func (db *DB) Err() error {
	if err := db.dead.Load(); err != nil {
		return *err
	}
	return nil
}

// recoverFatal turns Pebble's Fatalf on this goroutine into an error.
func (db *DB) recoverFatal(err *error) {
	switch r := recover().(type) {
	case nil:
	case *fatalError:
		*err = r
	default:
		panic(r)
	}
}

// pebbleLogger receives Pebble's log lines: progress is dropped, trouble is kept.
type pebbleLogger struct{ db *DB }

func (l pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.db.logger.Log(context.Background(), slog.LevelError, fmt.Sprintf(format, args...))
}

// Fatalf is called by Pebble when a WAL or MANIFEST write or sync failed. It must not
// return.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := &fatalError{message: fmt.Sprintf(format, args...)}
	for _, arg := range args {
		if cause, ok := arg.(error); ok {
			err.cause = cause
		}
	}
	if !l.db.fail(err) && l.db.fatal != nil {
		select {} // the process is about to end
	}
	panic(err)
}
