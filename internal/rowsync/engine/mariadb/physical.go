package mariadb

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

// Run runs a command at a machine.
type Run func(ctx context.Context, stdin io.Reader, stdout io.Writer, name string, args ...string) error

// Physical keeps a replica of a whole server with MariaDB's own tools: mariadb-backup
// for the seed and replication by GTID afterwards. Both servers are of the same
// version; accounts come over with the rest.
type Physical struct {
	Source engine.Options // of an account that may make a backup, in a database of the source
	Target engine.Options // of one that may replicate, at the replica once it runs
	// AtSource runs a command where the source's files are, AtTarget one where the
	// replica's will be, as the owner of them.
	AtSource, AtTarget Run
	// Defaults is a file at the source with the client settings, password included,
	// of mariadb-backup: it would show in a list of processes otherwise.
	Defaults string
	Data     string // the replica's data directory, empty before Seed
	// How the replica reaches its primary.
	Host           string
	Port           int
	User, Password string
	TLS            bool
	Threads        int // that apply at once, in the order of commits; 0: 4
}

// PhysicalState is how far a replica is.
type PhysicalState struct {
	Running bool
	Applied engine.Pos
	Source  engine.Pos
	Behind  time.Duration // -1 where it is not known
	Error   string        // what stopped it
}

// Seed copies the source's files and returns the position they are of. The source
// works on; its tables are held for moments at the end. The replica is started by the
// caller then.
func (p *Physical) Seed(ctx context.Context) (engine.Pos, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		args := []string{"--backup", "--stream=mbstream", "--parallel=2"}
		if p.Defaults != "" {
			args = append([]string{"--defaults-file=" + p.Defaults}, args...)
		}
		err := p.AtSource(ctx, nil, w, "mariadb-backup", args...)
		w.CloseWithError(err)
		sent <- err
	}()
	err := p.AtTarget(ctx, r, io.Discard, "mbstream", "-x", "-C", p.Data)
	r.CloseWithError(errors.New("the backup is not read any more"))
	if sendErr := <-sent; sendErr != nil {
		return "", fmt.Errorf("back up the source: %w", sendErr)
	}
	if err != nil {
		return "", fmt.Errorf("unpack the backup: %w", err)
	}
	if err := p.AtTarget(ctx, nil, io.Discard, "mariadb-backup", "--prepare", "--target-dir="+p.Data); err != nil {
		return "", fmt.Errorf("prepare the backup: %w", err)
	}
	// The name of the file depends on the version.
	var out bytes.Buffer
	for _, name := range []string{"mariadb_backup_binlog_info", "xtrabackup_binlog_info"} {
		out.Reset()
		if err = p.AtTarget(ctx, nil, &out, "cat", path.Join(p.Data, name)); err == nil {
			return backupPos(out.String())
		}
	}
	return "", fmt.Errorf("read the backup's position: %w", err)
}

// backupPos reads the line that a backup tells its position in: file, offset, GTIDs.
func backupPos(line string) (engine.Pos, error) {
	f := strings.Fields(line)
	if len(f) < 3 {
		return "", fmt.Errorf("the backup tells no GTID: %q; is log_bin on at the source?", line)
	}
	g, err := parseGTIDs(f[2])
	return g.pos(), err
}

// Follow makes the running replica follow from a position. It is read-only until
// Promote.
func (p *Physical) Follow(ctx context.Context, from engine.Pos) error {
	g, err := parseGTIDs(string(from))
	if err != nil {
		return err
	}
	s, err := open(ctx, p.Target)
	if err != nil {
		return fmt.Errorf("open the replica: %w", err)
	}
	defer s.Close()
	tls, threads := 0, p.Threads
	if p.TLS {
		tls = 1
	}
	if threads == 0 {
		threads = 4
	}
	for _, q := range []string{
		"STOP SLAVE",
		"SET GLOBAL read_only = 1",
		// With one thread a replica falls behind a source that has several.
		fmt.Sprintf("SET GLOBAL slave_parallel_threads = %d", threads),
		"SET GLOBAL slave_parallel_mode = 'optimistic'",
		"SET GLOBAL gtid_slave_pos = " + quoteText(string(g.pos())),
		fmt.Sprintf("CHANGE MASTER TO master_host = %s, master_port = %d, master_user = %s, master_password = %s, master_ssl = %d, master_use_gtid = slave_pos",
			quoteText(p.Host), p.Port, quoteText(p.User), quoteText(p.Password), tls),
		"START SLAVE",
	} {
		if _, err := s.text.ExecContext(ctx, q); err != nil {
			what, _, _ := strings.Cut(q, " TO ") // the rest holds the password
			return fmt.Errorf("make the replica follow: %s: %w", what, explain(err))
		}
	}
	return nil
}

// State tells how far the replica is.
func (p *Physical) State(ctx context.Context) (PhysicalState, error) {
	st := PhysicalState{Behind: -1}
	s, err := open(ctx, p.Target)
	if err != nil {
		return st, fmt.Errorf("open the replica: %w", err)
	}
	defer s.Close()
	c, err := s.text.Conn(ctx)
	if err != nil {
		return st, explain(err)
	}
	defer c.Close()
	m, err := showAll(ctx, c, "SHOW SLAVE STATUS")
	if err != nil {
		return st, fmt.Errorf("read the replica's state: %w", explain(err))
	}
	st.Running = m["Slave_IO_Running"] == "Yes" && m["Slave_SQL_Running"] == "Yes"
	st.Error = strings.TrimSpace(m["Last_IO_Error"] + " " + m["Last_SQL_Error"])
	var sec int64
	if _, err := fmt.Sscan(m["Seconds_Behind_Master"], &sec); err == nil {
		st.Behind = time.Duration(sec) * time.Second
	}
	if st.Applied, err = slavePos(ctx, s); err != nil {
		return st, err
	}
	if src, err := open(ctx, p.Source); err == nil {
		defer src.Close()
		if g, _, err := src.binlogState(ctx); err == nil {
			st.Source = g.pos()
		}
	}
	return st, nil
}

func slavePos(ctx context.Context, s *server) (engine.Pos, error) {
	var v string
	if err := s.text.QueryRowContext(ctx, "SELECT @@GLOBAL.gtid_slave_pos").Scan(&v); err != nil {
		return "", fmt.Errorf("read the replica's position: %w", explain(err))
	}
	g, err := parseGTIDs(v)
	return g.pos(), err
}

// Drain waits until the replica has all that its source, fenced before, committed.
func (p *Physical) Drain(ctx context.Context) (engine.Pos, error) {
	src, err := open(ctx, p.Source)
	if err != nil {
		return "", fmt.Errorf("open the source: %w", err)
	}
	defer src.Close()
	want, _, err := src.binlogState(ctx)
	if err != nil {
		return "", err
	}
	for {
		st, err := p.State(ctx)
		if err != nil {
			return "", err
		}
		have, err := parseGTIDs(string(st.Applied))
		if err != nil {
			return "", err
		}
		if have.covers(want) {
			return st.Applied, nil
		}
		if !st.Running && st.Error != "" {
			return "", fmt.Errorf("drain: the replica stopped at %s: %s", st.Applied, st.Error)
		}
		if err := retry.Sleep(ctx, 100*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// Promote ends replication, once what was received is applied, and opens the replica
// for writes. It may be called again.
func (p *Physical) Promote(ctx context.Context) ([]string, error) {
	s, err := open(ctx, p.Target)
	if err != nil {
		return nil, fmt.Errorf("open the replica: %w", err)
	}
	defer s.Close()
	c, err := s.text.Conn(ctx)
	if err != nil {
		return nil, explain(err)
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, "STOP SLAVE IO_THREAD"); err != nil {
		return nil, fmt.Errorf("stop receiving: %w", explain(err))
	}
	for {
		m, err := showAll(ctx, c, "SHOW SLAVE STATUS")
		if err != nil {
			return nil, fmt.Errorf("read the replica's state: %w", explain(err))
		}
		// Empty: it was promoted already.
		if len(m) == 0 || strings.Contains(m["Slave_SQL_Running_State"], "has read all relay log") {
			break
		}
		if m["Slave_SQL_Running"] != "Yes" {
			return nil, fmt.Errorf("apply what was received: the replica stopped: %s; start it, or stop it for good with STOP SLAVE and RESET SLAVE ALL", m["Last_SQL_Error"])
		}
		if err := retry.Sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	at, err := slavePos(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, q := range []string{"STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = 0"} {
		if _, err := s.text.ExecContext(ctx, q); err != nil {
			return nil, fmt.Errorf("promote: %s: %w", q, explain(err))
		}
	}
	return []string{"replication ended at " + string(at), "read_only is OFF"}, nil
}

// Rejoin lets a server that was the primary follow the new one, p being the pair with
// the old primary as its target. It refuses one that holds transactions which the new
// primary does not have: that must be compared by rows, or seeded anew.
func (p *Physical) Rejoin(ctx context.Context) error {
	old, err := open(ctx, p.Target)
	if err != nil {
		return fmt.Errorf("open the old primary: %w", err)
	}
	defer old.Close()
	have, _, err := old.binlogState(ctx)
	if err != nil {
		return err
	}
	now, err := open(ctx, p.Source)
	if err != nil {
		return fmt.Errorf("open the new primary: %w", err)
	}
	defer now.Close()
	var v string
	if err := now.text.QueryRowContext(ctx, "SELECT @@GLOBAL.gtid_current_pos").Scan(&v); err != nil {
		return fmt.Errorf("read the new primary's position: %w", explain(err))
	}
	theirs, err := parseGTIDs(v)
	if err != nil {
		return err
	}
	var all []string
	if err := now.text.QueryRowContext(ctx, "SELECT @@GLOBAL.gtid_binlog_state").Scan(&v); err != nil {
		return fmt.Errorf("read the new primary's history: %w", explain(err))
	}
	all = strings.Split(v, ",")
	for d, g := range have {
		known := theirs[d].seq >= g.seq
		// Of what the old primary wrote itself the new one must have the last.
		if known && theirs[d].server != g.server {
			known = false
			for _, e := range all {
				s, err := parseGTIDs(strings.TrimSpace(e))
				if err == nil && s[d].server == g.server && s[d].seq >= g.seq {
					known = true
				}
			}
		}
		if !known {
			return fmt.Errorf("rejoin: the old primary has transaction %d-%d-%d, which the new one does not: compare them by rows, or seed it anew", d, g.server, g.seq)
		}
	}
	return p.Follow(ctx, have.pos())
}
