// Package switchover moves applications from one site to the other: cutover, which is
// planned and loses nothing, failover, which is not and says what it loses, rollback,
// and failback, which brings all of it home. Each is a pure function from the estate, the state and what was seen of
// both sites to a plan of package runbook, and a set of actions that do its steps.
//
// What must never happen is that both sites write. So each action that lets a site
// write makes sure, itself and at that moment, that the other one cannot: a plan that
// was made a while ago, a step that was cut, or a person who worked by hand in
// between changes nothing of that.
package switchover

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// Kinds of runbooks.
const (
	Cutover  = "cutover"
	Failover = "failover"
	Rollback = "rollback"
	Failback = "failback"
)

// Site is one of the two sites of leeward.yaml. Sites keep these names, whichever of
// them is primary.
type Site string

// The sites, as leeward.yaml calls them.
const (
	Source Site = "source"
	Target Site = "target"
)

// Other is the other site.
func (s Site) Other() Site {
	if s == Source {
		return Target
	}
	return Source
}

// Way is a direction of replication.
type Way string

// Forward is from source to target, Back from target to source.
const (
	Forward Way = "forward"
	Back    Way = "back"
)

// Standing is what can be seen of a database without changing anything.
type Standing struct {
	Phase   engine.Phase  // of the end that is replicated to
	Lag     time.Duration // age of the newest change applied
	Heard   time.Time     // when the other end was last heard of
	Newest  time.Time     // commit of the newest change applied
	Trouble []string      // why what is there is no state to go on with
}

// Database is one database, replicated one way. It is used by one goroutine.
type Database interface {
	// The end that is replicated from is the source of these, whichever site it is.
	rowsync.Switchable
	// Ready reaches both ends, changes nothing, and tells what stands in the way of
	// replicating this way.
	Ready(ctx context.Context) (blockers, notes []string, err error)
	// Compare compares all rows of both ends and tells what differs.
	Compare(ctx context.Context) (differences []string, rows int64, err error)
	// SetAside writes into dir every row of the end that is replicated to that
	// replicating this way would remove or change, and tells how many there are. It
	// changes neither end.
	SetAside(ctx context.Context, dir string) (facts []string, err error)
	// Reset forgets that the end was ever primary, and what is known of this way: the
	// next drain compares everything.
	Reset(ctx context.Context) error
	io.Closer
}

// Databases opens databases by name. Nobody is reached before a method is called.
type Databases interface {
	Open(ctx context.Context, name string, way Way) (Database, error)
	// Standing looks at the end that is replicated to, and at nothing else.
	Standing(ctx context.Context, name string, way Way) (Standing, error)
}

// Tokens are the fencing tokens that databases themselves keep.
type Tokens interface {
	// Token reads the token at a site; 0 where there is none.
	Token(ctx context.Context, database string, at Site) (int64, error)
	// SetToken writes it, unless a higher one is there already.
	SetToken(ctx context.Context, database string, at Site, token int64) error
}

// Quiescer reaches the applications of the servers at a site.
type Quiescer interface {
	// Quiesce makes the applications of a server stand still, or lets them go on.
	Quiesce(ctx context.Context, server string, still bool) ([]string, error)
}

// Hosts are the servers at the source.
type Hosts interface {
	Quiescer
	// Fence makes a server unable to serve or write, or lifts that, and leaves the token
	// where the agent is.
	Fence(ctx context.Context, server string, on bool, token int64) ([]string, error)
	// Fenced looks whether it is so.
	Fenced(ctx context.Context, server string) (dr.Outcome, []string, error)
}

// Machines are the servers that run from their replicas at a site.
type Machines interface {
	// Ready looks whether the site has what it takes to run servers: a hypervisor, their
	// network, memory and room for all of them at once.
	Ready(ctx context.Context, servers []string) ([]string, error)
	// Pass makes a recovery point there of a server at the other site, and returns it.
	Pass(ctx context.Context, server string) (dr.PointID, []string, error)
	// Boot starts a server from a recovery point, unless its machine is there already:
	// then that is started, with what it wrote, unless it runs.
	Boot(ctx context.Context, server string, point dr.PointID) ([]string, error)
	// Start starts a machine that is there, unless it runs.
	Start(ctx context.Context, server string) ([]string, error)
	// Probe waits until a server that was booted answers.
	Probe(ctx context.Context, server string) ([]string, error)
	// Running looks whether it runs.
	Running(ctx context.Context, server string) (bool, error)
	// Halt shuts it down; its machine stays as it is.
	Halt(ctx context.Context, server string) ([]string, error)
	// PutAway keeps the disk of a machine that does not run under another name: the next
	// Boot begins with a recovery point. A machine that is not there is away.
	PutAway(ctx context.Context, server string) ([]string, error)
}

// Home is the host at the source that servers come back to. Its Ready also brings there
// what it needs.
type Home interface {
	Machines
	// Drill boots the newest recovery points there, in isolation, and proves them.
	Drill(ctx context.Context, servers []string) ([]string, error)
}

// Names leads clients to a site.
type Names interface {
	// Lead changes where a redirect of the configuration leads, and makes sure of it.
	Lead(ctx context.Context, redirect string, to Site) ([]string, error)
	// Ready looks whether it could be changed, and changes nothing.
	Ready(ctx context.Context, redirect string) ([]string, error)
	// Leads looks where it leads: an address of which site, or neither ("").
	Leads(ctx context.Context, redirect string) (Site, []string, error)
}

// World is everything that plans act on. What an estate does not have may be nil.
type World struct {
	Databases Databases
	Tokens    Tokens
	Hosts     Hosts    // the servers at the source
	Machines  Machines // at the target …
	Guests    Quiescer // … and the same as their own systems are reached
	Home      Home
	Names     Names
	State     Keeper
	Shell     runbook.Shell
	Asker     runbook.Asker
	Aside     string // directory for what is set aside
	Now       func() time.Time
}

// Keeper keeps the state, durably.
type Keeper interface {
	Load() (*State, error)
	// Change loads the state, lets f change it and makes that durable. f may be called
	// on a state that is so already.
	Change(f func(*State)) error
}

// addresses joins addresses for people.
func addresses(as []netip.Addr) string {
	s := ""
	for i, a := range as {
		if i > 0 {
			s += ", "
		}
		s += a.String()
	}
	return s
}
