package mssql

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Ways of capture.
const (
	methodTracking = "change-tracking"
	methodTriggers = "triggers"
)

// source is a database that is replicated.
type source struct {
	reader

	mu      sync.Mutex
	streams map[string]*drained // what was read of the logs and is not released yet
}

// Close implements engine.Source.
func (s *source) Close() error { return s.d.Close() }

// position is a Pos taken apart: "ct:17", or "tr:17", or "tr:17." behind which nothing
// can come because the database is read-only.
type position struct {
	method string // "ct", "tr"
	n      int64
	last   bool
}

func (p position) String() string {
	s := p.method + ":" + strconv.FormatInt(p.n, 10)
	if p.last {
		s += "."
	}
	return s
}

func (p position) pos() engine.Pos { return engine.Pos(p.String()) }

func parsePos(s engine.Pos) (position, error) {
	method, rest, ok := strings.Cut(string(s), ":")
	digits, last := strings.CutSuffix(rest, ".")
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || method != "ct" && (method != "tr") || last && method != "tr" {
		return position{}, fmt.Errorf("%q is no position of SQL Server", s)
	}
	return position{method, n, last}, nil
}

func (p position) before(o position) bool {
	return p.n < o.n || p.n == o.n && !p.last && o.last
}

// Before implements engine.History.
func (s *source) Before(a, b engine.Pos) (bool, error) {
	p, err := parsePos(a)
	if err != nil {
		return false, err
	}
	o, err := parsePos(b)
	if err != nil {
		return false, err
	}
	if p.method != o.method {
		return false, fmt.Errorf("positions %s and %s are of different ways of capture", a, b)
	}
	return p.before(o), nil
}

// Capture implements engine.Source.
func (s *source) Capture(ctx context.Context) (string, error) {
	method, why, err := s.choose()
	if err != nil {
		return "", err
	}
	return method + ": " + why, nil
}

// choose decides how changes are captured, and says why.
func (s *source) choose() (method, why string, err error) {
	d := s.d
	switch d.o.Capture {
	case methodTriggers:
		return methodTriggers, "the configuration asks for it", nil
	case methodTracking:
		if !d.changeTracking {
			return "", "", fmt.Errorf("capture: change-tracking was asked for, but this server has none (%s %s): use capture: triggers", d.edition, d.version)
		}
	case "", "auto":
		if !d.changeTracking {
			return methodTriggers, "this server has no change tracking", nil
		}
	default:
		return "", "", fmt.Errorf("capture %q is not known: it is auto, change-tracking or triggers", d.o.Capture)
	}
	if d.readOnly {
		return "", "", fmt.Errorf("database %s cannot be written here (a secondary, or read-only), where change tracking tells nothing: replicate from its primary", d.name)
	}
	if d.snapshotOn.Load() {
		return methodTracking, "the server has it, and snapshot isolation is on", nil
	}
	return methodTracking, "the server has it; snapshot isolation will be switched on", nil
}

// token names what is made for one table of a stream.
func token(stream string, n engine.Name) string {
	h := sha256.Sum256([]byte(stream + "\x00" + strings.ToLower(n.Schema) + "\x00" + strings.ToLower(n.Name)))
	return hex.EncodeToString(h[:6])
}

// record is the source's row of a stream. With triggers, tick is its clock and version
// where that started: at the time of day, so that no later making of the same stream
// has times of an earlier one. With change tracking, version is the newest one given
// out, and tick is one past the first.
type record struct {
	method        string
	tick, version int64
}

// record reads it; nil where there is none.
func (s *session) record(ctx context.Context, stream string) (*record, error) {
	there, err := s.has(ctx, "leeward.stream")
	if err != nil || !there {
		return nil, err
	}
	r := &record{}
	err = s.QueryRowContext(ctx, sqlStream(), stream).Scan(&r.method, &r.tick, &r.version)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return r, err
}

func (s *session) has(ctx context.Context, object string) (bool, error) {
	var id *int64
	err := s.QueryRowContext(ctx, sqlHasObject(), object).Scan(&id)
	return id != nil, err
}

// made is one table's capture.
type made struct {
	table engine.Name
	token string
	// rows is how many the table had without what its log holds; nil: not counted yet;
	// negative: before the tick -rows, changes were not captured. With change tracking
	// it is the version at which the stream took the table in.
	rows *int64
}

func (s *session) captures(ctx context.Context, stream string) ([]made, error) {
	there, err := s.has(ctx, "leeward.capture")
	if err != nil || !there {
		return nil, err
	}
	var out []made
	err = s.each(ctx, sqlCaptures(), func(scan func(...any) error) error {
		var m made
		if err := scan(&m.table.Schema, &m.table.Name, &m.token, &m.rows); err != nil {
			return err
		}
		out = append(out, m)
		return nil
	}, stream)
	return out, err
}

// Mark implements engine.Feed.
func (s *source) Mark(ctx context.Context, stream string) (engine.Pos, error) {
	var p position
	err := s.plain(ctx, func(ss *session) (err error) {
		p, err = ss.mark(ctx, stream)
		return err
	})
	return p.pos(), wrap(err, "mark a position of stream %s", stream)
}

// plain runs f in a session without a transaction.
func (s *source) plain(ctx context.Context, f func(*session) error) error {
	ss, err := s.d.session(ctx)
	if err != nil {
		return err
	}
	err = f(ss)
	if e := ss.end(); err == nil {
		err = e
	}
	return err
}

func (s *session) mark(ctx context.Context, stream string) (position, error) {
	r, err := s.record(ctx, stream)
	if err != nil {
		return position{}, err
	}
	if r == nil {
		return position{}, fmt.Errorf("stream %s is not prepared at this source", stream)
	}
	if r.method == methodTracking {
		v, _, err := s.version(ctx)
		if err == nil && !s.isReadOnly(ctx) {
			_, err = s.exec(ctx, sqlBeat(), stream, v)
		}
		return position{method: "ct", n: v}, err
	}
	if s.isReadOnly(ctx) {
		return position{method: "tr", n: r.tick, last: true}, nil
	}
	n, err := s.tick(ctx, stream)
	return position{method: "tr", n: n}, err
}

// isReadOnly looks anew: a fence makes it so.
func (s *session) isReadOnly(ctx context.Context) bool {
	var u *string
	err := s.QueryRowContext(ctx, sqlProbeUpdateable()).Scan(&u)
	return err == nil && value(u) == "READ_ONLY"
}

func (s *session) version(ctx context.Context) (int64, time.Time, error) {
	var v *int64
	var now time.Time
	if err := s.QueryRowContext(ctx, sqlVersion()).Scan(&v, &now); err != nil {
		return 0, now, err
	}
	if v == nil {
		return 0, now, fmt.Errorf("change tracking of the database is off")
	}
	return *v, now, nil
}

// Epoch implements engine.History. It is made of what a restore is known to change; a
// restore that changes none of it is found by Changes, whose records went back in time.
func (s *source) Epoch(ctx context.Context) (string, error) {
	var parts []string
	err := s.plain(ctx, func(ss *session) error {
		var created *string
		if err := ss.QueryRowContext(ctx, sqlCreated()).Scan(&created); err != nil {
			return err
		}
		parts = append(parts, value(created))
		var fork, base *string
		if err := ss.QueryRowContext(ctx, sqlProbeRecovery()).Scan(&fork, &base); err == nil {
			parts = append(parts, value(fork), value(base))
		}
		return nil
	})
	return strings.Join(parts, "/"), wrap(err, "read the epoch of %s", s.d.name)
}

// Counters implements engine.History. The value of an identity is the last one given
// out, that of a sequence the next.
func (s *source) Counters(ctx context.Context) ([]engine.Counter, error) {
	var out []engine.Counter
	err := s.plain(ctx, func(ss *session) (err error) {
		out, err = ss.counters(ctx)
		return err
	})
	return out, wrap(err, "read counters")
}

func (s *session) counters(ctx context.Context) ([]engine.Counter, error) {
	var out []engine.Counter
	err := s.each(ctx, sqlIdentities(), func(scan func(...any) error) error {
		var last, increment text
		c := engine.Counter{Kind: "identity"}
		if err := scan(&c.Name.Schema, &c.Name.Name, &c.Column, &last, &increment); err != nil {
			return err
		}
		c.Value = plain(string(last))
		if last != "" {
			out = append(out, c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var c catalog
	if err := c.readSequences(ctx, s); err != nil {
		return nil, err
	}
	for _, q := range c.sequences {
		out = append(out, engine.Counter{Kind: "sequence", Name: q.name, Value: q.next()})
	}
	return out, nil
}
