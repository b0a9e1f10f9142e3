package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// lineage is which history a server is of.
type lineage struct {
	system   string
	timeline int64
}

func lineOf(ctx context.Context, o engine.Options) (lineage, error) {
	// The timeline of a standby is that of the last checkpoint it has replayed, or of
	// what it receives; that of a primary is in the name of its segment.
	rows, err := query(ctx, o, `SELECT s.system_identifier, CASE WHEN pg_is_in_recovery() THEN GREATEST(c.timeline_id, (SELECT received_tli FROM pg_stat_wal_receiver))::text ELSE '' END,
		CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END FROM pg_control_system() s, pg_control_checkpoint() c`)
	if err != nil {
		return lineage{}, err
	}
	l := lineage{string(rows[0][0]), count(rows[0][1])}
	if hex := string(rows[0][2]); hex != "" {
		if l.timeline, err = strconv.ParseInt(hex, 16, 64); err != nil {
			return l, fmt.Errorf("read timeline %q: %w", hex, err)
		}
	}
	return l, nil
}

var controlRE = regexp.MustCompile(`(?m)^(Database system identifier|Latest checkpoint's TimeLineID|Database cluster state):\s+(.*)$`)

// control reads the line of the server in the data directory, which may be stopped, and
// whether it was shut down in order.
func (p *standby) control(ctx context.Context) (l lineage, clean bool, err error) {
	said, err := p.tool(ctx, "pg_controldata", "-D", p.o.Target.Data)
	if err != nil {
		return l, false, err
	}
	for _, m := range controlRE.FindAllStringSubmatch(said, -1) {
		switch v := strings.TrimSpace(m[2]); m[1] {
		case "Database system identifier":
			l.system = v
		case "Latest checkpoint's TimeLineID":
			l.timeline = count([]byte(v))
		default:
			clean = strings.HasPrefix(v, "shut down")
		}
	}
	if l.system == "" || l.timeline == 0 {
		return l, clean, fmt.Errorf("read pg_controldata of %s: it names no system or timeline", p.o.Target.Data)
	}
	return l, clean, nil
}

// lines compares the histories of both ends.
func (p *standby) lines(ctx context.Context) (src, dst lineage, err error) {
	if src, err = lineOf(ctx, p.o.Source.Options); err != nil {
		return src, dst, fmt.Errorf("read the source's history: %w", err)
	}
	if dst, err = lineOf(ctx, p.o.Target.Options); err != nil {
		return src, dst, fmt.Errorf("read the target's history: %w", err)
	}
	if src.system != dst.system {
		return src, dst, fmt.Errorf("the target is cluster %s, the source %s: it is no copy of it; empty %s, or name another directory", dst.system, src.system, p.o.Target.Data)
	}
	return src, dst, nil
}

// repointAfter is how long a standby may take to stream by itself.
const repointAfter = 5 * time.Second

// resume has a standby stream from the source; again tells that it was stopped to be
// seeded anew, because what it lacks is gone.
func (p *standby) resume(ctx context.Context) (again bool, did []string, err error) {
	src, dst, err := p.lines(ctx)
	if err != nil {
		return false, nil, err
	}
	if dst.timeline > src.timeline {
		return false, nil, fmt.Errorf("the target is on timeline %d, the source on %d: it follows another primary", dst.timeline, src.timeline)
	}
	if err := p.notAhead(ctx); err != nil {
		return false, nil, err
	}
	if err := p.ensureSlot(ctx); err != nil {
		return false, nil, err
	}
	begun, told := time.Now(), false
	for {
		st, err := p.State(ctx)
		if err != nil || st.Following {
			return false, did, err
		}
		// On another timeline it may have what the source lacks: it is left as it is.
		if gone, err := p.gone(ctx, st); err != nil {
			return false, did, err
		} else if gone && src.timeline == dst.timeline {
			return true, append(did, "the source no longer had what the standby lacks: its data were removed"), errors.Join(p.stop(ctx), p.empty(ctx))
		}
		if took := time.Since(begun); took > time.Minute {
			return false, did, &engine.TemporaryError{Err: fmt.Errorf("make the target follow: %s", st.Trouble)}
		} else if !told && (took > repointAfter || st.Trouble == paused) {
			told = true
			more, err := p.repoint(ctx)
			if did = append(did, more...); err != nil {
				return false, did, err
			}
		}
		if err := retry.Sleep(ctx, 200*time.Millisecond); err != nil {
			return false, did, err
		}
	}
}

// notAhead refuses a source that is behind its standby: it was restored to an earlier
// time, and what it writes now is another history under the same numbers.
func (p *standby) notAhead(ctx context.Context) error {
	rows, err := query(ctx, p.o.Target.Options, "SELECT COALESCE(GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text, '0/0')")
	if err != nil {
		return fmt.Errorf("read where the target stands: %w", err)
	}
	at, err := parseLSN(string(rows[0][0]))
	if err != nil {
		return err
	}
	rows, err = query(ctx, p.o.Source.Options, "SELECT pg_current_wal_insert_lsn()")
	if err != nil {
		return fmt.Errorf("read where the source stands: %w", err)
	}
	now, err := parseLSN(string(rows[0][0]))
	if err == nil && at > now {
		err = fmt.Errorf("make the target follow: it is at %s, the source at %s: the source was restored to an earlier time; nothing was changed. If the source is right, empty %s", at, now, p.o.Target.Data)
	}
	return err
}

// repoint tells a standby that does not stream where its primary is.
func (p *standby) repoint(ctx context.Context) ([]string, error) {
	info, err := p.conninfo(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := query(ctx, p.o.Target.Options, "SELECT current_setting('primary_conninfo') = $1 AND current_setting('primary_slot_name') = $2, pg_is_wal_replay_paused()", info, p.slot)
	if err != nil {
		return nil, fmt.Errorf("read how the target follows: %w", err)
	}
	var did []string
	steps := []string{"ALTER SYSTEM SET primary_conninfo = " + literal(info), "ALTER SYSTEM SET primary_slot_name = " + literal(p.slot), "SELECT pg_reload_conf()"}
	if truth(rows[0][0]) {
		steps = nil
	} else {
		did = append(did, "the standby was told where its primary is")
	}
	if truth(rows[0][1]) {
		steps = append(steps, "SELECT pg_wal_replay_resume()")
		did = append(did, "replay was paused, and goes on")
	}
	for _, sql := range steps {
		if _, err := query(ctx, p.o.Target.Options, sql); err != nil {
			return did, fmt.Errorf("tell the target where its primary is: %w", err)
		}
	}
	return did, nil
}

// gone reports whether the source has thrown away WAL that the standby lacks.
func (p *standby) gone(ctx context.Context, st engine.PhysicalState) (bool, error) {
	at, err := parseLSN(string(st.Applied))
	if err != nil {
		return false, nil
	}
	at += lsn(max(st.Unread, 0)) // received already
	// The oldest segment that is there. Its name is 24 digits: timeline, then number.
	rows, err := query(ctx, p.o.Source.Options, `SELECT min(substr(name, 9)), (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size') FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'`)
	if err != nil {
		if strings.Contains(err.Error(), "42501") {
			return false, nil // it takes pg_monitor
		}
		return false, fmt.Errorf("look which WAL the source has: %w", err)
	}
	name, size := string(rows[0][0]), uint64(count(rows[0][1]))
	if len(name) != 16 || size == 0 {
		return false, nil
	}
	high, err1 := strconv.ParseUint(name[:8], 16, 64)
	low, err2 := strconv.ParseUint(name[8:], 16, 64)
	if err := errors.Join(err1, err2); err != nil {
		return false, fmt.Errorf("read the name of segment %s: %w", name, err)
	}
	return uint64(at) < high<<32+low*size, nil
}

var divergedRE = regexp.MustCompile(`diverged at WAL location ([0-9A-F]+/[0-9A-F]+) on timeline ([0-9]+)`)

// rejoin turns a server that was primary before the source into its standby. One that
// is down is never started before it is a standby: it would take writes.
func (p *standby) rejoin(ctx context.Context, up bool) ([]string, error) {
	src, err := lineOf(ctx, p.o.Source.Options)
	if err != nil {
		return nil, fmt.Errorf("read the source's history: %w", err)
	}
	dst, clean, err := p.control(ctx)
	if err != nil {
		return nil, err
	}
	if up {
		if src, dst, err = p.lines(ctx); err != nil {
			return nil, err
		}
	}
	switch {
	case src.system != dst.system:
		return nil, fmt.Errorf("%s holds cluster %s, the source is %s: it is no copy of it; empty it, or name another directory", p.o.Target.Data, dst.system, src.system)
	case dst.timeline >= src.timeline:
		return nil, &engine.LeaderError{Why: fmt.Sprintf("it is on timeline %d, the source on %d", dst.timeline, src.timeline)}
	}
	info, err := p.conninfo(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.ensureSlot(ctx); err != nil {
		return nil, err
	}
	var did []string
	if up {
		if err := p.stop(ctx); err != nil {
			return nil, err
		}
		did = append(did, "the old primary was stopped")
	} else if !clean {
		if _, err := p.tool(ctx, "postgres", "--single", "-F", "-D", p.o.Target.Data, "template1"); err != nil {
			return nil, fmt.Errorf("recover the old primary, which crashed: %w", err)
		}
		did = append(did, "the old primary had crashed, and recovered without taking connections")
	}
	more, err := p.rewind(ctx, info)
	return append(did, more...), err
}

// rewind takes back what the stopped server alone has, and makes it a standby.
func (p *standby) rewind(ctx context.Context, info string) (did []string, err error) {
	args := []string{"--target-pgdata", p.o.Target.Data, "--source-server", info}
	said, err := p.tool(ctx, "pg_rewind", append(args, "--dry-run")...)
	if err != nil {
		return nil, err
	}
	if m := divergedRE.FindStringSubmatch(said); m != nil && !strings.Contains(said, "no rewind required") {
		lost, err := p.lost(ctx, m[1], m[2])
		if err != nil {
			return nil, err
		}
		text := fmt.Sprintf("%d changes of rows", lost)
		if lost > 0 && !p.o.Discard {
			return nil, &engine.DivergedError{Since: engine.Pos(m[1]), Lost: text,
				Remedy: "it stays stopped; save what matters from " + p.o.Target.Data + ", then allow to give the rest up"}
		}
		did = append(did, fmt.Sprintf("histories part at %s; the old primary had %s behind it, which are taken back", m[1], text))
	}
	if _, err := p.tool(ctx, "pg_rewind", append(args, "--write-recovery-conf")...); err != nil {
		return did, err
	}
	conf := path.Join(p.o.Target.Data, "postgresql.auto.conf")
	slot := strings.NewReader("primary_slot_name = '" + p.slot + "'\n")
	if err := p.o.Target.Run(ctx, slot, io.Discard, "sh", "-c", `cat >> "$1"`, "sh", conf); err != nil {
		return did, fmt.Errorf("name slot %s to the standby: %w", p.slot, err)
	}
	return append(did, "the old primary was rewound"), nil
}

// firstNormal is the least number of a file of a user's table.
const firstNormal = 16384

var changeRE = regexp.MustCompile(`desc: (?:INSERT|UPDATE|HOT_UPDATE|DELETE|MULTI_INSERT|TRUNCATE)\b.* rel [0-9]+/[0-9]+/([0-9]+)`)

// lost counts the changes of rows of users' tables that the stopped server has after a
// position. They need not have been committed.
func (p *standby) lost(ctx context.Context, from, timeline string) (int, error) {
	if err := p.find(ctx); err != nil {
		return 0, err
	}
	// It ends with an error where the WAL ends, so what it says of that is no guide.
	c := &counter{}
	err := p.o.Target.Run(ctx, nil, c, "sh", "-c", `"$@" 2>/dev/null; test $? -le 1`, "sh", path.Join(p.bin, "pg_waldump"),
		"-p", path.Join(p.o.Target.Data, "pg_wal"), "-t", timeline, "-s", from)
	if err != nil {
		return 0, fmt.Errorf("read what the old primary wrote last: %w", err)
	}
	if c.lines == 0 {
		return 0, fmt.Errorf("read what the old primary wrote last: pg_waldump says nothing from %s on", from)
	}
	return c.changes, nil
}

// counter counts lines of pg_waldump that tell of changed rows.
type counter struct {
	rest           []byte
	lines, changes int
}

func (c *counter) Write(b []byte) (int, error) {
	c.rest = append(c.rest, b...)
	for {
		s, rest, ok := strings.Cut(string(c.rest), "\n")
		if !ok {
			return len(b), nil
		}
		c.rest = []byte(rest)
		c.lines++
		if m := changeRE.FindStringSubmatch(s); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil && n >= firstNormal {
				c.changes++
			}
		}
	}
}
