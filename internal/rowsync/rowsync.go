// Package rowsync keeps a database at the target site equal to one that goes on
// working. It knows no SQL: drivers below package engine do.
//
// A Replicator belongs to one database. It compares definitions, brings the target's
// rows to those of the source by difference, whatever the target held, and follows
// the changes: they land in a spool at the target site, durable, before they are
// applied, and are applied in the transaction that says how far the target is. So the
// target is at a state the source really had, nothing is applied twice or left out,
// and a crash at any instant costs a repetition at most.
//
// The reverse stream, after a switch, is a Replicator with the ends swapped and a
// spool directory of its own: it finds what differs and follows from there.
package rowsync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"golang.org/x/sys/unix"
)

// Config is one database to replicate.
type Config struct {
	Name           string // as the user calls it
	Stream         string // what it is called at both ends; default: made of Name
	Driver         engine.Driver
	Source, Target engine.Options
	// Spool is a directory at the target site, for this stream alone.
	Spool      string
	SpoolLimit int64 // bytes it may hold; 0: 16 GiB
	Streams    int   // ranges or tables seeded at once; 0: 2
	// Reseed allows to compare everything anew where the source's history is another
	// one than before: it was restored, or replaced.
	Reseed bool
	// LostRows, where set, is called for each row that the target alone has, before it
	// is removed: after a failover these are what the old primary never sent.
	LostRows func(table engine.Name, key engine.Row)
	Log      *slog.Logger // nil: slog.Default
}

// Replicator replicates one database. Close it. At most one of its long-running
// methods (Pass, Follow, Verify, Drain, Failover) may run at a time.
type Replicator struct {
	cfg   Config
	log   *slog.Logger
	lock  *os.File
	notes *notes
	meter meter
	// whole and part bound what is applied in one transaction: of the spool, and in
	// memory. committed, which tests set, is called after each.
	whole, part int64
	committed   func(engine.State) error
	lookEvery   time.Duration // how often Follow looks for new tables
	placeable   int64         // rows of a table whose places an assessment counts out

	mu      sync.Mutex
	src     engine.Source // nil until it was reached
	retired []engine.Source
	dst     engine.Target
	agreed  [2]any // the ends that were made to hash alike
	sp      *spool
}

// ErrBusy means that another process replicates the same database.
var ErrBusy = errors.New("another process works on this database")

// New opens the spool directory and locks it. It reaches neither end.
func New(cfg Config) (*Replicator, error) {
	if cfg.Stream == "" {
		cfg.Stream = streamName(cfg.Name)
	}
	if cfg.Streams <= 0 {
		cfg.Streams = 2
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if err := os.MkdirAll(cfg.Spool, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool: %w", err)
	}
	lock, err := lockDir(cfg.Spool)
	if err != nil {
		return nil, err
	}
	n, err := loadNotes(cfg.Spool)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	r := &Replicator{cfg: cfg, log: cfg.Log.With("database", cfg.Name), lock: lock, notes: n, whole: wholeBytes, part: partBytes, lookEvery: time.Minute, placeable: mostPlaced}
	r.meter.init()
	return r, nil
}

// streamName makes of a name what every engine takes as an identifier.
func streamName(name string) string {
	clean := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' {
			return c
		}
		return '_'
	}, strings.ToLower(name))
	if clean != name || len(clean) > 30 {
		h := sha256.Sum256([]byte(name))
		clean = clean[:min(len(clean), 21)] + "_" + hex.EncodeToString(h[:4])
	}
	return "leeward_" + clean
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the spool: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, ErrBusy)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// Close leaves both ends and the spool.
func (r *Replicator) Close() error {
	errs := []error{r.leave()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sp != nil {
		errs = append(errs, r.sp.close())
		r.sp = nil
	}
	return errors.Join(append(errs, r.lock.Close())...)
}

// leave closes both ends; the next use opens them again.
func (r *Replicator) leave() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	if r.src != nil {
		errs = append(errs, r.src.Close())
	}
	if r.dst != nil {
		errs = append(errs, r.dst.Close())
	}
	for _, s := range r.retired {
		errs = append(errs, s.Close())
	}
	r.src, r.dst, r.retired = nil, nil, nil
	return errors.Join(errs...)
}

// source is the open source.
func (r *Replicator) source(ctx context.Context) (engine.Source, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.src != nil {
		return r.src, nil
	}
	s, err := r.cfg.Driver.Source(ctx, r.cfg.Source)
	if err != nil {
		return nil, fmt.Errorf("reach the source of %s: %w", r.cfg.Name, err)
	}
	r.src = s
	return s, nil
}

// target is the open target.
func (r *Replicator) target(ctx context.Context) (engine.Target, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dst != nil {
		return r.dst, nil
	}
	t, err := r.cfg.Driver.Target(ctx, r.cfg.Target)
	if err != nil {
		return nil, fmt.Errorf("reach the target of %s: %w", r.cfg.Name, err)
	}
	r.dst = t
	return t, nil
}

func (r *Replicator) ends(ctx context.Context) (engine.Source, engine.Target, error) {
	s, err := r.source(ctx)
	if err != nil {
		return nil, nil, err
	}
	t, err := r.target(ctx)
	if err != nil {
		return nil, nil, err
	}
	return s, t, r.agree(s, t)
}

// agree has both ends hash rows the same way, where their servers could do it in
// several.
func (r *Replicator) agree(s engine.Source, t engine.Target) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.agreed == [2]any{s, t} {
		return nil
	}
	if err := agree(r.cfg.Name, s, t); err != nil {
		return err
	}
	r.agreed = [2]any{s, t}
	return nil
}

func agree(name string, s engine.Source, t engine.Target) error {
	a, ok := s.(engine.DigestForms)
	b, both := t.(engine.DigestForms)
	if !ok || !both {
		return nil
	}
	have := b.DigestForms()
	for _, form := range a.DigestForms() {
		if !slices.Contains(have, form) {
			continue
		}
		if err := errors.Join(a.UseDigestForm(form), b.UseDigestForm(form)); err != nil {
			return fmt.Errorf("hash rows of %s by %s at both ends: %w", name, form, err)
		}
		return nil
	}
	return fmt.Errorf("compare %s: the source can hash rows by %v, the target by %v", name, a.DigestForms(), have)
}

// patient repeats f while it fails for a passing reason, reaching both ends anew.
func (r *Replicator) patient(ctx context.Context, what string, f func(context.Context) error) error {
	return r.policy(what, true).Do(ctx, f)
}

// policy is how failures of one activity are taken. With leave set, both ends are
// closed in between.
func (r *Replicator) policy(what string, leave bool) retry.Policy {
	return retry.Policy{
		Temporary: engine.Temporary, First: 200 * time.Millisecond, Max: 5 * time.Second,
		Notify: func(err error, in time.Duration) {
			r.log.Warn("waiting to try again", "what", what, "error", err, "in", in)
			r.meter.waiting(what, err)
			if leave {
				if err := r.leave(); err != nil {
					r.log.Debug("closing a broken end", "error", err)
				}
			}
		},
	}
}
