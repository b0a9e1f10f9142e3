package switchover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Rows are the Databases and the Tokens of an estate, as package rowsync replicates
// them.
type Rows struct {
	Estate *config.Estate
	Store  string // where the store's data is
}

// Open implements Databases.
func (r *Rows) Open(ctx context.Context, name string, way Way) (Database, error) {
	if db := r.Estate.Database(name); db != nil && db.Mode == modePhysical {
		return r.openPhysical(ctx, db, way)
	}
	c, err := r.config(ctx, name, way)
	if err != nil {
		return nil, err
	}
	rep, err := rowsync.New(c)
	if errors.Is(err, rowsync.ErrBusy) {
		err = hinted("wait until it is done, or stop it", "%w", err)
	}
	if err != nil {
		return nil, err
	}
	return &rows{Replicator: rep, config: c}, nil
}

func (r *Rows) config(ctx context.Context, name string, way Way) (rowsync.Config, error) {
	db := r.Estate.Database(name)
	if db == nil {
		return rowsync.Config{}, fmt.Errorf("database %s: the configuration has none of that name now", name)
	}
	c, err := protect.RowsConfig(ctx, db, r.Store)
	if err != nil {
		return c, err
	}
	if way == Back {
		c.Source, c.Target = c.Target, c.Source
		c.Spool += ".back"
		c.Name += " (back)" // of which the stream's own name is made
	}
	return c, nil
}

// rows is a Database that is replicated by rows.
type rows struct {
	*rowsync.Replicator
	config rowsync.Config
}

// Standing implements Databases.
func (r *Rows) Standing(ctx context.Context, name string, way Way) (Standing, error) {
	if db := r.Estate.Database(name); db != nil && db.Mode == modePhysical {
		return r.physicalStanding(ctx, db, way)
	}
	c, err := r.config(ctx, name, way)
	if err != nil {
		return Standing{}, err
	}
	st, err := rowsync.StatusOf(ctx, c, time.Now())
	if err != nil {
		return Standing{}, err
	}
	s := Standing{Phase: st.Phase, Lag: st.Lag, Heard: st.Heard, Newest: st.SourceTime}
	switch st.Phase {
	case engine.Following:
	case engine.Absent:
		s.Trouble = append(s.Trouble, "nothing was ever replicated to it")
	case engine.Primary:
		s.Trouble = append(s.Trouble, "it is primary: applications write to it")
	default:
		s.Trouble = append(s.Trouble, "it is "+string(st.Phase)+": its rows are of no single state of the other end")
	}
	if st.Pending != "" {
		s.Trouble = append(s.Trouble, "everything is to be compared anew: "+st.Pending)
	}
	for t, stop := range st.Stopped {
		s.Trouble = append(s.Trouble, fmt.Sprintf("table %s is not followed: %s", t, stop.Cause))
	}
	return s, nil
}

// Ready implements Database.
func (r *rows) Ready(ctx context.Context) (blockers, notes []string, err error) {
	a, err := r.Assess(ctx)
	if err != nil {
		return nil, nil, err
	}
	blockers, notes = findingTexts(a.Findings)
	return blockers, slices.Concat([]string{"changes: " + a.Capture}, r.Lacking(), notes), nil
}

const differencesShown = 20

// Compare implements Database.
func (r *rows) Compare(ctx context.Context) (differences []string, count int64, err error) {
	v, err := r.Verify(ctx)
	if err != nil {
		return nil, 0, err
	}
	differences, count = comparedTexts(v)
	return differences, count, nil
}

// SetAside implements Database.
func (r *rows) SetAside(ctx context.Context, dir string) (facts []string, err error) {
	return asideTexts(r.Replicator.SetAside(ctx, dir))
}

// Reset implements Database.
func (r *rows) Reset(ctx context.Context) error {
	if err := r.Remove(ctx); err != nil {
		return err
	}
	if err := errors.Join(r.Replicator.Close(), removeSpool(r.config.Spool)); err != nil {
		return err
	}
	again, err := rowsync.New(r.config)
	if err == nil {
		r.Replicator = again
	}
	return err
}

// Tokens live where rowsync keeps its notes: as the position of a stream that nobody
// follows. Of a physical copy they are part of the data: a token is written at the
// primary and comes to the standby with everything else, where it can be read. What
// stood there before shows a server that was lost, and comes back with an older one.
const (
	tokenStream = "leeward_token"
	tokenPrefix = "token:"
)

func (r *Rows) end(ctx context.Context, name string, at Site) (engine.Target, error) {
	drv, src, dst, err := r.options(ctx, name)
	if err != nil {
		return nil, err
	}
	if at == Source {
		dst = src
	}
	t, err := drv.Target(ctx, dst)
	if err != nil {
		return nil, fmt.Errorf("reach %s at the %s: %w", name, at, err)
	}
	return t, nil
}

// options are how both ends are reached.
func (r *Rows) options(ctx context.Context, name string) (drv engine.Driver, src, dst engine.Options, err error) {
	if db := r.Estate.Database(name); db != nil && db.Mode == modePhysical {
		c, err := r.standbyConfig(ctx, db, Forward)
		return c.Rows, c.Options.Source.Options, c.Options.Target.Options, err
	}
	c, err := r.config(ctx, name, Forward)
	return c.Driver, c.Source, c.Target, err
}

// Token implements Tokens.
func (r *Rows) Token(ctx context.Context, name string, at Site) (int64, error) {
	t, err := r.end(ctx, name, at)
	if err != nil {
		return 0, err
	}
	st, err := t.State(ctx, tokenStream)
	if err := errors.Join(err, t.Close()); err != nil {
		return 0, fmt.Errorf("read the token of %s at the %s: %w", name, at, err)
	}
	return parseToken(st)
}

func parseToken(st engine.State) (int64, error) {
	if st.Phase == engine.Absent {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.TrimPrefix(string(st.Pos), tokenPrefix), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read token %q: %w", st.Pos, err)
	}
	return n, nil
}

// SetToken implements Tokens.
func (r *Rows) SetToken(ctx context.Context, name string, at Site, token int64) (err error) {
	if err := r.writable(ctx, name, at); err != nil {
		return fmt.Errorf("write token %d of %s at the %s: %w", token, name, at, err)
	}
	t, err := r.end(ctx, name, at)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, t.Close()); err != nil {
			err = fmt.Errorf("write token %d of %s at the %s: %w", token, name, at, err)
		}
	}()
	st, err := t.State(ctx, tokenStream)
	if err != nil {
		return err
	}
	if have, err := parseToken(st); err != nil || have >= token {
		return err
	}
	tx, err := t.Begin(ctx, st, nil)
	if err != nil {
		return err
	}
	to := st
	to.Stream, to.Phase, to.Pos, to.Epoch = tokenStream, engine.Following, engine.Pos(tokenPrefix+strconv.FormatInt(token, 10)), "token"
	if _, err := tx.Commit(ctx, to); err != nil {
		_ = tx.Rollback() // the commit may have ended it
		return err
	}
	return nil
}

// writable refuses an end of a physical copy that is a standby: what is written there
// would make it another history than its primary's.
func (r *Rows) writable(ctx context.Context, name string, at Site) error {
	db := r.Estate.Database(name)
	if db == nil || db.Mode != modePhysical {
		return nil
	}
	to := Forward
	if at == Source {
		to = Back
	}
	s, err := r.physicalStanding(ctx, db, to)
	if err == nil && s.Phase != engine.Primary {
		err = errors.New("it is a standby there, and no primary")
	}
	return err
}

// SecretOf fetches a secret from its place.
func SecretOf(ctx context.Context, s config.Secret) (string, error) {
	e := config.Endpoint{PasswordFile: s.File, PasswordEnv: s.Env, PasswordCommand: s.Command}
	return protect.Password(ctx, e)
}

// removeSpool forgets what has landed.
func removeSpool(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("forget what has landed: %w", err)
	}
	return nil
}
