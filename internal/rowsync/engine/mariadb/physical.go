package mariadb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// standby keeps a replica of a whole server with MariaDB's own tools: mariadb-backup
// for the seed and replication by GTID afterwards. Both servers are of the same
// version; accounts come over with the rest.
type standby struct{ o engine.PhysicalOptions }

var _ engine.PhysicalDriver = Driver{}

// Physical implements engine.PhysicalDriver.
func (Driver) Physical(o engine.PhysicalOptions) (engine.Physical, error) {
	for _, e := range []engine.PhysicalEnd{o.Source, o.Target} {
		if _, err := parseDSN(e.DSN); err != nil {
			return nil, err
		}
	}
	return &standby{o}, nil
}

const (
	// seedingMark is a file in the data directory while it is no replica yet.
	seedingMark = "leeward.seeding"
	// replicaThreads is how many transactions a replica applies at once, in the order of
	// commits: with one thread it falls behind a source that has several.
	replicaThreads = 4
	heartbeat      = 5 // seconds
)

// errNoServer says what the configuration lacks.
var errNoServer = errors.New("it is not known how to run commands there: say server: with data: and start: for that end in the configuration")

// at opens a server, has f use it, and closes it.
func at(ctx context.Context, o engine.Options, f func(*server) error) error {
	s, err := open(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.Close())
}

// slave is what a server says of the primary it follows; empty where it has none.
func (s *server) slave(ctx context.Context) (map[string]string, error) {
	c, err := s.text.Conn(ctx)
	if err != nil {
		return nil, explain(err)
	}
	defer c.Close()
	m, err := showAll(ctx, c, "SHOW SLAVE STATUS")
	if err != nil {
		return nil, fmt.Errorf("read the replica's state: %w", explain(err))
	}
	return m, nil
}

// State implements engine.Physical.
func (p *standby) State(ctx context.Context) (st engine.PhysicalState, err error) {
	st = engine.PhysicalState{Log: -1, Commits: -1, Unread: -1}
	err = at(ctx, p.o.Target.Options, func(s *server) error { return p.answering(ctx, s, &st) })
	if err == nil || !engine.Temporary(err) {
		return st, err
	}
	st.Phase, st.Trouble = engine.Down, err.Error()
	if p.o.Target.Run == nil {
		return st, nil
	}
	holds, err := p.files(ctx)
	switch {
	case err != nil:
		return st, err
	case holds == "foreign":
		return st, fmt.Errorf("look into %s at the target: it holds files that are no data of MariaDB; empty it, or name another directory", p.o.Target.Data)
	case holds == "nothing" || holds == "part":
		st.Phase, st.Trouble = engine.Nothing, ""
	}
	return st, nil
}

// answering is the state of a server that answers.
func (p *standby) answering(ctx context.Context, s *server, st *engine.PhysicalState) error {
	m, err := s.slave(ctx)
	if err != nil {
		return err
	}
	readOnly, err := s.variable(ctx, "read_only")
	if err != nil {
		return err
	}
	if st.Applied, err = slavePos(ctx, s); err != nil {
		return err
	}
	g, err := parseGTIDs(string(st.Applied))
	if err != nil {
		return err
	}
	st.Commits = 0
	for _, x := range g {
		st.Commits += int64(x.seq)
	}
	switch {
	case len(m) > 0:
		st.Phase = engine.Replica
	case readOnly == "ON":
		st.Phase, st.Trouble = engine.Replica, followsNobody
		return nil
	default:
		st.Phase = engine.Leader
		return nil
	}
	st.Following = m["Slave_IO_Running"] == "Yes" && m["Slave_SQL_Running"] == "Yes"
	st.Trouble = strings.TrimSpace(m["Last_IO_Error"] + " " + m["Last_SQL_Error"])
	switch {
	case !st.Following && st.Trouble == "":
		st.Trouble = "its threads are stopped"
	case st.Following && readOnly != "ON":
		st.Trouble = "read_only is OFF, so that applications could write to it: leeward replicate sets it; let the server's configuration say so too"
	}
	if st.Following {
		st.Heard = time.Now().UTC() // it hears from the source every few seconds, or stops
		if sec, err := strconv.ParseInt(m["Seconds_Behind_Master"], 10, 64); err == nil {
			st.Newest = st.Heard.Add(-time.Duration(sec) * time.Second)
		}
	}
	return nil
}

const followsNobody = "it is read-only and follows nobody"

// files says what the data directory holds: nothing, part of a backup, or data.
func (p *standby) files(ctx context.Context) (string, error) {
	const look = `cd "$1" 2>/dev/null || { echo nothing; exit; }
test -n "$(ls -A)" || { echo nothing; exit; }
test -e "$2" && { echo part; exit; }
test -e ibdata1 && { echo data; exit; }
echo foreign`
	var out bytes.Buffer
	if err := p.o.Target.Run(ctx, nil, &out, "sh", "-c", look, "sh", p.o.Target.Data, seedingMark); err != nil {
		return "", fmt.Errorf("look into %s at the target: %w", p.o.Target.Data, err)
	}
	return strings.TrimSpace(out.String()), nil
}

// turns is how many states a target goes through at most: down, a standby that lacks what
// is gone, nothing, down again, a standby.
const turns = 6

// Follow implements engine.Physical.
func (p *standby) Follow(ctx context.Context, tell func(string)) (did []string, err error) {
	for range turns {
		st, err := p.State(ctx)
		if err != nil {
			return did, err
		}
		again, more, err := p.turn(ctx, st, tell)
		if did = append(did, more...); err != nil || !again {
			return did, err
		}
	}
	return did, errors.New("make the target follow: it does not come to rest; see the target's log")
}

// turn does what a state asks for; again tells that another state is to be looked at.
func (p *standby) turn(ctx context.Context, st engine.PhysicalState, tell func(string)) (again bool, did []string, err error) {
	switch {
	case st.Phase == engine.Nothing:
		tell("copying the whole server")
		if err := p.seed(ctx); err != nil {
			return false, nil, err
		}
		return true, []string{"a backup was restored into " + p.o.Target.Data, "the server was started"}, nil
	case st.Phase == engine.Down:
		tell("starting the standby")
		return true, []string{"the server was started"}, p.start(ctx)
	case st.Phase == engine.Leader || st.Trouble == followsNobody:
		if p.o.Target.Run != nil {
			if holds, err := p.files(ctx); err != nil || holds == "part" {
				// Cut when the server had been started on the restored files.
				return err == nil, []string{"the seed was ended"}, errors.Join(err, p.finish(ctx))
			}
		}
		if st.Trouble == followsNobody {
			tell("bringing the old primary back")
			return p.rejoin(ctx)
		}
		return false, nil, &engine.LeaderError{Why: "read_only is OFF there and it follows nobody; fence it first if it is an old primary"}
	}
	tell("following")
	return p.resume(ctx)
}

// tools spells the name of a program of MariaDB's.
func tools(e engine.PhysicalEnd, name string) string {
	if e.Tools == "" {
		return name
	}
	return path.Join(e.Tools, name)
}

// seed copies the source's files and makes the server on them a replica. The source
// works on; its tables are held for moments at the end.
func (p *standby) seed(ctx context.Context) error {
	src, dst := p.o.Source, p.o.Target
	if src.Run == nil || src.Keep == nil {
		return fmt.Errorf("back up the source: %w", errNoServer)
	}
	if dst.Run == nil || dst.MakeData == nil || dst.Start == nil {
		return fmt.Errorf("restore at the target: %w", errNoServer)
	}
	if err := dst.MakeData(ctx); err != nil {
		return fmt.Errorf("make %s at the target: %w", dst.Data, err)
	}
	const clear = `find "$1" -mindepth 1 -delete && : > "$1/$2"`
	if err := dst.Run(ctx, nil, io.Discard, "sh", "-c", clear, "sh", dst.Data, seedingMark); err != nil {
		return fmt.Errorf("empty %s at the target: %w", dst.Data, err)
	}
	if err := p.copy(ctx); err != nil {
		if at(ctx, src.Options, func(*server) error { return nil }) != nil {
			return &engine.TemporaryError{Err: err}
		}
		return err
	}
	if err := dst.Run(ctx, nil, io.Discard, tools(dst, "mariadb-backup"), "--prepare", "--target-dir="+dst.Data); err != nil {
		return fmt.Errorf("prepare the backup: %w", err)
	}
	if err := p.start(ctx); err != nil {
		return err
	}
	return p.finish(ctx)
}

// finish makes a server that runs on restored files a replica.
func (p *standby) finish(ctx context.Context) error {
	dst := p.o.Target
	var out bytes.Buffer
	// The name of the file depends on the version.
	const info = `cd "$1" && cat mariadb_backup_binlog_info 2>/dev/null || cat xtrabackup_binlog_info`
	if err := dst.Run(ctx, nil, &out, "sh", "-c", info, "sh", dst.Data); err != nil {
		return fmt.Errorf("read the backup's position: %w", err)
	}
	pos, err := backupPos(out.String())
	if err != nil {
		return err
	}
	if err := p.follow(ctx, pos); err != nil {
		return err
	}
	if err := dst.Run(ctx, nil, io.Discard, "rm", "-f", path.Join(dst.Data, seedingMark)); err != nil {
		return fmt.Errorf("end the seed: %w", err)
	}
	return nil
}

// copy streams a backup from the source into the target's directory. mariadb-backup
// reads its password from a file, which is there for that time alone.
func (p *standby) copy(ctx context.Context) (err error) {
	src, dst := p.o.Source, p.o.Target
	defaults := src.Data + ".leeward.cnf"
	text, err := p.clientSettings(ctx)
	if err != nil {
		return err
	}
	if err := src.Keep(ctx, defaults, text); err != nil {
		return fmt.Errorf("keep the account at the source: %w", err)
	}
	defer func() {
		// As who wrote it: the owner of the data may not remove it there.
		err = errors.Join(err, src.Keep(context.WithoutCancel(ctx), defaults, nil))
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := src.Run(ctx, nil, w, tools(src, "mariadb-backup"), "--defaults-file="+defaults, "--backup", "--stream=mbstream", "--parallel=2", "--datadir="+src.Data)
		w.CloseWithError(err)
		sent <- err
	}()
	err = dst.Run(ctx, r, io.Discard, tools(dst, "mbstream"), "-x", "-C", dst.Data)
	r.CloseWithError(errors.New("the backup is not read any more"))
	if sendErr := <-sent; sendErr != nil {
		return fmt.Errorf("back up the source: %w", sendErr)
	}
	if err != nil {
		return fmt.Errorf("unpack the backup: %w", err)
	}
	return nil
}

// clientSettings are those of mariadb-backup at the source.
func (p *standby) clientSettings(ctx context.Context) ([]byte, error) {
	cfg, err := parseDSN(p.o.Source.DSN)
	if err != nil {
		return nil, err
	}
	pass := p.o.Source.Password
	if pass == "" {
		pass = cfg.Passwd
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "[mariadb-backup]\nuser=%s\npassword=%s\n", option(cfg.User), option(pass))
	// The server says itself where its socket is: the backup runs beside it.
	var socket string
	err = at(ctx, p.o.Source.Options, func(s *server) (err error) {
		socket, err = s.variable(ctx, "socket")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the source: %w", err)
	}
	if host, port, err := net.SplitHostPort(cfg.Addr); err == nil && cfg.Net != "unix" {
		if a := p.o.Source.Address; a != "" {
			host, port, err = net.SplitHostPort(a)
		}
		if err != nil {
			return nil, fmt.Errorf("read the address of the source: %w", err)
		}
		fmt.Fprintf(&b, "host=%s\nport=%s\nprotocol=tcp\n", option(host), port)
	} else {
		fmt.Fprintf(&b, "socket=%s\n", option(socket))
	}
	return b.Bytes(), nil
}

// option spells a value of an option file.
func option(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s) + `"`
}

// backupPos reads the line that a backup tells its position in: file, offset, GTIDs.
func backupPos(line string) (engine.Pos, error) {
	f := strings.Fields(line)
	if len(f) < 3 {
		return "", fmt.Errorf("the backup tells no GTID: %q; is log_bin on at the source, and was anything ever written?", line)
	}
	g, err := parseGTIDs(f[2])
	return g.pos(), err
}

// start starts the server and waits until it answers.
func (p *standby) start(ctx context.Context) error {
	if p.o.Target.Start == nil {
		return fmt.Errorf("start the server at the target: %w", errNoServer)
	}
	if err := p.o.Target.Start(ctx); err != nil {
		return fmt.Errorf("start the server in %s: %w", p.o.Target.Data, err)
	}
	until := time.Now().Add(5 * time.Minute)
	for {
		err := at(ctx, p.o.Target.Options, func(*server) error { return nil })
		if err == nil || !engine.Temporary(err) || time.Now().After(until) {
			return err
		}
		if err := retry.Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// follow makes the running replica follow from a position. It is read-only until
// Promote.
func (p *standby) follow(ctx context.Context, from engine.Pos) error {
	src, err := parseDSN(p.o.Source.DSN)
	if err != nil {
		return err
	}
	if p.o.Source.Password != "" {
		src.Passwd = p.o.Source.Password
	}
	addr := p.o.Source.Address
	if addr == "" {
		addr = src.Addr
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("make the replica follow: the source is reached by %s, which a replica cannot use: name its address, address: of server:, at this end", addr)
	}
	tls := 0
	if src.TLS != nil || src.TLSConfig != "" && src.TLSConfig != "false" {
		tls = 1
	}
	return at(ctx, p.o.Target.Options, func(s *server) error {
		for _, q := range []string{
			"STOP SLAVE",
			"SET GLOBAL read_only = 1",
			fmt.Sprintf("SET GLOBAL slave_parallel_threads = %d", replicaThreads),
			"SET GLOBAL slave_parallel_mode = 'optimistic'",
			"SET GLOBAL gtid_slave_pos = " + quoteText(string(from)),
			fmt.Sprintf("CHANGE MASTER TO master_host = %s, master_port = %s, master_user = %s, master_password = %s, master_ssl = %d, master_heartbeat_period = %d, master_use_gtid = slave_pos",
				quoteText(host), port, quoteText(src.User), quoteText(src.Passwd), tls, heartbeat),
			"START SLAVE",
		} {
			if _, err := s.text.ExecContext(ctx, q); err != nil {
				what, _, _ := strings.Cut(q, " TO ") // the rest holds the password
				return fmt.Errorf("make the replica follow: %s: %w", what, explain(err))
			}
		}
		return nil
	})
}
