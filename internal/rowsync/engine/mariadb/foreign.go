package mariadb

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Foreign implements engine.Role. It reads the target's own binlog since Standby, or
// since it was read last: a transaction of ours changes the stream's record, and one
// that writes the tables without doing so is somebody else's.
func (t *Target) Foreign(ctx context.Context, stream string, tables []*engine.Table) ([]engine.Finding, error) {
	unknown := func(why, remedy string) []engine.Finding {
		return []engine.Finding{{Severity: engine.Note, Object: "log_bin", Text: "whether others wrote to the target cannot be told: " + why, Remedy: remedy}}
	}
	if v, err := t.variable(ctx, "log_bin"); err != nil || v != "ON" {
		return unknown("it writes no binlog", "set log_bin=binlog in the configuration and restart"), err
	}
	if v, err := t.variable(ctx, "binlog_format"); err != nil || v != "ROW" {
		return unknown("its binlog_format is "+v, "SET GLOBAL binlog_format = ROW"), err
	}
	var pos, seen string
	err := t.text.QueryRowContext(ctx, "SELECT pos, seen FROM leeward.watch WHERE db = ? AND name = ?", t.db, stream).Scan(&pos, &seen)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read position: %w", explain(err))
	}
	from, err := parseGTIDs(pos)
	if err != nil {
		return nil, err
	}
	to, _, err := t.binlogState(ctx)
	if err != nil {
		return nil, err
	}
	w := &watcher{db: t.db, tables: map[string]bool{}, at: from, found: map[string]bool{}}
	for _, x := range tables {
		w.tables[x.Name.Name] = true
	}
	for _, n := range strings.Fields(seen) {
		w.found[n] = true
	}
	if !from.covers(to) {
		if err := t.watch(ctx, w, to); err != nil {
			if number(err) == errPrivilege || number(err) == errAccess || number(err) == errBinlog {
				return unknown(err.Error(), "GRANT REPLICATION SLAVE ON *.* TO the account at the target"), nil
			}
			return nil, fmt.Errorf("read the target's binlog: %w", feedError(err))
		}
	}
	names := slices.Sorted(maps.Keys(w.found))
	_, err = t.text.ExecContext(ctx, "UPDATE leeward.watch SET pos = ?, seen = ? WHERE db = ? AND name = ?",
		string(w.at.pos()), strings.Join(names, " "), t.db, stream)
	if err != nil {
		return nil, fmt.Errorf("store position: %w", explain(err))
	}
	var out []engine.Finding
	for _, n := range names {
		table, id, _ := strings.Cut(n, "@")
		out = append(out, engine.Finding{
			Severity: engine.Warning, Object: table,
			Text:   "it was written at the target by somebody else, in transaction " + id,
			Remedy: "make the applications' accounts read-only there, and verify",
		})
	}
	return out, nil
}

// watcher looks for transactions that are not ours.
type watcher struct {
	db     string
	tables map[string]bool
	at     gtids
	found  map[string]bool // table@transaction; of each table the first

	domain uint32
	id     gtid
	ours   bool
	hit    map[string]bool
}

// watch reads the binlog up to a position.
func (t *Target) watch(ctx context.Context, w *watcher, to gtids) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	syncer, err := t.syncer()
	if err != nil {
		return err
	}
	defer syncer.Close()
	set, err := mysql.ParseMariadbGTIDSet(string(w.at.pos()))
	if err != nil {
		return err
	}
	events, err := syncer.StartSyncGTID(set)
	if err != nil {
		return err
	}
	for !w.at.covers(to) {
		e, err := events.GetEvent(ctx)
		if err != nil {
			return err
		}
		w.event(e)
	}
	return nil
}

func (w *watcher) event(e *replication.BinlogEvent) {
	switch v := e.Event.(type) {
	case *replication.MariadbGTIDEvent:
		w.domain, w.id = v.GTID.DomainID, gtid{v.GTID.ServerID, v.GTID.SequenceNumber}
		w.ours, w.hit = false, map[string]bool{}
	case *replication.RowsEvent:
		db, name := string(v.Table.Schema), string(v.Table.Table)
		if db == own && name == "stream" {
			w.ours = true
		}
		if db == w.db && w.tables[name] {
			w.hit[name] = true
		}
	case *replication.XIDEvent:
		w.commit()
	case *replication.QueryEvent:
		q := strings.ToUpper(string(v.Query))
		if q == "BEGIN" || strings.HasPrefix(q, "SAVEPOINT") {
			return
		}
		if st := parseStatement(string(v.Query), string(v.Schema), false); st.truncate && st.refs[0].db == w.db && w.tables[st.refs[0].name] {
			w.hit[st.refs[0].name] = true
		}
		w.commit()
	case *replication.GenericEvent:
		if e.Header.EventType == replication.XA_PREPARE_LOG_EVENT {
			w.commit()
		}
	}
}

func (w *watcher) commit() {
	if w.hit == nil {
		return
	}
	w.at[w.domain] = w.id
	for n := range w.hit {
		known := false
		for f := range w.found {
			known = known || strings.HasPrefix(f, n+"@")
		}
		if !w.ours && !known {
			w.found[fmt.Sprintf("%s@%d-%d-%d", n, w.domain, w.id.server, w.id.seq)] = true
		}
	}
	w.hit = nil
}
