package mariadb

import (
	"strings"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// query handles what the binlog has as text: the ends of some transactions, and
// definitions.
func (f *feed) query(e *replication.QueryEvent) error {
	q := strings.TrimSpace(string(e.Query))
	up := strings.ToUpper(q[:min(len(q), 16)])
	switch {
	case up == "BEGIN" || strings.HasPrefix(up, "SAVEPOINT") || strings.HasPrefix(up, "# DUMMY"):
		return nil
	case up == "COMMIT" || strings.HasPrefix(up, "XA PREPARE"):
		return f.commit()
	case strings.HasPrefix(up, "XA START"), strings.HasPrefix(up, "XA END"):
		return nil
	case strings.HasPrefix(up, "XA ROLLBACK"):
		return f.commit()
	case strings.HasPrefix(up, "XA COMMIT"):
		return f.decided()
	case strings.HasPrefix(up, "ROLLBACK"):
		if f.changes != nil || f.begun {
			return &engine.Expired{Cause: "a transaction that writes tables without transactions was rolled back"}
		}
		if up == "ROLLBACK" {
			return f.commit()
		}
		return nil
	}
	return f.ddl(q, string(e.Schema), readSession(e.StatusVars))
}

// ddl yields a change of definitions, in the place it has.
func (f *feed) ddl(q, db string, s session) error {
	ansi := s.mode&modeAnsiQuotes != 0
	st := parseStatement(q, db, ansi)
	alone := f.flags&flagStandalone != 0
	if !st.ignored && f.concerns(st, q, db) {
		if err := f.flushIfAny(); err != nil {
			return err
		}
		p := f.definition(st, q, s, ansi)
		if alone {
			f.open = false
			f.at[f.domain] = f.id
			p.End = f.end()
		}
		f.begun = true
		return f.send(p)
	}
	if alone {
		return f.commit()
	}
	return nil
}

func (f *feed) flushIfAny() error {
	if f.changes == nil {
		return nil
	}
	return f.flush()
}

// concerns tells whether a statement is about this database and tables not left out.
func (f *feed) concerns(st statement, q, db string) bool {
	if len(st.refs) == 0 {
		return db == f.s.db || strings.Contains(q, f.s.db)
	}
	for _, r := range st.refs {
		if r.db == f.s.db && (r.name == "" || f.s.wanted(r.name)) {
			return true
		}
	}
	return false
}

// definition makes the piece of a statement.
func (f *feed) definition(st statement, q string, s session, ansi bool) engine.Piece {
	var names []engine.Name
	for _, r := range st.refs {
		if r.db == f.s.db && r.name != "" {
			names = append(names, engine.Name{Name: r.name})
		}
	}
	if st.truncate && len(names) == 1 {
		if f.tables[names[0].Name] == nil {
			return engine.Piece{}
		}
		return engine.Piece{Changes: []engine.Change{{Table: names[0], Truncate: true}}}
	}
	f.layouts = map[uint64]*layout{}
	return engine.Piece{DDL: []engine.DDL{{
		Statement: s.with(unqualified(q, f.s.db, ansi)), Database: f.s.db, Tables: names,
		// CREATE TABLE … SELECT comes with its rows in the same transaction.
		Follow: st.follow && f.flags&flagStandalone != 0,
	}}}
}
