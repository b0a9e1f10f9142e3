package mariadb

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	pieceSize = 1 << 20          // about how much a piece holds
	beat      = time.Second      // how long the server is silent before it says so
	silence   = 30 * time.Second // after which the connection counts as lost
)

// Flags of a GTID event, see https://mariadb.com/kb/en/gtid_event/.
const (
	flagStandalone = 1
	flagPreparedXA = 64
)

// flagNoForeignKeys of a rows event tells that the session had foreign_key_checks=0,
// so nothing cascaded. See https://mariadb.com/kb/en/rows_event_v1v2/.
const flagNoForeignKeys = 2

// Changes implements engine.Feed. A lost connection ends it with a TemporaryError;
// the caller begins again at the last position it made durable.
func (s *Source) Changes(ctx context.Context, _ string, tables []*engine.Table, after engine.Pos) iter.Seq2[engine.Piece, error] {
	return func(yield func(engine.Piece, error) bool) {
		f, err := s.newFeed(ctx, tables, after)
		if err == nil {
			err = f.run(ctx, yield)
		}
		if err != nil && !errors.Is(err, errStop) {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			yield(engine.Piece{}, err)
		}
	}
}

// feed turns the events of a binlog into pieces.
type feed struct {
	s         *Source
	tables    map[string]*engine.Table
	sequences map[string]bool
	layouts   map[uint64]*layout
	acting    map[string][]engine.Name // of tables whose children the server changes: those
	at        gtids
	offset    time.Duration // of the source's clock
	yield     func(engine.Piece, error) bool
	told      time.Time // when something was yielded last

	// Of the transaction that is open.
	open     bool
	id       gtid
	domain   uint32
	flags    byte
	time     time.Time
	changes  []engine.Change
	size     int
	counters []engine.Counter
	begun    bool // something of it was yielded
	touched  map[string]bool

	xaSeen   bool            // some transaction was prepared since this began
	xaTables map[string]bool // tables of ours that such ones touched
}

func (s *Source) newFeed(ctx context.Context, tables []*engine.Table, after engine.Pos) (*feed, error) {
	at, err := parseGTIDs(string(after))
	if err != nil {
		return nil, err
	}
	state, now, err := s.binlogState(ctx)
	if err != nil {
		return nil, err
	}
	if !state.covers(at) {
		return nil, &engine.Expired{Cause: fmt.Sprintf("its binlog ends at %s, before %s: it was restored to an earlier time, or replaced", state.pos(), at.pos())}
	}
	f := &feed{
		s: s, at: at, tables: map[string]*engine.Table{}, sequences: map[string]bool{}, layouts: map[uint64]*layout{},
		offset: time.Until(now), told: time.Now(), touched: map[string]bool{}, xaTables: map[string]bool{},
	}
	for _, t := range tables {
		if t.Refused == "" {
			f.tables[t.Name.Name] = t
		}
	}
	names, err := s.sequences(ctx)
	for _, n := range names {
		f.sequences[n] = true
	}
	if err != nil {
		return nil, fmt.Errorf("read sequences: %w", err)
	}
	f.acting, err = s.actingParents(ctx)
	return f, err
}

// actingParents lists the tables whose deletes or new keys change rows of others.
func (s *server) actingParents(ctx context.Context) (map[string][]engine.Name, error) {
	rows, err := s.strings(ctx, `SELECT CONCAT(referenced_table_name, '\0', table_name) FROM information_schema.referential_constraints
		WHERE constraint_schema = ? AND (delete_rule NOT IN ('RESTRICT', 'NO ACTION') OR update_rule NOT IN ('RESTRICT', 'NO ACTION'))`, s.db)
	if err != nil {
		return nil, fmt.Errorf("read foreign keys: %w", err)
	}
	out := map[string][]engine.Name{}
	for _, r := range rows {
		parent, child, _ := strings.Cut(r, "\x00")
		out[parent] = append(out[parent], engine.Name{Name: child})
	}
	return out, nil
}

// binlogState returns the last transactions in the binlog, and the server's time.
func (s *server) binlogState(ctx context.Context) (gtids, time.Time, error) {
	var pos, now string
	if err := s.text.QueryRowContext(ctx, "SELECT @@GLOBAL.gtid_binlog_pos, NOW(6)").Scan(&pos, &now); err != nil {
		return nil, time.Time{}, fmt.Errorf("read position: %w", explain(err))
	}
	at, err := time.ParseInLocation("2006-01-02 15:04:05.999999", now, time.UTC)
	if err != nil {
		return nil, at, fmt.Errorf("read time: %w", err)
	}
	g, err := parseGTIDs(pos)
	return g, at, err
}

// syncer prepares a connection to the binlog.
func (s *server) syncer() (*replication.BinlogSyncer, error) {
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("choose server id: %w", err)
	}
	host, port := s.cfg.Addr, uint64(0)
	if s.cfg.Net != "unix" {
		h, p, err := net.SplitHostPort(s.cfg.Addr)
		if err == nil {
			port, err = strconv.ParseUint(p, 10, 16)
		}
		if err != nil {
			return nil, fmt.Errorf("read address %s: %w", s.cfg.Addr, err)
		}
		host = h
	}
	return replication.NewBinlogSyncer(replication.BinlogSyncerConfig{
		// The upper half, where nobody numbers servers by hand.
		ServerID: binary.LittleEndian.Uint32(id[:]) | 1<<31,
		Flavor:   mysql.MariaDBFlavor,
		Host:     host, Port: uint16(port), User: s.cfg.User, Password: s.cfg.Passwd, TLSConfig: s.tls(),
		HeartbeatPeriod: beat, ReadTimeout: silence,
		DisableRetrySync: true, // begun again inside, it would deliver half a transaction twice
		VerifyChecksum:   true,
		DiscardGTIDSet:   true,
		FillZeroLogPos:   s.atLeast(11, 4),
		EventCacheCount:  256,
		Logger:           slog.New(slog.DiscardHandler),
		RowsEventDecodeFunc: func(e *replication.RowsEvent, data []byte) error {
			at, err := e.DecodeHeader(data)
			if err == nil {
				e.Rows = [][]any{{data[at:]}} // read later, by layout.row
			}
			return err
		},
	}), nil
}

func (f *feed) run(ctx context.Context, yield func(engine.Piece, error) bool) error {
	f.yield = yield
	syncer, err := f.s.syncer()
	if err != nil {
		return err
	}
	defer syncer.Close()
	set, err := mysql.ParseMariadbGTIDSet(string(f.at.pos()))
	if err != nil {
		return fmt.Errorf("read position %s: %w", f.at.pos(), err)
	}
	events, err := syncer.StartSyncGTID(set)
	if err != nil {
		return fmt.Errorf("open binlog: %w", feedError(err))
	}
	for {
		e, err := events.GetEvent(ctx)
		if err != nil {
			return fmt.Errorf("read binlog: %w", feedError(err))
		}
		if err := f.event(e); err != nil {
			return err
		}
		if !f.open && time.Since(f.told) >= beat {
			if err := f.heartbeat(); err != nil {
				return err
			}
		}
	}
}

// feedError tells what is lost for good from what is worth another try.
func feedError(err error) error {
	if number(err) == errBinlog {
		for _, sign := range []string{"purged", "not in the master's binlog", "missing the GTID", "Could not find GTID state"} {
			if strings.Contains(err.Error(), sign) {
				return &engine.Expired{Cause: err.Error()}
			}
		}
		return err
	}
	if number(err) == errPrivilege || number(err) == errAccess {
		return fmt.Errorf("%w: run GRANT REPLICATION SLAVE ON *.* TO the user at the source", err)
	}
	if number(err) == 0 && !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "parse") {
		// The library tells a lost connection in many ways.
		return &engine.TemporaryError{Err: err}
	}
	return explain(err)
}

func (f *feed) send(p engine.Piece) error {
	f.told = time.Now()
	if !f.yield(p, nil) {
		return errStop
	}
	return nil
}

func (f *feed) heartbeat() error {
	return f.send(engine.Piece{Heartbeat: &engine.Commit{Pos: f.at.pos(), Time: time.Now().Add(f.offset).UTC()}})
}

func (f *feed) event(e *replication.BinlogEvent) error {
	switch v := e.Event.(type) {
	case *replication.MariadbGTIDEvent:
		f.begin(v, e.Header.Timestamp)
	case *replication.RowsEvent:
		return f.rows(v, e.Header.EventType)
	case *replication.XIDEvent:
		return f.commit()
	case *replication.QueryEvent:
		return f.query(v)
	case *replication.FormatDescriptionEvent, *replication.RotateEvent:
		// Numbers of tables begin anew with a server.
		f.layouts = map[uint64]*layout{}
	case *replication.GenericEvent:
		switch {
		case e.Header.EventType == replication.HEARTBEAT_EVENT && !f.open:
			return f.heartbeat()
		case e.Header.EventType == replication.XA_PREPARE_LOG_EVENT:
			return f.commit()
		}
	}
	return nil
}

func (f *feed) begin(v *replication.MariadbGTIDEvent, stamp uint32) {
	f.open, f.begun, f.flags = true, false, v.Flags
	f.domain, f.id = v.GTID.DomainID, gtid{v.GTID.ServerID, v.GTID.SequenceNumber}
	f.time = time.Unix(int64(stamp), 0).UTC()
	f.changes, f.size, f.counters = nil, 0, nil
	clear(f.touched)
}

// commit ends the open transaction. One that touched no table of ours only moves the
// position, of which a heartbeat tells in time.
func (f *feed) commit() error {
	if !f.open {
		return nil
	}
	f.open = false
	f.at[f.domain] = f.id
	if f.flags&flagPreparedXA != 0 {
		f.prepared()
	}
	if f.changes == nil && !f.begun && f.counters == nil {
		return nil
	}
	p := engine.Piece{Changes: f.changes, End: f.end()}
	f.changes = nil
	return f.send(p)
}

func (f *feed) end() *engine.Commit {
	return &engine.Commit{Pos: f.at.pos(), Time: f.time, Counters: f.counters}
}

// prepared drops the rows of a transaction prepared by XA: they stand in the binlog
// before it is known whether they ever hold.
func (f *feed) prepared() {
	f.xaSeen = true
	for n := range f.touched {
		f.xaTables[n] = true
	}
	f.changes, f.size = nil, 0
}

// decided ends a transaction prepared by XA. One whose rows were dropped, or came
// before the position this began at, cannot be told any more.
func (f *feed) decided() error {
	if f.xaSeen && len(f.xaTables) == 0 {
		return f.commit()
	}
	var names []engine.Name
	for n := range f.xaTables {
		names = append(names, engine.Name{Name: n})
	}
	return &engine.Expired{Tables: names, Cause: fmt.Sprintf("XA transaction %d-%d-%d was committed, whose rows come before its commit in the binlog", f.domain, f.id.server, f.id.seq)}
}

func (f *feed) rows(e *replication.RowsEvent, typ replication.EventType) error {
	if string(e.Table.Schema) != f.s.db {
		return nil
	}
	name := string(e.Table.Table)
	body, _ := e.Rows[0][0].([]byte)
	switch typ {
	case replication.MARIADB_WRITE_ROWS_COMPRESSED_EVENT_V1, replication.MARIADB_UPDATE_ROWS_COMPRESSED_EVENT_V1, replication.MARIADB_DELETE_ROWS_COMPRESSED_EVENT_V1:
		var err error
		if body, err = mysql.DecompressMariadbData(body); err != nil {
			return fmt.Errorf("read rows of %s: %w", name, err)
		}
	}
	if f.sequences[name] {
		f.sequence(name, e, body)
		return nil
	}
	t := f.tables[name]
	if t == nil {
		return nil
	}
	f.touched[name] = true
	l := f.layouts[e.TableID]
	if l == nil || l.table != t {
		var err error
		if l, err = newLayout(t, e.Table); err != nil {
			return &engine.SchemaChanged{Tables: []engine.Name{t.Name}, Cause: err.Error(), Remedy: "compare the table anew"}
		}
		f.layouts[e.TableID] = l
	}
	c := &cursor{b: body}
	for len(c.b) > 0 {
		before := len(c.b)
		ch, err := l.change(c, e)
		if err != nil {
			return fmt.Errorf("read rows of %s: %w", name, err)
		}
		if children := f.acting[name]; children != nil && e.Flags&flagNoForeignKeys != 0 && ch.Old != nil {
			return &engine.Expired{Tables: children, Cause: "rows of " + name + " were deleted or renamed with foreign_key_checks=0, so their children stayed, which the target would not know"}
		}
		f.changes = append(f.changes, ch)
		if f.size += before - len(c.b); f.size >= pieceSize {
			if err := f.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush yields what there is of a transaction that goes on.
func (f *feed) flush() error {
	if f.flags&flagPreparedXA != 0 {
		f.prepared()
		return nil
	}
	p := engine.Piece{Changes: f.changes}
	f.changes, f.size, f.begun = nil, 0, true
	return f.send(p)
}

// change reads one row of an event, or two of an update.
func (l *layout) change(c *cursor, e *replication.RowsEvent) (engine.Change, error) {
	ch := engine.Change{Table: l.table.Name}
	first, err := l.row(c, e.ColumnBitmap1)
	if err != nil {
		return ch, err
	}
	identity := func(r engine.Row) engine.Row {
		if len(l.key) == 0 {
			return r
		}
		return keyOf(l.key, r)
	}
	switch e.Type() {
	case replication.EnumRowsEventTypeInsert:
		ch.New = first
	case replication.EnumRowsEventTypeDelete:
		ch.Old = identity(first)
	case replication.EnumRowsEventTypeUpdate:
		if ch.New, err = l.row(c, e.ColumnBitmap2); err != nil {
			return ch, err
		}
		old := identity(first)
		if len(l.key) == 0 || rowKey(old) != rowKey(identity(ch.New)) {
			ch.Old = old
		}
	default:
		return ch, errors.New("it is neither an insert, an update nor a delete")
	}
	return ch, nil
}

// sequence reads where a sequence stands: its first column is the next value that is
// not handed out. See https://mariadb.com/kb/en/create-sequence/.
func (f *feed) sequence(name string, e *replication.RowsEvent, body []byte) {
	if e.Type() != replication.EnumRowsEventTypeInsert || e.ColumnCount < 1 {
		return
	}
	c := &cursor{b: body}
	c.take(int(e.ColumnCount+7) / 8)
	next := int64(c.little(8))
	if c.err == nil {
		f.counters = append(f.counters, engine.Counter{Kind: "sequence", Name: engine.Name{Name: name}, Value: strconv.FormatInt(next, 10)})
	}
}
