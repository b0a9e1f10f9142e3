package runbook

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Holder is who has a lease.
type Holder struct {
	Actor
	What  string    `json:"what"`
	Since time.Time `json:"since"`
}

// HeldError says that somebody else is at it.
type HeldError struct{ Holder Holder }

func (e *HeldError) Error() string {
	if e.Holder.User == "" {
		return "take the lease: another Leeward holds it, and left no note"
	}
	return fmt.Sprintf("take the lease: %s holds it for %s since %s (process %d)", e.Holder.Actor, e.Holder.What,
		e.Holder.Since.UTC().Format(time.RFC3339), e.Holder.PID)
}

// Lease is the right to run a runbook. The kernel's lock is the lease and ends with
// the process; the note in the file tells others whom to ask.
type Lease struct{ f *os.File }

// Take takes the lease whose file is path, without waiting.
func Take(path string, who Actor, what string, now time.Time) (*Lease, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("take the lease: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("take the lease: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, dr.WithHint(&HeldError{readHolder(f)}, "ask that person; the lease ends with that process, and nothing else ends it")
	}
	if err == nil {
		err = note(f, Holder{Actor: who, What: what, Since: now.UTC().Truncate(time.Second)})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take the lease: %w", err), f.Close())
	}
	return &Lease{f}, nil
}

// readHolder reads the note; one that is torn or not there yet names nobody.
func readHolder(f *os.File) (h Holder) {
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0)
	if json.Unmarshal(b[:n], &h) != nil {
		return Holder{}
	}
	return h
}

func note(f *os.File, h Holder) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	return err
}

// Release gives the lease back. The file stays: removing it would let two hold files
// of one name.
func (l *Lease) Release() error { return errors.Join(l.f.Truncate(0), l.f.Close()) }
