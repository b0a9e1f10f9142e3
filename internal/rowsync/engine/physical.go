package engine

import (
	"context"
	"io"
	"time"
)

// Run runs a command at the machine of an end, as the owner of the server's files
// there. An error holds the end of what it wrote to standard error.
type Run func(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error

// PhysicalEnd is one of the two servers of a physical copy.
type PhysicalEnd struct {
	Options // how we reach it
	// Address is host:port as the server at the other end reaches this one; empty: as
	// in the DSN.
	Address string
	Data    string // its data directory
	Tools   string // directory of the engine's programs there; empty: they are in PATH
	// Run and what follows are nil where no command can be run at that machine.
	Run Run
	// Keep writes a file that only the owner of Data can read: secrets that a server
	// or a tool needs there stand in files, never among arguments. Without content the
	// file is removed.
	Keep func(ctx context.Context, path string, content []byte) error
	// MakeData makes Data, empty, for the server's account.
	MakeData func(ctx context.Context) error
	// Start and Stop start and stop the server in Data, by the service manager of the
	// machine or however the user said; nil: the engine's own program does it.
	Start, Stop func(ctx context.Context) error
}

// PhysicalOptions are a pair of servers. A runbook swaps the ends for the way back.
type PhysicalOptions struct {
	Name           string // of what is made for the pair: a replication slot
	Source, Target PhysicalEnd
	// Discard lets a former primary give up what it alone has when it becomes the
	// standby of the new one. Without, Follow fails with a DivergedError.
	Discard bool
}

// PhysicalDriver is offered by engines that can keep a whole server a second time by
// their own means.
type PhysicalDriver interface {
	// Physical reaches nobody yet.
	Physical(o PhysicalOptions) (Physical, error)
}

// Physical is a whole server and the copy that its engine keeps of it.
type Physical interface {
	// Check tells what prevents or weakens it, and changes nothing. Findings of
	// severity Blocker say why the mode is not possible.
	Check(ctx context.Context) ([]Finding, error)
	// State looks at the target alone. That nothing is there, or that it does not
	// answer, is a state and no error.
	State(ctx context.Context) (PhysicalState, error)
	// Follow makes the target a standby of the source, whatever it was: nothing, a
	// standby that stopped, or a primary of before whose place the source has taken.
	// It tells what it is about and returns what it did. It never touches a target
	// that is primary by right, nor data that are not of the source's line.
	Follow(ctx context.Context, tell func(step string)) (did []string, err error)
	PhysicalRole
	PhysicalReturn
	// Databases lists what rows can be compared of, with both ends' options.
	Databases(ctx context.Context) ([]PhysicalDatabase, error)
}

// PhysicalRole moves the role of primary between the two.
type PhysicalRole interface {
	// Fence makes all databases of the source read-only for everyone else, or lifts
	// that, as Source.Fence does for one.
	Fence(ctx context.Context, on bool, grace time.Duration) (evidence []string, err error)
	// Mark returns a position at or after all that the source has committed.
	Mark(ctx context.Context) (Pos, error)
	// Reached reports whether the target has applied everything up to a position, and
	// where it is.
	Reached(ctx context.Context, mark Pos) (bool, Pos, error)
	// Promote makes the target a primary that has applied all it received, and lifts a
	// fence that came over with the data. It may be called again.
	Promote(ctx context.Context) (evidence []string, err error)
	// Size is how many bytes a seed would carry.
	Size(ctx context.Context) (int64, error)
}

// PhysicalReturn is what a runbook asks of a pair beside a switch.
type PhysicalReturn interface {
	// CheckReturn tells what prevents the target, which is the primary still, from
	// becoming the standby of the source once that has taken its place. It changes
	// nothing.
	CheckReturn(ctx context.Context) ([]Finding, error)
	// Fenced looks whether the source is fenced, or takes no writes for being a standby.
	Fenced(ctx context.Context) (bool, error)
}

// PhysicalPhase is what the target of a physical copy is.
type PhysicalPhase string

// Nothing is a data directory that is absent or empty, Down one with data whose server
// does not answer. Leader takes writes.
const (
	Nothing PhysicalPhase = ""
	Down    PhysicalPhase = "down"
	Replica PhysicalPhase = "standby"
	Leader  PhysicalPhase = "primary"
)

// PhysicalState is how the target of a physical copy stands.
type PhysicalState struct {
	Phase     PhysicalPhase
	Following bool      // it receives and applies what the source writes
	Applied   Pos       // up to which it has applied
	Newest    time.Time // commit of the newest transaction applied; zero: not known
	// Heard is when the source was last heard of, by the target's clock; zero: not known.
	Heard   time.Time
	Log     int64  // bytes of log up to Applied, from any zero; -1: not known
	Commits int64  // transactions up to Applied, from any zero; -1: not known
	Unread  int64  // bytes received and not applied; -1: not known
	Trouble string // what keeps it from following; empty otherwise
}

// PageChecksums is the object of findings about damaged pages, which a verification tells
// too.
const PageChecksums = "page checksums"

// PhysicalDatabase is one database of a physical copy.
type PhysicalDatabase struct {
	Name           string
	Source, Target Options
}

// DivergedError means that a former primary has what the new one lacks.
type DivergedError struct {
	Since  Pos    // where the histories part
	Lost   string // what would be given up, in words
	Remedy string
}

func (e *DivergedError) Error() string {
	return "the old primary has " + e.Lost + " that the new one lacks, since " + string(e.Since) + ": " + e.Remedy
}

// LeaderError means that the target takes writes.
type LeaderError struct{ Why string }

func (e *LeaderError) Error() string { return "the target is primary: " + e.Why }
