package switchover

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	notes = append(notes, "changes: "+a.Capture)
	for _, f := range a.Findings {
		text := f.Object + ": " + f.Text
		if f.Remedy != "" {
			text += " (" + f.Remedy + ")"
		}
		if f.Severity == engine.Blocker || f.Object == engine.FenceObject {
			blockers = append(blockers, text)
		} else {
			notes = append(notes, text)
		}
	}
	return blockers, notes, nil
}

const differencesShown = 20

// Compare implements Database.
func (r *rows) Compare(ctx context.Context) (differences []string, count int64, err error) {
	v, err := r.Verify(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, n := range v.Tables {
		count += n
	}
	for i, d := range v.Differences {
		if i == differencesShown {
			differences = append(differences, fmt.Sprintf("and %d more", int64(len(v.Differences)-i)+v.More))
			break
		}
		differences = append(differences, d.String())
	}
	if !v.Equal && len(differences) == 0 {
		differences = []string{"what was compared is equal, and not everything could be"}
	}
	return differences, count, nil
}

// SetAside implements Database.
func (r *rows) SetAside(ctx context.Context, dir string) (facts []string, err error) {
	tables, err := r.Replicator.SetAside(ctx, dir)
	for _, t := range tables {
		if t.File != "" {
			facts = append(facts, fmt.Sprintf("%s: %d rows are there alone, %d are otherwise: kept in %s", t.Table, t.Only, t.Differs, t.File))
		}
	}
	if err == nil && len(facts) == 0 {
		facts = []string{"every row is at the other end as well"}
	}
	return facts, err
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
// follows.
const (
	tokenStream = "leeward_token"
	tokenPrefix = "token:"
)

func (r *Rows) end(ctx context.Context, name string, at Site) (engine.Target, string, error) {
	c, err := r.config(ctx, name, Forward)
	if err != nil {
		return nil, "", err
	}
	o := c.Target
	if at == Source {
		o = c.Source
	}
	t, err := c.Driver.Target(ctx, o)
	if err != nil {
		return nil, "", fmt.Errorf("reach %s at the %s: %w", name, at, err)
	}
	return t, tokenStream, nil
}

// Token implements Tokens.
func (r *Rows) Token(ctx context.Context, name string, at Site) (int64, error) {
	t, stream, err := r.end(ctx, name, at)
	if err != nil {
		return 0, err
	}
	st, err := t.State(ctx, stream)
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
	t, stream, err := r.end(ctx, name, at)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, t.Close()); err != nil {
			err = fmt.Errorf("write token %d of %s at the %s: %w", token, name, at, err)
		}
	}()
	st, err := t.State(ctx, stream)
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
	to.Stream, to.Phase, to.Pos, to.Epoch = stream, engine.Following, engine.Pos(tokenPrefix+strconv.FormatInt(token, 10)), "token"
	if _, err := tx.Commit(ctx, to); err != nil {
		_ = tx.Rollback() // the commit may have ended it
		return err
	}
	return nil
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
