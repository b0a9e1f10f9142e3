// Package engine is the port between row replication and a kind of database. A
// driver knows the SQL of its engine and nothing of networks, spools, schedules or
// commands; package rowsync knows all of those and no SQL. Both ends of a stream are
// the same engine, so a value travels in the engine's own lossless form and is never
// turned into a Go type on its way.
//
// Every driver must pass package enginetest.
package engine

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Pos is a durable place in the history of one source: "16/B374D848", "0-1-77",
// "ct:1042". Only the driver reads it.
type Pos string

// Name names a table or another object of a schema, as the catalogue spells it.
type Name struct{ Schema, Name string }

func (n Name) String() string {
	if n.Schema == "" {
		return n.Name
	}
	return n.Schema + "." + n.Name
}

// Row is the values of a table's carried columns in the order of Table.Columns, or
// those of its key in the order of Table.Key. A nil value is NULL; an empty one is
// not nil.
type Row [][]byte

// Column is one column of a table.
type Column struct {
	Name      string
	Type      string // as DDL spells it, with length, precision, unsigned, character set
	Collation string // where the type has one
	Nullable  bool
	Identity  bool // numbered by the engine: identity, serial, AUTO_INCREMENT
	// Derived columns are computed by the engine (generated, computed, rowversion):
	// they are compared as part of the schema, and their values are neither read,
	// hashed nor written.
	Derived bool
}

// Table is what a driver must know to read and write rows.
type Table struct {
	Name    Name
	Columns []Column // all, in the order of the catalogue
	// Key is the indices into Columns of the primary key, else of a unique index
	// without nullable columns; nil where rows have no identity but themselves.
	Key     []int
	KeyName string
	// Unique are further unique indexes: stale rows may collide on them.
	Unique [][]int
	// References are the tables this one has foreign keys to; itself included.
	References []Name
	// Refused, where not empty, says why this table cannot be replicated and what to
	// do about it.
	Refused string
	Rows    int64 // estimate; -1 where unknown
	Bytes   int64 // estimate of what Export would write
}

// Carried returns the indices of the columns whose values travel.
func (t *Table) Carried() []int {
	var out []int
	for i, c := range t.Columns {
		if !c.Derived {
			out = append(out, i)
		}
	}
	return out
}

// Schema is everything of a database that rows live in.
type Schema struct {
	Tables []*Table
	// Objects are all definitions, tables included, in an order in which they can be
	// made.
	Objects []Object
}

// Object is a definition: something that DDL makes.
type Object struct {
	Kind  string // schema, type, table, column, index, constraint, sequence, view, routine, trigger, extension …
	Name  Name
	Table Name // of a column, index, constraint or trigger
	// Definition is the DDL that makes it, spelled by the engine, so that equal
	// objects have equal text at both ends.
	Definition string
	// Late objects are made after the rows are there: foreign keys, triggers, and
	// indexes of tables that were empty.
	Late bool
}

// Range is the keys k with From < k <= To in the engine's own order. A nil From is
// before every key, a nil To after every key. Tables without a key have one range.
type Range struct{ From, To Row }

// Digest stands for the rows of one range.
type Digest struct {
	Rows int64
	// Hash is a sum of a non-linear hash of 64 bits or more of every row: equal rows
	// in any order give equal hashes. Every carried column counts, NULL is told from
	// empty, and columns are told apart.
	Hash string
}

// KeyHash is one row: its key and the hash of all of it.
type KeyHash struct {
	Key  Row
	Hash string
}

// Selection is the rows a call means: those of a range, or those with the keys.
type Selection struct {
	Range Range
	Keys  []Row // where not nil, these alone
}

// Catalog tells what there is at either end.
type Catalog interface {
	Schema(ctx context.Context) (*Schema, error)
	// Check tells what prevents or weakens replication of the tables from or to here;
	// it changes nothing.
	Check(ctx context.Context, tables []*Table) ([]Finding, error)
}

// Reader reads committed data of either end. Its methods may be called by several
// goroutines. What iterators yield may be kept.
type Reader interface {
	// Bounds returns the keys that end buckets of about rows rows, in order, of at
	// most limit buckets after the key from. end is true when the table ends within
	// them: the last bucket then has no bound of its own.
	Bounds(ctx context.Context, t *Table, from Row, rows, limit int) (bounds []Row, end bool, err error)
	// Digests returns the digest of each bucket (from, bounds[0]], (bounds[0],
	// bounds[1]] … and, where end is set, of one more after the last bound. It is one
	// pass of the server over those rows.
	Digests(ctx context.Context, t *Table, from Row, bounds []Row, end bool) ([]Digest, error)
	// Keys lists the rows of the ranges. Tables without a key list their rows: Key is
	// then the whole row, once for each time it occurs.
	Keys(ctx context.Context, t *Table, ranges []Range) iter.Seq2[KeyHash, error]
	// Export writes rows to w in the engine's own lossless form, which Apply.Import of
	// the same driver reads. Values are streamed: a large one is not held whole where
	// the engine allows. It returns the number of rows. Keys that are gone are absent.
	Export(ctx context.Context, t *Table, s Selection, w io.Writer) (int64, error)
	// Rows reads the rows with the keys, in no order; keys that are gone are absent.
	Rows(ctx context.Context, t *Table, keys []Row) iter.Seq2[Row, error]
}

// Source is a database that is replicated.
type Source interface {
	Catalog
	Reader
	Feed
	History
	// Snapshot returns a Reader of one state of the database for up to n callers at
	// once, and the position of that state. After Prepare with fresh set it is the
	// state of the position Prepare returned, where the engine can do that. A driver
	// that cannot hold a state returns a Reader of committed data and a position
	// before all its reads.
	Snapshot(ctx context.Context, stream string, n int) (Snapshot, error)
	// Capture names the way changes will be captured and why, for people.
	Capture(ctx context.Context) (string, error)
	// Fence makes the database read-only for everyone else, or lifts that, and
	// returns what it saw as evidence. Open transactions are ended after grace.
	Fence(ctx context.Context, on bool, grace time.Duration) (evidence []string, err error)
	io.Closer
}

// Feed is the change stream of a source.
type Feed interface {
	// Prepare makes what capture needs (slot, publication, triggers) for exactly these
	// tables, and returns a position from which Changes will miss nothing. Calling it
	// again keeps what is there; fresh is then false and pos is empty. Where an engine
	// makes nothing at the source, fresh is true once after every open. Everything it
	// makes is named after stream. A replicator calls it at every start and goes on
	// from the position it has: where what captured changes was lost and is made again,
	// Changes after that position must yield Expired.
	Prepare(ctx context.Context, stream string, tables []*Table) (pos Pos, fresh bool, err error)
	// Changes yields what was committed after a position, in the order of commits,
	// until ctx ends, waiting for more when there is none. It yields a Piece with a
	// Heartbeat at least every few seconds while idle.
	Changes(ctx context.Context, stream string, tables []*Table, after Pos) iter.Seq2[Piece, error]
	// Mark returns a position at or after every commit acknowledged so far.
	Mark(ctx context.Context, stream string) (Pos, error)
	// Release tells the source that history up to a position is not needed any more:
	// it is durable at the target site. It may be called while Changes runs.
	Release(ctx context.Context, stream string, upTo Pos) error
	// Remove takes away everything Prepare made.
	Remove(ctx context.Context, stream string) error
}

// History gives positions their meaning.
type History interface {
	// Before reports whether a comes before b.
	Before(a, b Pos) (bool, error)
	// Epoch identifies the history that positions belong to. Another one means that
	// the source was restored or replaced, and no position of before is of use.
	Epoch(ctx context.Context) (string, error)
	// Counters reads where identities and sequences stand.
	Counters(ctx context.Context) ([]Counter, error)
}

// Snapshot is a Reader that must be closed.
type Snapshot interface {
	Reader
	Pos() Pos
	// Exact is true where all of it is one state of the database.
	Exact() bool
	io.Closer
}

// Piece is a part of the change stream. Large transactions come in several pieces,
// of about a megabyte each; End is set on the last.
type Piece struct {
	Changes []Change
	DDL     []DDL // in the place it had: pieces with DDL hold no changes
	End     *Commit
	// Heartbeat, where set, is a position before which nothing is left to come, of a
	// moment at which there was nothing to tell. Such a piece is empty otherwise.
	Heartbeat *Commit
}

// Commit ends a source transaction, or a consistent set of changes.
type Commit struct {
	Pos      Pos
	Time     time.Time // of the commit, by the source's clock
	Counters []Counter // where the driver has them at hand; nil otherwise
	// More is how many transactions of the source the piece holds beside this one: a
	// driver may hand over several small ones together.
	More int64
}

// Change is the state of one key after a change.
type Change struct {
	Table Name
	// Old is the key before the change, where it may differ from the new one, and of
	// deletes. Of tables without a key it is the whole old row.
	Old Row
	// New holds the carried columns; nil means the row is gone.
	New Row
	// Unset marks the values of New that the source did not send because they are
	// unchanged (PostgreSQL's TOAST). nil: none.
	Unset []bool
	// Truncate means all rows of the table are gone.
	Truncate bool
}

// DDL is a change of definitions in the stream.
type DDL struct {
	Statement string // empty where the engine only tells that the definition changed
	Database  string
	Tables    []Name // those concerned; empty: not known
	// Follow is true where applying Statement at the target gives what the source has.
	Follow bool
}

// Counter is where an identity or a sequence stands.
type Counter struct {
	Kind   string // "identity" or "sequence"
	Name   Name   // of the table or the sequence
	Column string
	Value  string // the last one given out, or the next: the driver knows
}

// State is a target's record of one stream: one row, changed in the transaction that
// changes the rows it speaks of.
type State struct {
	Stream string
	// Pos is what all rows of the target stand for, once Phase is Following.
	Pos   Pos
	Phase Phase
	// Until is, while Seeding or Partial, the position from which the rows are a state
	// of the source again.
	Until Pos
	Epoch string
	// Fingerprint is of the tables as the rows were read.
	Fingerprint string
	SourceTime  time.Time // commit time of the newest change applied
	Serial      int64     // grows with every change of the row
}

// Phase of a stream at its target.
type Phase string

// A target is empty or stale before Seeding, on its way during it (without Until while
// rows are compared, with it while changes catch up), and a state the
// source really had from Following on. Partial is between the parts of a transaction
// too large for one. A Primary is written by applications; nothing may be applied.
const (
	Absent    Phase = ""
	Seeding   Phase = "seeding"
	Following Phase = "following"
	Partial   Phase = "partial"
	Primary   Phase = "primary"
)

// Target is a database that is brought up to date.
type Target interface {
	Catalog
	Reader
	Record
	Role
	// Begin opens a transaction that holds the stream's row. It fails with ErrConflict
	// where the row is not as given.
	Begin(ctx context.Context, from State, tables []*Table) (Apply, error)
	// Execute runs DDL outside of a stream's transaction.
	Execute(ctx context.Context, statement string) error
	io.Closer
}

// Record is what a target remembers of streams.
type Record interface {
	// State reads the record of a stream; Phase is Absent where there is none.
	State(ctx context.Context, stream string) (State, error)
	// SetProgress stores how far the seed of a table is.
	SetProgress(ctx context.Context, stream string, t Name, p Progress) error
	// Progress reads what SetProgress stored, of all tables.
	Progress(ctx context.Context, stream string) (map[Name]Progress, error)
	// Forget removes all that is remembered of a stream.
	Forget(ctx context.Context, stream string) error
}

// Role is what a target is to applications.
type Role interface {
	// Standby holds triggers, events and foreign keys off as far as the engine needs
	// it while rows are applied, and remembers how they were. It may be called again.
	Standby(ctx context.Context, stream string, tables []*Table) error
	// Promote restores what Standby held off, sets identities and sequences past the
	// counters stored with the last batch, and records the Primary phase, in that
	// order. It may be called again after it was cut.
	Promote(ctx context.Context, stream string, tables []*Table) (evidence []string, err error)
	// Foreign reports writes to the tables that were not ours since Standby, as far as
	// the engine can tell; nil where there were none.
	Foreign(ctx context.Context, stream string, tables []*Table) ([]Finding, error)
}

// Progress is how far the seed of a table is: rows up to a key are settled, or all.
type Progress struct {
	UpTo Row
	Done bool
}

// Apply is one transaction of a target. It is used by one goroutine.
type Apply interface {
	// Changes brings the tables to the state after the changes, which come in the
	// order of the source. It is idempotent: rows may be in that state, or in a later
	// one, already. Rows that hold a unique value which a change claims are moved out
	// of the way; their keys are in Displaced.
	Changes(ctx context.Context, cs []Change) error
	// Import makes the selected rows those that r holds, as Export wrote them: others
	// within the selection go. empty promises that there are none within the selection,
	// and none elsewhere in the table but those that the same seed brought.
	Import(ctx context.Context, t *Table, s Selection, r io.Reader, empty bool) (Stats, error)
	// Delete removes rows by key.
	Delete(ctx context.Context, t *Table, keys []Row) (int64, error)
	// Counters stores where the source's identities and sequences stand.
	Counters(ctx context.Context, cs []Counter) error
	// Displaced returns the keys of rows deleted because they held unique values that
	// others claim. Unless they are written again they must be read anew.
	Displaced() map[Name][]Row
	// Commit writes the stream's row and ends the transaction. to.Serial is ignored.
	Commit(ctx context.Context, to State) (State, error)
	Rollback() error
}

// Stats is what an Import came to.
type Stats struct{ Inserted, Updated, Deleted int64 }

// Instance is what lives outside the database; drivers may offer it.
type Instance interface {
	// InstanceObjects lists logins, roles, jobs, extensions, settings. The definition
	// makes the object at another server; where it cannot, Remedy of the finding that
	// goes with it says what a person must do. Password hashes are in Definition: it
	// must not be logged.
	InstanceObjects(ctx context.Context) ([]Object, []Finding, error)
}

// InstanceTarget makes what an Instance lists. Targets of drivers may offer it.
type InstanceTarget interface {
	Instance
	// MakeInstanceObject makes an object as it is at the source; other tells that one of
	// its kind and name is there and is another. It fails with a KeptError where it
	// leaves what is there alone. No error holds a password or its hash.
	MakeInstanceObject(ctx context.Context, o Object, other bool) error
}

// KindParameter is the kind of instance objects that are compared and never made: what
// is right at one machine may be wrong at another.
const KindParameter = "parameter"

// KeptError says why an instance object is left as it is at the target, and what a
// person may do.
type KeptError struct{ Why, Remedy string }

func (e *KeptError) Error() string { return "it is left as it is: " + e.Why }

// Pacer is offered by sources that can tell how much their link carries now.
type Pacer interface {
	// Pace returns bytes per second, from a transfer of a second and some megabytes at
	// most, which is not compressed.
	Pace(ctx context.Context) (int64, error)
}

// Deferrer is offered by an Apply whose commit need not wait for the disk.
type Deferrer interface {
	// Defer has Commit return before it is durable. A crash of the target's server may
	// then take it back, with all that was committed since, and never in part; the next
	// commit that is not deferred makes it durable.
	Defer()
}

// Placer is offered by ends that can tell where a large table could be sampled.
type Placer interface {
	// Places returns keys, in order, that cut the table into at most n parts across the
	// range of its key, none of them empty. It reads little, so that the parts may be of
	// different sizes, and fewer where the engine cannot tell.
	Places(ctx context.Context, t *Table, n int) ([]Row, error)
}

// DigestForms is offered by ends whose servers can hash rows in several ways. Before
// the first digest, both are made to use the first form of the source that the target
// has too.
type DigestForms interface {
	DigestForms() []string // the preferred one first
	UseDigestForm(form string) error
}

// Options are how to reach a database.
type Options struct {
	DSN      string
	Password string
	Capture  string // auto, change-tracking or triggers; SQL Server only
	Tables   Filter
}

// Filter chooses tables by patterns of path.Match on schema.name. No Include means
// all.
type Filter struct{ Include, Exclude []string }

// Driver opens databases of one engine.
type Driver interface {
	Source(ctx context.Context, o Options) (Source, error)
	Target(ctx context.Context, o Options) (Target, error)
}

var (
	// ErrConflict: the stream's row at the target is not what the caller believed.
	ErrConflict = errors.New("the target was changed by another replicator")
	// ErrSchema: rows do not fit the definition the stream was started with.
	ErrSchema = errors.New("the definition of a table changed")
)

// Expired means that the source no longer has the history after a position. The
// tables, or all where there are none, must be compared anew.
type Expired struct {
	Tables []Name
	Cause  string
}

func (e *Expired) Error() string {
	return "the source no longer has the changes since the last pass: " + e.Cause
}

// SchemaChanged means that the stream reached a change of definition it cannot
// follow for the tables.
type SchemaChanged struct {
	Tables []Name
	Cause  string
	Remedy string
}

func (e *SchemaChanged) Error() string { return e.Cause }

// Unwrap lets errors.Is(err, ErrSchema) hold.
func (e *SchemaChanged) Unwrap() error { return ErrSchema }

// Temporary reports whether an error may go away by itself: a lost connection, a
// deadlock, a server that starts. Drivers wrap such errors in TemporaryError.
func Temporary(err error) bool {
	var t *TemporaryError
	return errors.As(err, &t)
}

// TemporaryError marks an error as worth another try.
type TemporaryError struct{ Err error }

func (e *TemporaryError) Error() string { return e.Err.Error() }

// Unwrap returns the error itself.
func (e *TemporaryError) Unwrap() error { return e.Err }
