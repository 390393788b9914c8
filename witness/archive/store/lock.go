package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// lock waits until no one else, in this process or in another, changes the folder.
func (d *Directory) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	leave := func() { <-d.turn }
	f, err := os.OpenFile(d.file(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there is no folder %s: is it mounted?", d.cfg.Path)
	}
	if err != nil {
		leave()
		return nil, err
	}
	for {
		switch err := tryLock(f); {
		case err == nil:
			return func() { f.Close(); leave() }, nil // closing it unlocks
		case !errors.Is(err, errLocked):
			f.Close()
			leave()
			return nil, fmt.Errorf("lock %s: %w", d.cfg.Path, err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			f.Close()
			leave()
			return nil, fmt.Errorf("another process is busy in %s: %w", d.cfg.Path, context.Cause(ctx))
		}
	}
}

// errLocked says that another process has the lock.
var errLocked = errors.New("locked")
