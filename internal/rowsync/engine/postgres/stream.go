package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	pieceBytes = 1 << 20
	groupBytes = 1 << 18     // small transactions come in one piece up to here, while more is at hand
	beat       = time.Second // between status messages, and so between heartbeats
)

// errEnough ends a stream whose reader wants no more.
var errEnough = errors.New("enough")

// Changes follows the slot.
func (s *source) Changes(ctx context.Context, stream string, tables []*engine.Table, after engine.Pos) iter.Seq2[engine.Piece, error] {
	return func(yield func(engine.Piece, error) bool) {
		f := &feed{source: s, stream: stream, name: objectName(stream), yield: yield, tables: map[engine.Name]*engine.Table{}, spelled: map[typmod]string{}}
		for _, t := range tables {
			f.tables[t.Name] = t
		}
		err := f.run(ctx, after)
		if errors.Is(err, errEnough) {
			return // and must not yield again
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			yield(engine.Piece{}, fmt.Errorf("follow changes of %s: %w", stream, err))
		}
	}
}

// feed is one run of a stream.
type feed struct {
	source  *source
	stream  string
	name    string // of the slot and the publication
	yield   func(engine.Piece, error) bool
	tables  map[engine.Name]*engine.Table
	routes  map[uint32]*route
	spelled map[typmod]string

	inTx    bool
	changes []engine.Change // of transactions that ended, then of the one that has not
	bytes   int
	whole   int            // changes of transactions that ended
	last    *engine.Commit // of those; nil where there are none
	sent    bool           // pieces of this transaction were yielded
	marked  bool           // it has a message of Mark

	line *line
	past time.Time // all commits until then were seen
}

// line is the connection of a running stream. The feed reads it; its ticker writes.
type line struct {
	conn net.Conn
	fe   *pgproto3.Frontend

	mu       sync.Mutex
	received lsn
	released lsn
	mark     *mark // the newest that the stream has not passed
}

// mark is what the source was at a moment.
type mark struct {
	pos     lsn
	time    time.Time
	missing []engine.Name // tables that are published no more
}

func (f *feed) run(ctx context.Context, after engine.Pos) error {
	start, err := parseLSN(string(after))
	if err != nil {
		return err
	}
	if err := f.admit(ctx, start); err != nil {
		return err
	}
	x := f.source.at(f.stream)
	f.source.mu.Lock()
	busy := x.running
	x.running = true
	released := min(x.released, start)
	f.source.mu.Unlock()
	if busy {
		return errors.New("it is followed already")
	}
	defer func() {
		f.source.mu.Lock()
		x.running = false
		f.source.mu.Unlock()
	}()
	err = patient(ctx, func() (err error) {
		f.line, err = f.start(ctx, start)
		return err
	})
	if err != nil {
		return err
	}
	f.line.received, f.line.released = start, released
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = f.line.conn.Close() })
	var ticker sync.WaitGroup
	ticker.Go(func() { f.tick(ctx, x) })
	err = f.read(ctx)
	if ctx.Err() == nil && !errors.Is(err, errEnough) {
		// Transactions before the one that failed are whole: they are told of, or they
		// would never pass.
		if flushed := f.flush(); flushed != nil {
			err = flushed
		}
	}
	cancel()
	stop()
	_ = f.line.conn.Close()
	ticker.Wait()
	return err
}

// admit checks that the slot still has all that was committed after a position. The
// server itself would skip what it no longer has without a word.
func (f *feed) admit(ctx context.Context, start lsn) error {
	st, err := f.source.slotState(ctx, f.name)
	if err != nil {
		return fmt.Errorf("read slot: %w", err)
	}
	switch {
	case !st.exists:
		return &engine.Expired{Cause: "slot " + f.name + " does not exist"}
	case st.lost != "":
		return &engine.Expired{Cause: st.lost}
	case st.confirmed > start:
		return &engine.Expired{Cause: fmt.Sprintf("slot %s was released up to %s, past %s", f.name, st.confirmed, start)}
	}
	rows, err := f.source.catalog.query(ctx, "SELECT pg_current_wal_insert_lsn()")
	if err != nil {
		return fmt.Errorf("read position: %w", err)
	}
	if now, err := parseLSN(string(rows[0][0])); err != nil || now < start {
		return errors.Join(err, &engine.Expired{Cause: fmt.Sprintf("the source stands at %s, before %s: it was restored to an earlier state", now, start)})
	}
	return nil
}

// start begins replication and takes the connection over.
func (f *feed) start(ctx context.Context, at lsn) (*line, error) {
	c, err := f.source.replication(ctx)
	if err != nil {
		return nil, err
	}
	options := "proto_version '1'"
	if f.source.version >= 140000 {
		options = "proto_version '2', messages 'true'"
	}
	sql := fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL %s (%s, publication_names %s)", ident(f.name), at, options, literal(ident(f.name)))
	c.Frontend().SendQuery(&pgproto3.Query{String: sql})
	if err = c.Frontend().Flush(); err == nil {
		err = began(ctx, c)
	}
	if err != nil {
		c.drop()
		if why, gone := expired(err); gone {
			return nil, &engine.Expired{Cause: why}
		}
		return nil, mend(err)
	}
	h, err := c.Hijack()
	if err != nil {
		c.drop()
		return nil, err
	}
	return &line{conn: h.Conn, fe: h.Frontend}, nil
}

// began waits until the server says that it streams.
func began(ctx context.Context, c *conn) error {
	for {
		m, err := c.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return errors.New("the server does not stream")
		}
	}
}

// read takes messages until ctx ends or something fails.
func (f *feed) read(ctx context.Context) error {
	for {
		m, err := f.line.fe.Receive()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &engine.TemporaryError{Err: fmt.Errorf("read changes: %w", err)}
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			err = f.data(ctx, m.Data)
		case *pgproto3.ErrorResponse:
			err = pgconn.ErrorResponseToPgError(m)
			if why, gone := expired(err); gone {
				return &engine.Expired{Cause: why}
			}
			return mend(err)
		case *pgproto3.CopyDone:
			return &engine.TemporaryError{Err: errors.New("the server ended the stream")}
		}
		if err != nil {
			return err
		}
	}
}

func (f *feed) data(ctx context.Context, b []byte) error {
	switch {
	case len(b) >= 25 && b[0] == 'w':
		return f.change(ctx, b[25:])
	case len(b) >= 18 && b[0] == 'k':
		return f.keepalive(lsn(binary.BigEndian.Uint64(b[1:])))
	}
	return fmt.Errorf("read changes: a message %.1q of %d bytes", b, len(b))
}

// keepalive tells that the server has sent all there was up to a position. The
// moment that stands for is that of a mark the position passed: the server's clock
// in the message itself says nothing of how far it lags behind its own WAL.
func (f *feed) keepalive(end lsn) error {
	if f.inTx {
		return nil
	}
	if err := f.flush(); err != nil {
		return err
	}
	f.line.mu.Lock()
	f.line.received = max(f.line.received, end)
	m := f.line.mark
	if m != nil && m.pos <= end {
		f.line.mark = nil
		f.past = m.time
	} else {
		m = nil
	}
	f.line.mu.Unlock()
	if m != nil && len(m.missing) > 0 {
		return gone(m.missing)
	}
	if f.past.IsZero() {
		return nil
	}
	return f.send(engine.Piece{Heartbeat: &engine.Commit{Pos: engine.Pos(end.String()), Time: f.past}})
}

// gone says that tables were dropped, renamed or taken out of the publication.
func gone(names []engine.Name) error {
	list := ""
	for i, n := range names {
		if i > 0 {
			list += ", "
		}
		list += n.String()
	}
	return &engine.SchemaChanged{
		Tables: names,
		Cause:  "published no more, since they were dropped, renamed or taken out of the publication: " + list,
		Remedy: "make the same change at the target, then replicate again: the tables are compared anew",
	}
}

// flush yields the transactions that ended.
func (f *feed) flush() error {
	if f.last == nil {
		return nil
	}
	p := engine.Piece{Changes: f.changes[:f.whole:f.whole], End: f.last}
	f.changes, f.whole, f.last = f.changes[f.whole:], 0, nil
	if len(f.changes) == 0 {
		f.bytes = 0
	}
	return f.send(p)
}

func (f *feed) send(p engine.Piece) error {
	if !f.yield(p, nil) {
		return errEnough
	}
	return nil
}

// tick tells the server every second, and whenever something is released, how far
// the stream is, and asks for an answer, which makes the heartbeat.
func (f *feed) tick(ctx context.Context, x *slot) {
	t := time.NewTicker(beat)
	defer t.Stop()
	for {
		f.look(ctx)
		if f.status(x) != nil {
			return // the reader sees the same
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-x.wake:
		}
	}
}

// look marks where the source is now, unless the stream has yet to pass the mark
// before.
func (f *feed) look(ctx context.Context) {
	f.line.mu.Lock()
	waiting := f.line.mark != nil
	f.line.mu.Unlock()
	if waiting {
		return
	}
	missing, err := f.missing(ctx)
	if err != nil {
		return
	}
	m := mark{missing: missing}
	// The position comes after the catalogue: what it says was committed before.
	rows, err := f.source.catalog.query(ctx, "SELECT pg_current_wal_flush_lsn(), (extract(epoch FROM clock_timestamp()) * 1000000)::int8")
	if err != nil {
		return
	}
	if m.pos, err = parseLSN(string(rows[0][0])); err != nil {
		return
	}
	m.time = time.UnixMicro(count(rows[0][1])).UTC()
	f.line.mu.Lock()
	f.line.mark = &m
	f.line.mu.Unlock()
}

// missing lists the tables that are published no more under their names.
func (f *feed) missing(ctx context.Context) ([]engine.Name, error) {
	rows, err := f.source.catalog.query(ctx, `SELECT n.nspname, c.relname FROM pg_publication p
		JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1`, f.name)
	if err != nil {
		return nil, fmt.Errorf("read publication: %w", err)
	}
	have := map[engine.Name]bool{}
	for _, v := range rows {
		have[engine.Name{Schema: string(v[0]), Name: string(v[1])}] = true
	}
	var out []engine.Name
	for n := range f.tables {
		if !have[n] {
			out = append(out, n)
		}
	}
	return out, nil
}

// status sends a standby status update that asks for an answer.
func (f *feed) status(x *slot) error {
	f.source.mu.Lock()
	released := x.released
	f.source.mu.Unlock()
	f.line.mu.Lock()
	f.line.released = max(f.line.released, min(released, f.line.received))
	flushed, written := f.line.released, max(f.line.received, f.line.released)
	f.line.mu.Unlock()
	b := make([]byte, 0, 39)
	b = append(b, 'd')
	b = binary.BigEndian.AppendUint32(b, 38)
	b = append(b, 'r')
	b = binary.BigEndian.AppendUint64(b, uint64(written))
	b = binary.BigEndian.AppendUint64(b, uint64(flushed))
	b = binary.BigEndian.AppendUint64(b, uint64(flushed))
	b = binary.BigEndian.AppendUint64(b, uint64(time.Since(postgresEpoch()).Microseconds()))
	b = append(b, 1)
	_ = f.line.conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
	_, err := f.line.conn.Write(b)
	return err
}
