package main

import (
	"errors"
	"fmt"
)

// Exit codes of every verb.
const (
	exitGood   = 0 // it ran, and what it looked at is good
	exitWrong  = 1 // it ran, and what it looked at is wrong
	exitNotRun = 2 // it could not run: usage, configuration, network, disk
)

// exitError is an error that ends the program with a code of its own; any other
// error ends it with exitNotRun.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *exitError) Unwrap() error { return e.err }

// wrongf is the error of a verb that ran and found its subject wrong.
func wrongf(format string, args ...any) error {
	return &exitError{exitWrong, fmt.Errorf(format, args...)}
}

// exitCode is the exit code that err asks for.
func exitCode(err error) int {
	if err == nil {
		return exitGood
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return exitNotRun
}
