package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

const (
	marksVersion = 1
	marksFile    = "keep.json"
	marksLock    = "marks.lock"
	clockFile    = "clock.json"
)

// Marks are what keeps a recovery point beyond number and age. They lie in its
// directory, beside the manifest, which does not cover them.
type Marks struct {
	Version int       `json:"version"`
	Pin     *Pin      `json:"pin,omitempty"`
	Lock    *TimeLock `json:"lock,omitempty"`
	Digest  string    `json:"digest"` // BLAKE3 of this with an empty digest
}

// Pin keeps a point until it is taken away.
type Pin struct {
	At        time.Time `json:"at"`
	By        string    `json:"by,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Automatic bool      `json:"automatic,omitempty"` // Leeward itself set it
}

// TimeLock keeps a point until a time. It is made longer, never shorter.
type TimeLock struct {
	Until time.Time `json:"until"`
	At    time.Time `json:"at"`
	By    string    `json:"by,omitempty"`
}

// LockedAt reports whether a lock holds at the time now.
func (m *Marks) LockedAt(now time.Time) bool { return m.Lock != nil && now.Before(m.Lock.Until) }

// Marks returns what keeps the point; nothing does where it has none. Marks that
// cannot be read are an error, and keep it.
func (p Place) Marks() (*Marks, error) {
	b, err := os.ReadFile(filepath.Join(p.Dir, marksFile))
	if errors.Is(err, os.ErrNotExist) {
		return &Marks{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read marks: %w", err)
	}
	m, err := parseMarks(b)
	if err != nil {
		err = fmt.Errorf("read marks of %s: %w", p, err)
		return nil, dr.WithHint(err, "the point is never removed by itself meanwhile; remove "+filepath.Join(p.Dir, marksFile)+" and pin or lock it again")
	}
	return m, nil
}

// String names the point as a person does.
func (p Place) String() string { return p.Of + "/" + string(p.ID) }

func parseMarks(b []byte) (*Marks, error) {
	var m Marks
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m.Version != marksVersion {
		return nil, fmt.Errorf("version %d, this Leeward reads %d", m.Version, marksVersion)
	}
	if want, err := m.digest(); err != nil || want != m.Digest {
		return nil, errors.Join(err, errors.New("the digest does not match the content"))
	}
	return &m, nil
}

func (m *Marks) digest() (string, error) {
	c := *m
	c.Digest = ""
	return digestOf(&c, "marks")
}

// SetPin keeps the point until ClearPin. A pin that a person set stays as it is when
// Leeward sets one by itself.
func (s *Store) SetPin(ctx context.Context, p Place, pin Pin) error {
	return s.mark(ctx, p, func(m *Marks) error {
		if m.Pin == nil || !pin.Automatic {
			m.Pin = &pin
		}
		return nil
	})
}

// ClearPin takes the pin of a point away, and reports whether there was one.
func (s *Store) ClearPin(ctx context.Context, p Place) (was bool, err error) {
	err = s.mark(ctx, p, func(m *Marks) error {
		was = m.Pin != nil
		m.Pin = nil
		return nil
	})
	return was, err
}

// SetLock keeps the point until l.Until. A lock that holds longer already is an error.
func (s *Store) SetLock(ctx context.Context, p Place, l TimeLock) error {
	return s.mark(ctx, p, func(m *Marks) error {
		if m.Lock != nil && l.Until.Before(m.Lock.Until) {
			err := fmt.Errorf("it is locked until %s already", m.Lock.Until.Format(time.RFC3339))
			return dr.WithHint(err, "a lock can be made longer, never shorter")
		}
		m.Lock = &l
		return nil
	})
}

// mark changes the marks of a point. The point cannot be removed meanwhile.
func (s *Store) mark(ctx context.Context, p Place, change func(*Marks) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("mark recovery point %s: %w", p, err)
		}
	}()
	unlock, err := waitLock(ctx, filepath.Join(s.root, marksLock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	release, err := p.hold()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	m, err := p.Marks()
	if err != nil {
		return err
	}
	if err := change(m); err != nil {
		return err
	}
	m.Version = marksVersion
	if m.Digest, err = m.digest(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(p.Dir, marksFile), append(b, '\n'), 0o600)
}

// tick is what the store last saw of the time, so that a clock that was set ahead
// or back while the machine ran unlocks nothing.
type tick struct {
	Version int           `json:"version"`
	Time    time.Time     `json:"time"`
	Boot    string        `json:"boot_id"`
	Up      time.Duration `json:"uptime_ns"`
}

// clockSlack is how far a clock may be set ahead at once, to be put right.
const clockSlack = time.Hour

// advance returns the time to believe when the clock shows wall and the kernel, which
// nobody can set, has run for up since the start named boot. Within one boot time goes
// on no faster than uptime; across boots it only never goes back.
func (last *tick) advance(wall time.Time, boot string, up time.Duration) time.Time {
	if last == nil {
		return wall
	}
	if boot == last.Boot {
		if most := last.Time.Add(up - last.Up + clockSlack); wall.After(most) {
			wall = most.Add(-clockSlack)
		}
	}
	if wall.Before(last.Time) {
		return last.Time
	}
	return wall
}

// clock returns the time by which locks are judged when the clock shows wall.
func (s *Store) clock(wall time.Time) (_ time.Time, err error) {
	unlock, err := waitLock(context.Background(), filepath.Join(s.root, "clock.lock"))
	if err != nil {
		return wall, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	now := tick{Version: 1}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return wall, fmt.Errorf("read boot id: %w", err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return wall, fmt.Errorf("read uptime: %w", err)
	}
	now.Boot, now.Up = string(boot), time.Duration(ts.Nano())
	path := filepath.Join(s.root, clockFile)
	var last *tick
	if b, err := os.ReadFile(path); err == nil {
		var t tick
		if json.Unmarshal(b, &t) == nil && t.Version == 1 {
			last = &t
		}
	}
	now.Time = last.advance(wall.UTC(), now.Boot, now.Up)
	b, err := json.Marshal(now)
	if err != nil {
		return wall, err
	}
	if err := atomicfile.Write(path, append(b, '\n'), 0o600); err != nil {
		return wall, fmt.Errorf("note the time: %w", err)
	}
	return now.Time, nil
}

// Now is the time by which locks are judged: that of the clock, unless it was set
// ahead or back since the store was last used.
func (s *Store) Now() (time.Time, error) { return s.clock(time.Now()) }
