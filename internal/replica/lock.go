package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
)

// ErrLocked says that another process holds what was asked for.
var ErrLocked = errors.New("in use by another leeward")

// owner is what a lock file tells of its holder. The lock itself is the kernel's
// flock, which ends with the process; the text only names whom to look for.
type owner struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// fileLock is a held lock. The file stays when the lock is released: removing it
// would let two processes lock two files of one name.
type fileLock struct{ f *os.File }

// lockFile takes the exclusive lock at path without waiting. what names the
// locked thing in the refusal.
func lockFile(path, what string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", what, err)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, lockedBy(f, what)
		}
		return nil, fmt.Errorf("lock %s: %w", what, err)
	}
	if err := writeOwner(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", what, err), f.Close())
	}
	return &fileLock{f: f}, nil
}

// release empties the owner's note and lets the lock go.
func (l *fileLock) release() error {
	return errors.Join(l.f.Truncate(0), l.f.Close())
}

func lockedBy(f *os.File, what string) error {
	var o owner
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0) // a note that cannot be read is reported as unknown below
	if err := json.Unmarshal(b[:n], &o); err != nil || o.PID == 0 {
		return fmt.Errorf("lock %s: %w: the holder left no note", what, ErrLocked)
	}
	err := fmt.Errorf("lock %s: %w: process %d on %s (%s), since %s",
		what, ErrLocked, o.PID, o.Host, o.Command, o.Since.UTC().Format(time.RFC3339))
	return dr.WithHint(err, fmt.Sprintf("wait for process %d to end, or stop it; the lock ends with it", o.PID))
}

func writeOwner(f *os.File) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	b, err := json.Marshal(owner{PID: os.Getpid(), Host: host,
		Command: strings.Join(os.Args, " "), Since: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	return err
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
