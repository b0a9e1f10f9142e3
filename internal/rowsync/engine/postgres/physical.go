package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// standby keeps a copy of a whole cluster with PostgreSQL's own tools: pg_basebackup
// with a replication slot, streaming, pg_promote, pg_rewind. It is exact, with
// everything in it, and of the same major version.
//
// No password stands among arguments: the tools and the standby read the passfile
// that is kept beside the data.
type standby struct {
	o    engine.PhysicalOptions
	slot string
	bin  string // found once
}

var _ engine.PhysicalDriver = Driver{}

// Physical implements engine.PhysicalDriver.
func (Driver) Physical(o engine.PhysicalOptions) (engine.Physical, error) {
	for _, e := range []*engine.PhysicalEnd{&o.Source, &o.Target} {
		if _, err := parse(e.Options); err != nil {
			return nil, err
		}
	}
	return &standby{o: o, slot: objectName(strings.TrimPrefix(o.Name, "leeward_")), bin: o.Target.Tools}, nil
}

// query runs one statement at an end.
func query(ctx context.Context, o engine.Options, sql string, args ...string) ([][][]byte, error) {
	s, err := parse(o)
	if err != nil {
		return nil, err
	}
	db := newPool(s.session(nil))
	defer db.close()
	return db.query(ctx, sql, args...)
}

// tool runs one of PostgreSQL's programs at the target, as the owner of the data. What
// it says on either output is returned.
func (p *standby) tool(ctx context.Context, name string, args ...string) (string, error) {
	if p.o.Target.Run == nil {
		return "", fmt.Errorf("run %s at the target: it is not known how: say server: with data: for the target in the configuration", name)
	}
	if err := p.find(ctx); err != nil {
		return "", err
	}
	var out bytes.Buffer
	err := p.o.Target.Run(ctx, nil, &out, append([]string{"sh", "-c", `exec "$@" 2>&1`, "sh", path.Join(p.bin, name)}, args...)...)
	if err != nil {
		return out.String(), fmt.Errorf("run %s: %w: %s", name, err, tail(out.Bytes()))
	}
	return out.String(), nil
}

// find looks for the programs of the source's version where Debian keeps them.
func (p *standby) find(ctx context.Context) error {
	if p.bin != "" {
		return nil
	}
	const look = `d=$(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin 2>/dev/null | sort -V)
v=$(cat "$1/PG_VERSION" 2>/dev/null); test -n "$v" || v=$2
for x in $d; do case $x in */"$v"/*|*-"$v"/*) echo "$x"; exit;; esac; done; dirname "$(command -v pg_ctl)" || true`
	version := ""
	if rows, err := query(ctx, p.o.Source.Options, "SELECT current_setting('server_version_num')::int / 10000"); err == nil {
		version = string(rows[0][0])
	}
	var out bytes.Buffer
	if err := p.o.Target.Run(ctx, nil, &out, "sh", "-c", look, "sh", p.o.Target.Data, version); err != nil {
		return fmt.Errorf("look for PostgreSQL's programs at the target: %w", err)
	}
	if p.bin = strings.TrimSpace(out.String()); p.bin == "" {
		return fmt.Errorf("look for PostgreSQL's programs at the target: there are none; install PostgreSQL %s, or name their directory in tools: of server:, at this end", version)
	}
	return nil
}

// tail keeps the end of what a tool printed, where it says why it failed.
func tail(b []byte) string {
	s := strings.TrimSpace(string(b))
	if len(s) > 500 {
		s = "…" + s[len(s)-500:]
	}
	return s
}

// files says what the data directory holds: nothing, part of a base backup, a standby,
// or the data of a server that was no standby.
func (p *standby) files(ctx context.Context) (string, error) {
	const look = `cd "$1" 2>/dev/null || { echo nothing; exit; }
test -n "$(ls -A)" || { echo nothing; exit; }
test -s global/pg_control && { if test -e standby.signal; then echo standby; else echo data; fi; exit; }
test -e backup_label -o -e backup_manifest.tmp -o -d pg_wal && { echo part; exit; }
echo foreign`
	var out bytes.Buffer
	if err := p.o.Target.Run(ctx, nil, &out, "sh", "-c", look, "sh", p.o.Target.Data); err != nil {
		return "", fmt.Errorf("look into %s at the target: %w", p.o.Target.Data, err)
	}
	return strings.TrimSpace(out.String()), nil
}

// State implements engine.Physical.
func (p *standby) State(ctx context.Context) (engine.PhysicalState, error) {
	st := engine.PhysicalState{Log: -1, Commits: -1, Unread: -1}
	rows, err := query(ctx, p.o.Target.Options, `SELECT pg_is_in_recovery(), COALESCE(pg_last_wal_replay_lsn()::text, ''), COALESCE(pg_last_wal_receive_lsn()::text, ''),
		COALESCE(extract(epoch FROM pg_last_xact_replay_timestamp())::float8, 0), COALESCE((SELECT status FROM pg_stat_wal_receiver), ''),
		COALESCE((SELECT extract(epoch FROM last_msg_receipt_time) FROM pg_stat_wal_receiver)::float8, 0),
		CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END`)
	switch {
	case err == nil:
	case !engine.Temporary(err):
		return st, fmt.Errorf("look at the target: %w", err)
	case p.o.Target.Run == nil:
		st.Phase, st.Trouble = engine.Down, err.Error()
		return st, nil
	default:
		return p.silent(ctx, st, err)
	}
	v := rows[0]
	st.Phase = engine.Leader
	if !truth(v[0]) {
		return st, nil
	}
	st.Phase, st.Applied, st.Following = engine.Replica, engine.Pos(v[1]), string(v[4]) == "streaming"
	st.Newest, st.Heard = instant(v[3]), instant(v[5])
	if at, err := parseLSN(string(v[1])); err == nil {
		st.Log, st.Unread = int64(at), 0
		if got, err := parseLSN(string(v[2])); err == nil && got > at {
			st.Unread = int64(got - at)
		}
	}
	if truth(v[6]) {
		st.Following, st.Trouble = false, paused
	} else if !st.Following {
		st.Trouble = "it does not receive from the source: see the target's log"
	}
	return st, nil
}

// paused is the trouble of a standby whose replay somebody has paused.
const paused = "replay is paused"

// silent is the state of a target that does not answer.
func (p *standby) silent(ctx context.Context, st engine.PhysicalState, why error) (engine.PhysicalState, error) {
	holds, err := p.files(ctx)
	if err != nil {
		return st, err
	}
	switch holds {
	case "nothing":
	case "part":
		st.Trouble = "a base backup was cut: it is made anew"
	case "foreign":
		return st, fmt.Errorf("look into %s at the target: it holds files that are no cluster of PostgreSQL; empty it, or name another directory", p.o.Target.Data)
	default:
		st.Phase, st.Trouble = engine.Down, why.Error()
	}
	return st, nil
}

func instant(b []byte) time.Time {
	var sec float64
	if _, err := fmt.Sscan(string(b), &sec); err != nil || sec == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(sec * 1e6)).UTC()
}

// turns is how many states a target goes through at most: down, a standby that lacks what
// is gone, nothing, down again, a standby.
const turns = 6

// Follow implements engine.Physical.
func (p *standby) Follow(ctx context.Context, tell func(string)) ([]string, error) {
	var did []string
	for range turns {
		st, err := p.State(ctx)
		if err != nil {
			return did, err
		}
		switch st.Phase {
		case engine.Nothing:
			tell("copying the whole server")
			if err := p.seed(ctx); err != nil {
				return did, err
			}
			did = append(did, "a base backup was made in "+p.o.Target.Data)
		case engine.Down:
			more, err := p.wake(ctx, st, tell)
			if did = append(did, more...); err != nil {
				return did, err
			}
		case engine.Leader:
			tell("rewinding the old primary")
			more, err := p.rejoin(ctx, true)
			if did = append(did, more...); err != nil {
				return did, err
			}
		case engine.Replica:
			tell("following")
			again, more, err := p.resume(ctx)
			if did = append(did, more...); err != nil || !again {
				return did, err
			}
		}
	}
	return did, errors.New("make the target follow: it does not come to rest; see the target's log")
}

// wake starts a standby that is down. A former primary becomes a standby first.
func (p *standby) wake(ctx context.Context, st engine.PhysicalState, tell func(string)) (did []string, err error) {
	if p.o.Target.Run != nil {
		holds, err := p.files(ctx)
		if err != nil {
			return nil, err
		}
		if holds == "data" && !strings.Contains(st.Trouble, "57P03") {
			tell("rewinding the old primary")
			if did, err = p.rejoin(ctx, false); err != nil {
				return did, err
			}
		}
	}
	tell("starting the standby")
	if err := p.start(ctx, st); err != nil {
		return did, err
	}
	return append(did, "the server was started"), nil
}

// sourceAddress is where the source is, as the target sees it.
func (p *standby) sourceAddress() (host, port string, err error) {
	s, err := parse(p.o.Source.Options)
	if err != nil {
		return "", "", err
	}
	if h, n, ok := strings.Cut(p.o.Source.Address, ":"); ok {
		return h, n, nil
	}
	return s.config.Host, fmt.Sprint(s.config.Port), nil
}

// conninfo is how tools and the server at the target reach the source.
func (p *standby) conninfo(ctx context.Context) (string, error) {
	s, err := parse(p.o.Source.Options)
	if err != nil {
		return "", err
	}
	c := s.config
	host, port, err := p.sourceAddress()
	if err != nil {
		return "", err
	}
	out := []string{"host=" + quoteInfo(host), "port=" + port, "user=" + quoteInfo(c.User), "dbname=" + quoteInfo(c.Database), "application_name=" + p.slot}
	for k, v := range dsnParams(p.o.Source.DSN) {
		if strings.HasPrefix(k, "ssl") || k == "channel_binding" || k == "gssencmode" || k == "connect_timeout" {
			out = append(out, k+"="+quoteInfo(v))
		}
	}
	if c.Password != "" {
		if p.o.Target.Keep == nil {
			return "", errors.New("keep the password of the source at the target: it is not known how: say server: with data: for the target in the configuration")
		}
		file := p.o.Target.Data + ".pgpass"
		esc := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
		if err := p.o.Target.Keep(ctx, file, []byte("*:*:*:"+esc.Replace(c.User)+":"+esc.Replace(c.Password)+"\n")); err != nil {
			return "", fmt.Errorf("keep the password of the source at the target: %w", err)
		}
		out = append(out, "passfile="+quoteInfo(file))
	}
	return strings.Join(out, " "), nil
}

// seed makes the data directory by a base backup, and the slot at the source.
func (p *standby) seed(ctx context.Context) error {
	info, err := p.conninfo(ctx)
	if err != nil {
		return err
	}
	if err := p.ensureSlot(ctx); err != nil {
		return err
	}
	if err := p.alone(ctx); err != nil {
		return err
	}
	if err := p.empty(ctx); err != nil {
		return err
	}
	_, err = p.tool(ctx, "pg_basebackup", "-d", info, "-D", p.o.Target.Data, "-X", "stream", "-S", p.slot, "-c", "fast", "-R", "--no-password")
	if err != nil && !p.reachable(ctx) {
		return &engine.TemporaryError{Err: err} // the link, not the tool
	}
	return err
}

// alone ends what a base backup that was cut has left: its processes at the target,
// before they tidy up in a directory that is not theirs any more, and what they held
// at the source. Nothing else has to do with the slot while there is no standby.
func (p *standby) alone(ctx context.Context) error {
	const kill = `for x in /proc/[0-9]*; do
if test "$(cat "$x/comm" 2>/dev/null)" = pg_basebackup && tr "\0" "\n" <"$x/cmdline" 2>/dev/null | grep -qxF -e "$1"; then kill -9 "${x#/proc/}"; fi; done; exit 0`
	if err := p.o.Target.Run(ctx, nil, io.Discard, "sh", "-c", kill, "sh", p.o.Target.Data); err != nil {
		return fmt.Errorf("end a base backup that was cut: %w", err)
	}
	const held = `SELECT pid FROM pg_stat_replication WHERE application_name = $1 UNION SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1 AND active`
	for range 50 {
		rows, err := query(ctx, p.o.Source.Options, "SELECT pid, pg_terminate_backend(pid) FROM ("+held+") x", p.slot)
		if err != nil {
			return fmt.Errorf("end a base backup that was cut: %w", err)
		}
		if len(rows) == 0 {
			return nil
		}
		if err := retry.Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	return &engine.TemporaryError{Err: fmt.Errorf("make a base backup: somebody else follows by slot %s at the source", p.slot)}
}

// reachable reports whether the source answers now.
func (p *standby) reachable(ctx context.Context) bool {
	_, err := query(ctx, p.o.Source.Options, "SELECT 1")
	return err == nil || !engine.Temporary(err)
}

// empty makes the data directory, and empties one that holds part of a base backup or
// a standby that cannot go on. What it is was looked at before.
func (p *standby) empty(ctx context.Context) error {
	if p.o.Target.MakeData == nil {
		return errors.New("make the target's data directory: it is not known how: say server: with data: for the target in the configuration")
	}
	if err := p.o.Target.MakeData(ctx); err != nil {
		return fmt.Errorf("make %s at the target: %w", p.o.Target.Data, err)
	}
	if err := p.o.Target.Run(ctx, nil, io.Discard, "find", p.o.Target.Data, "-mindepth", "1", "-delete"); err != nil {
		return fmt.Errorf("empty %s at the target: %w", p.o.Target.Data, err)
	}
	return nil
}

// ensureSlot makes the slot of the standby at the source.
func (p *standby) ensureSlot(ctx context.Context) error {
	rows, err := query(ctx, p.o.Source.Options, "SELECT slot_type, COALESCE(to_jsonb(s) ->> 'wal_status', '') FROM pg_replication_slots s WHERE slot_name = $1", p.slot)
	if err != nil {
		return fmt.Errorf("look for slot %s at the source: %w", p.slot, err)
	}
	if len(rows) > 0 {
		if string(rows[0][0]) != "physical" {
			return fmt.Errorf("slot %s at the source is a logical one: remove the row replication of this database first", p.slot)
		}
		if string(rows[0][1]) != "lost" {
			return nil
		}
		if _, err := query(ctx, p.o.Source.Options, "SELECT pg_drop_replication_slot($1)", p.slot); err != nil {
			return fmt.Errorf("drop slot %s that was lost: %w", p.slot, err)
		}
	}
	if _, err := query(ctx, p.o.Source.Options, "SELECT pg_create_physical_replication_slot($1, true)", p.slot); err != nil {
		return fmt.Errorf("make slot %s at the source: %w", p.slot, err)
	}
	return nil
}

// start starts the server in the data directory and waits until it answers.
func (p *standby) start(ctx context.Context, st engine.PhysicalState) error {
	if strings.Contains(st.Trouble, "57P03") { // it is on its way
		return p.await(ctx, time.Minute)
	}
	if p.o.Target.Start != nil {
		if err := p.o.Target.Start(ctx); err != nil {
			return fmt.Errorf("start the server in %s: %w", p.o.Target.Data, err)
		}
		return p.await(ctx, 5*time.Minute)
	}
	s, err := parse(p.o.Target.Options)
	if err != nil {
		return err
	}
	data := p.o.Target.Data
	if _, err := p.tool(ctx, "pg_ctl", "start", "-w", "-s", "-t", "600", "-D", data, "-l", path.Join(data, "leeward.log"), "-o", fmt.Sprintf("-c port=%d", s.config.Port)); err != nil {
		return fmt.Errorf("%w; where its configuration is not in %s, name the command that starts it in start: of server:, at this end", err, data)
	}
	return p.await(ctx, time.Minute)
}

// await waits until the target answers.
func (p *standby) await(ctx context.Context, most time.Duration) error {
	until := time.Now().Add(most)
	for {
		_, err := query(ctx, p.o.Target.Options, "SELECT 1")
		if err == nil || !engine.Temporary(err) || time.Now().After(until) {
			return err
		}
		if err := retry.Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// stop ends the server in the data directory after a checkpoint.
func (p *standby) stop(ctx context.Context) error {
	if p.o.Target.Stop != nil {
		if err := p.o.Target.Stop(ctx); err != nil {
			return fmt.Errorf("stop the server in %s: %w", p.o.Target.Data, err)
		}
		return nil
	}
	_, err := p.tool(ctx, "pg_ctl", "stop", "-w", "-s", "-m", "fast", "-t", "600", "-D", p.o.Target.Data)
	return err
}
