package mariadb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

func slavePos(ctx context.Context, s *server) (engine.Pos, error) {
	var v string
	if err := s.text.QueryRowContext(ctx, "SELECT @@GLOBAL.gtid_slave_pos").Scan(&v); err != nil {
		return "", fmt.Errorf("read the replica's position: %w", explain(err))
	}
	g, err := parseGTIDs(v)
	return g.pos(), err
}

// resume has a replica that is set up follow; again tells that its data were removed,
// because the source has no longer what it lacks.
func (p *standby) resume(ctx context.Context) (again bool, did []string, err error) {
	begun := time.Now()
	// A restart forgets it, unless the server's configuration says it.
	err = at(ctx, p.o.Target.Options, func(s *server) error {
		if v, err := s.variable(ctx, "read_only"); err != nil || v == "ON" {
			return err
		}
		did = append(did, "read_only was OFF, and is ON")
		_, err := s.text.ExecContext(ctx, "SET GLOBAL read_only = 1")
		return explain(err)
	})
	if err != nil {
		return false, did, fmt.Errorf("make the replica read-only: %w", err)
	}
	// A source that has no longer what is asked for says so a moment after it was asked:
	// the threads must be seen at work twice.
	stopped, seen := false, 0
	for {
		var m map[string]string
		err := at(ctx, p.o.Target.Options, func(s *server) (err error) {
			if m, err = s.slave(ctx); err != nil || m["Slave_IO_Running"] == "Yes" && m["Slave_SQL_Running"] == "Yes" {
				return err
			}
			if !stopped {
				stopped = true
				did = append(did, "the replica's threads were started")
			}
			if m["Slave_IO_Running"] == "No" || m["Slave_SQL_Running"] == "No" {
				_, err = s.text.ExecContext(ctx, "START SLAVE")
			}
			return explain(err)
		})
		if err != nil {
			return false, did, fmt.Errorf("make the replica follow: %w", err)
		}
		why := strings.TrimSpace(m["Last_IO_Error"] + " " + m["Last_SQL_Error"])
		switch {
		case m["Slave_IO_Running"] == "Yes" && m["Slave_SQL_Running"] == "Yes":
			if err := p.sameSource(m); err != nil {
				return false, did, err
			}
			if seen++; seen > 1 {
				return false, did, nil
			}
		case m["Last_IO_Errno"] == fmt.Sprint(errBinlog) && m["Slave_IO_Running"] == "No":
			if err := p.onlyBehind(ctx, why); err != nil {
				return false, did, err
			}
			return true, append(did, "the source has no longer what the replica lacks ("+why+"): its data were removed"), p.clear(ctx)
		case time.Since(begun) > 30*time.Second && m["Last_SQL_Errno"] != "0":
			return false, did, fmt.Errorf("make the replica follow: it stopped: %s; mend it there, or empty its data directory to have it seeded anew", why)
		case time.Since(begun) > time.Minute:
			return false, did, &engine.TemporaryError{Err: fmt.Errorf("make the replica follow: %s", why)}
		}
		if err := retry.Sleep(ctx, 500*time.Millisecond); err != nil {
			return false, did, err
		}
	}
}

// onlyBehind makes sure that a replica which its source refuses is behind it, and has
// nothing that the source lacks: a source that was restored to an earlier time is no
// reason to give up what may be the only copy.
func (p *standby) onlyBehind(ctx context.Context, why string) error {
	st, err := p.State(ctx)
	if err != nil {
		return err
	}
	have, err := parseGTIDs(string(st.Applied))
	if err != nil {
		return err
	}
	mark, err := p.Mark(ctx)
	if err != nil {
		return err
	}
	source, err := parseGTIDs(string(mark))
	if err != nil {
		return err
	}
	if !strings.Contains(why, "purged") || !source.covers(have) {
		return fmt.Errorf("make the replica follow: it is at %s, the source at %s: the source's history is not what the replica followed, or is damaged; nothing was changed: %s", st.Applied, mark, why)
	}
	return nil
}

// sameSource refuses a replica of another primary.
func (p *standby) sameSource(m map[string]string) error {
	want := p.o.Source.Address
	if want == "" {
		cfg, err := parseDSN(p.o.Source.DSN)
		if err != nil {
			return err
		}
		want = cfg.Addr
	}
	if have := net.JoinHostPort(m["Master_Host"], m["Master_Port"]); have != want {
		return fmt.Errorf("the target follows %s, not %s: it is the replica of another; name the address it uses with server: address:, or have it follow nobody", have, want)
	}
	return nil
}

// clear stops the target and marks its data as none, so that they are made anew.
func (p *standby) clear(ctx context.Context) error {
	if p.o.Target.Stop == nil || p.o.Target.Run == nil {
		return fmt.Errorf("stop the server at the target: %w", errNoServer)
	}
	if err := p.o.Target.Run(ctx, nil, io.Discard, "sh", "-c", `: > "$1/$2"`, "sh", p.o.Target.Data, seedingMark); err != nil {
		return fmt.Errorf("mark %s at the target: %w", p.o.Target.Data, err)
	}
	if err := p.o.Target.Stop(ctx); err != nil {
		return fmt.Errorf("stop the server at the target: %w", err)
	}
	return nil
}

// rejoin lets a server that was the primary follow the new one. One that holds
// transactions which the new primary lacks is seeded anew, if that is allowed.
func (p *standby) rejoin(ctx context.Context) (again bool, did []string, err error) {
	var have, theirs gtids
	var all []string
	err = at(ctx, p.o.Target.Options, func(s *server) (err error) {
		have, _, err = s.binlogState(ctx)
		return err
	})
	if err != nil {
		return false, nil, fmt.Errorf("read the old primary's history: %w", err)
	}
	err = at(ctx, p.o.Source.Options, func(s *server) error {
		var pos, state, seeded string
		// What came with the seed is in no binlog of its own.
		err := s.text.QueryRowContext(ctx, "SELECT @@GLOBAL.gtid_current_pos, @@GLOBAL.gtid_binlog_state, @@GLOBAL.gtid_slave_pos").Scan(&pos, &state, &seeded)
		if err != nil {
			return explain(err)
		}
		all = strings.Split(state+","+seeded, ",")
		theirs, err = parseGTIDs(pos)
		return err
	})
	if err != nil {
		return false, nil, fmt.Errorf("read the new primary's history: %w", err)
	}
	if own, ok := unknown(have, theirs, all); ok {
		if !p.o.Discard {
			return false, nil, &engine.DivergedError{Since: theirs.pos(), Lost: "transaction " + own, Remedy: "compare them by rows, or allow to give it up: the old primary is seeded anew then"}
		}
		return true, []string{"the old primary had transaction " + own + ", which is given up: its data were removed"}, p.clear(ctx)
	}
	return false, []string{"the old primary follows the new one from " + string(have.pos())}, p.follow(ctx, have.pos())
}

// unknown finds a transaction of a server that another has not.
func unknown(have, theirs gtids, state []string) (string, bool) {
	for d, g := range have {
		known := theirs[d].seq >= g.seq
		// Of what the old primary wrote itself the new one must have the last.
		if known && theirs[d].server != g.server {
			known = slices.ContainsFunc(state, func(e string) bool {
				s, err := parseGTIDs(strings.TrimSpace(e))
				return err == nil && s[d].server == g.server && s[d].seq >= g.seq
			})
		}
		if !known {
			return fmt.Sprintf("%d-%d-%d", d, g.server, g.seq), true
		}
	}
	return "", false
}

// Fence implements engine.PhysicalRole: read_only is of the whole server.
func (p *standby) Fence(ctx context.Context, on bool, grace time.Duration) ([]string, error) {
	s, err := Driver{}.Source(ctx, p.o.Source.Options)
	if err != nil {
		return nil, err
	}
	said, err := s.Fence(ctx, on, grace)
	return said, errors.Join(err, s.Close())
}

// Mark implements engine.PhysicalRole.
func (p *standby) Mark(ctx context.Context) (mark engine.Pos, err error) {
	err = at(ctx, p.o.Source.Options, func(s *server) error {
		g, _, err := s.binlogState(ctx)
		mark = g.pos()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read where the source stands: %w", err)
	}
	return mark, nil
}

// Reached implements engine.PhysicalRole.
func (p *standby) Reached(ctx context.Context, mark engine.Pos) (bool, engine.Pos, error) {
	want, err := parseGTIDs(string(mark))
	if err != nil {
		return false, "", err
	}
	st, err := p.State(ctx)
	if err != nil {
		return false, "", err
	}
	have, err := parseGTIDs(string(st.Applied))
	switch {
	case err != nil:
		return false, "", err
	case st.Phase == engine.Leader:
		return false, "", &engine.LeaderError{Why: "it follows nobody"}
	case have.covers(want):
		return true, st.Applied, nil
	case !st.Following:
		return false, st.Applied, &engine.TemporaryError{Err: fmt.Errorf("the replica stopped at %s: %s", st.Applied, st.Trouble)}
	}
	return false, st.Applied, nil
}

// Promote implements engine.PhysicalRole.
func (p *standby) Promote(ctx context.Context) (evidence []string, err error) {
	st, err := p.State(ctx)
	if err != nil {
		return nil, err
	}
	if st.Phase == engine.Nothing {
		return nil, errors.New("promote the replica: there is none")
	}
	if st.Phase == engine.Down {
		if err := p.start(ctx); err != nil {
			return nil, fmt.Errorf("promote the replica: %w", err)
		}
		evidence = append(evidence, "the server was down and has been started")
	}
	err = at(ctx, p.o.Target.Options, func(s *server) error {
		if err := finishRelay(ctx, s); err != nil {
			return err
		}
		pos, err := slavePos(ctx, s)
		if err != nil {
			return err
		}
		for _, q := range []string{"STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = 0"} {
			if _, err := s.text.ExecContext(ctx, q); err != nil {
				return fmt.Errorf("%s: %w", q, explain(err))
			}
		}
		evidence = append(evidence, "replication ended at "+string(pos), "read_only is OFF")
		return nil
	})
	if err != nil {
		return evidence, fmt.Errorf("promote the replica: %w", err)
	}
	return evidence, nil
}

// finishRelay stops receiving and waits until what was received is applied.
func finishRelay(ctx context.Context, s *server) error {
	if _, err := s.text.ExecContext(ctx, "STOP SLAVE IO_THREAD"); err != nil {
		return fmt.Errorf("stop receiving: %w", explain(err))
	}
	started := false
	for {
		m, err := s.slave(ctx)
		if err != nil {
			return err
		}
		// Empty: it was promoted already.
		if len(m) == 0 || strings.Contains(m["Slave_SQL_Running_State"], "has read all relay log") {
			return nil
		}
		if m["Slave_SQL_Running"] != "Yes" {
			if started {
				return fmt.Errorf("apply what was received: the replica stopped: %s; start it, or stop it for good with STOP SLAVE and RESET SLAVE ALL", m["Last_SQL_Error"])
			}
			started = true
			if _, err := s.text.ExecContext(ctx, "START SLAVE SQL_THREAD"); err != nil {
				return fmt.Errorf("apply what was received: %w", explain(err))
			}
		}
		if err := retry.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// Size implements engine.PhysicalRole.
func (p *standby) Size(ctx context.Context) (n int64, err error) {
	err = at(ctx, p.o.Source.Options, func(s *server) error {
		err := s.text.QueryRowContext(ctx, "SELECT IFNULL(SUM(file_size), 0) FROM information_schema.innodb_sys_tablespaces").Scan(&n)
		if err != nil || n == 0 { // it takes PROCESS
			err = s.text.QueryRowContext(ctx, "SELECT IFNULL(SUM(data_length + index_length), 0) FROM information_schema.tables").Scan(&n)
		}
		return explain(err)
	})
	if err != nil {
		return 0, fmt.Errorf("read the size of the source: %w", err)
	}
	return n, nil
}

// Databases implements engine.Physical.
func (p *standby) Databases(ctx context.Context) (out []engine.PhysicalDatabase, err error) {
	err = at(ctx, p.o.Source.Options, func(s *server) error {
		names, err := s.strings(ctx, "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', '"+own+"') ORDER BY 1")
		for _, n := range names {
			out = append(out, engine.PhysicalDatabase{Name: n, Source: inDatabase(p.o.Source.Options, n), Target: inDatabase(p.o.Target.Options, n)})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	return out, nil
}

// inDatabase returns the options for another database of the same server.
func inDatabase(o engine.Options, database string) engine.Options {
	if strings.HasPrefix(o.DSN, "mariadb://") || strings.HasPrefix(o.DSN, "mysql://") {
		if u, err := url.Parse(o.DSN); err == nil {
			u.Path = "/" + database
			o.DSN = u.String()
		}
		return o
	}
	if cfg, err := mysql.ParseDSN(o.DSN); err == nil {
		cfg.DBName = database
		o.DSN = cfg.FormatDSN()
	}
	return o
}
