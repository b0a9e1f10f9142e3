package rowsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// StandbyConfig is a whole server of which the engine itself keeps a copy.
type StandbyConfig struct {
	Name     string // of the database, as the user calls it
	Physical engine.PhysicalDriver
	Rows     engine.Driver // of the same engine: reads rows to compare them
	Options  engine.PhysicalOptions
	Spool    string       // a directory at the target site for what is remembered
	Log      *slog.Logger // nil: slog.Default
}

// Reversed is the way back: the same pair with the ends swapped, and a directory of its
// own.
func (c StandbyConfig) Reversed() StandbyConfig {
	c.Options.Source, c.Options.Target = c.Options.Target, c.Options.Source
	c.Spool += ".back"
	return c
}

// Standby has an engine replicate a whole server by its own means, and switches it. It
// is to physical copies what a Replicator is to rows. The way back is another with the
// ends swapped and a directory of its own. Close it.
type Standby struct {
	cfg   StandbyConfig
	log   *slog.Logger
	p     engine.Physical
	lock  *os.File
	notes *notes
	meter meter

	patience time.Duration // how long ends that do not answer, or come no further, are waited for
}

var _ Switchable = (*Standby)(nil)

const (
	// standbyPatience is how long the ends of a physical copy are waited for: it goes on by
	// itself, so that nothing but a person is kept waiting.
	standbyPatience = 15 * time.Minute
	// standstill is how long a target may come no further before that is told.
	standstill = 5 * time.Second
)

// NewStandby locks the directory. It reaches neither end.
func NewStandby(cfg StandbyConfig) (*Standby, error) {
	if cfg.Options.Name == "" {
		cfg.Options.Name = streamName(cfg.Name)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if err := os.MkdirAll(cfg.Spool, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of %s: %w", cfg.Name, err)
	}
	lock, err := lockDir(cfg.Spool)
	if err != nil {
		return nil, err
	}
	n, err := loadNotes(cfg.Spool)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s := &Standby{cfg: cfg, log: cfg.Log.With("database", cfg.Name), lock: lock, notes: n, patience: standbyPatience}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s.meter.init()
	return s, nil
}

// open takes the pair up. What was set aside may be given up.
func (s *Standby) open() error {
	o := s.cfg.Options
	o.Discard = o.Discard || !s.notes.get().Aside.IsZero()
	p, err := s.cfg.Physical.Physical(o)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.cfg.Name, err)
	}
	s.p = p
	return nil
}

// Close lets go of the directory. The copy goes on by itself.
func (s *Standby) Close() error { return s.lock.Close() }

// Progress returns how far the work is. It may be called at any time.
func (s *Standby) Progress() Progress { return s.meter.get() }

// patient repeats f while it fails for a passing reason, for a while.
func (s *Standby) patient(ctx context.Context, what string, f func(context.Context) error) error {
	begun := time.Now()
	return retry.Policy{
		Temporary: func(err error) bool { return engine.Temporary(err) && time.Since(begun) < s.patience },
		First:     500 * time.Millisecond, Max: 10 * time.Second,
		Notify: func(err error, in time.Duration) {
			s.log.Warn("waiting to try again", "what", what, "error", err, "in", in)
			s.meter.waiting(what, err)
		},
	}.Do(ctx, f)
}

// StandbyResult is what a pass did.
type StandbyResult struct {
	Did      []string // to the target; empty where it followed already
	Position engine.Pos
	Newest   time.Time     // commit of the newest transaction applied; zero: not known
	Lag      time.Duration // how long the target took to come to where the source was
	Took     time.Duration
}

// Pass makes the target follow, whatever it is, and waits until it has what the source
// had committed when it was called. The server goes on to follow afterwards.
func (s *Standby) Pass(ctx context.Context) (res StandbyResult, err error) {
	begun := time.Now()
	s.meter.step(StepConnect)
	err = s.patient(ctx, "both ends", func(ctx context.Context) error {
		fs, err := s.p.Check(ctx)
		if err != nil {
			return err
		}
		return blocked(s.cfg.Name, fs)
	})
	if err != nil {
		return res, err
	}
	err = s.patient(ctx, "the standby", func(ctx context.Context) error {
		did, err := s.p.Follow(ctx, s.meter.doing)
		res.Did = append(res.Did, did...)
		return err
	})
	if err != nil {
		return res, s.explain(err)
	}
	if !s.notes.get().Aside.IsZero() { // it follows: what it has next is not what was set aside
		if err := s.notes.change(func(d *notesData) { d.Aside = time.Time{} }); err != nil {
			return res, err
		}
		if err := s.open(); err != nil {
			return res, err
		}
	}
	s.meter.step(StepCatchUp)
	marked := time.Now()
	if res.Position, err = s.catchUp(ctx); err != nil {
		return res, err
	}
	res.Lag = time.Since(marked)
	st, err := s.look(ctx)
	res.Newest, res.Took = st.Newest, time.Since(begun)
	return res, err
}

// explain tells of a target that is primary as row replication does.
func (s *Standby) explain(err error) error {
	var lead *engine.LeaderError
	if errors.As(err, &lead) {
		return fmt.Errorf("%w (%s)", &PrimaryError{Name: s.cfg.Name}, lead.Why)
	}
	return fmt.Errorf("replicate %s: %w", s.cfg.Name, err)
}

// catchUp waits until the target has all that the source has now.
func (s *Standby) catchUp(ctx context.Context) (at engine.Pos, err error) {
	var mark engine.Pos
	err = s.patient(ctx, "the source", func(ctx context.Context) (err error) {
		mark, err = s.p.Mark(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("catch up with the source of %s: %w", s.cfg.Name, err)
	}
	was, since := engine.Pos(""), time.Now()
	for {
		var there bool
		err := s.patient(ctx, "the target", func(ctx context.Context) (err error) {
			there, at, err = s.p.Reached(ctx, mark)
			return err
		})
		if err == nil && at != was {
			was, since = at, time.Now()
		}
		if err == nil && !there {
			err = s.stands(ctx, at, mark, time.Since(since))
		}
		if err != nil {
			return at, fmt.Errorf("catch up with the source of %s: %w", s.cfg.Name, err)
		}
		if there {
			return at, nil
		}
		if err := retry.Sleep(ctx, 100*time.Millisecond); err != nil {
			return at, fmt.Errorf("catch up with the source of %s: the target is at %s of %s: %w", s.cfg.Name, at, mark, err)
		}
	}
}

// stands tells of a target that has come no further for a while, and why; it gives up in
// the end.
func (s *Standby) stands(ctx context.Context, at, mark engine.Pos, long time.Duration) error {
	if long < min(standstill, s.patience) {
		return nil
	}
	why := fmt.Errorf("the target stands at %s of %s", at, mark)
	if st, err := s.p.State(ctx); err == nil && st.Trouble != "" {
		why = fmt.Errorf("%w: %s", why, st.Trouble)
	}
	if long > s.patience {
		return why
	}
	s.meter.waiting("the target", why)
	return nil
}

// look reads how the target stands and notes the pace.
func (s *Standby) look(ctx context.Context) (engine.PhysicalState, error) {
	st, err := s.p.State(ctx)
	if err != nil {
		return st, err
	}
	now := time.Now().UTC()
	return st, s.notes.change(func(d *notesData) {
		if st.Following {
			d.Known.Heard = now
		}
		if !st.Newest.IsZero() {
			d.Known.SourceTime = st.Newest
		}
		if o := d.Seen; o != nil {
			if sec := now.Sub(o.At).Seconds(); sec > 1 {
				d.Known.Bytes, d.Known.Transactions = pace(o.Log, st.Log, sec), pace(o.Commits, st.Commits, sec)
			} else {
				return // too short to tell a pace from
			}
		}
		d.Seen = &seen{now, st.Log, st.Commits}
	})
}

func pace(from, to int64, seconds float64) float64 {
	if from < 0 || to < from {
		return 0
	}
	return float64(to-from) / seconds
}

// StandbyStatusOf reads how a physical copy stands, without the source and without
// changing anything. Phase is as that of rows; Pending says what keeps a standby from
// following.
func StandbyStatusOf(ctx context.Context, cfg StandbyConfig, now time.Time) (Status, error) {
	var st Status
	n, err := loadNotes(cfg.Spool)
	if err != nil {
		return st, err
	}
	p, err := cfg.Physical.Physical(cfg.Options)
	if err != nil {
		return st, fmt.Errorf("open %s: %w", cfg.Name, err)
	}
	at, err := p.State(ctx)
	if err != nil {
		return st, fmt.Errorf("look at the target of %s: %w", cfg.Name, err)
	}
	d := n.get()
	st = Status{Position: at.Applied, SourceTime: at.Newest, Heard: d.Known.Heard, LastVerified: d.LastVerified, Pending: at.Trouble, SpoolBytes: max(0, at.Unread)}
	if at.Heard.After(st.Heard) {
		st.Heard = at.Heard
	}
	switch at.Phase {
	case engine.Replica:
		st.Phase = engine.Following
	case engine.Leader:
		st.Phase = engine.Primary
	case engine.Down:
		st.Phase, st.Silent = engine.Following, true
		st.Pending = "the server does not answer: " + at.Trouble
	}
	if !st.SourceTime.IsZero() {
		st.Lag = max(0, now.Sub(st.SourceTime))
	}
	return st, nil
}
