// Package document writes the documentation of an estate: what there is, who needs whom,
// what is copied and what is not, and how to move over, step by step, with Leeward and
// without it. It is given all of it as values and reaches nobody, so that it can be written
// while the source is dark. The same pages come as Markdown and as one HTML file that needs
// nothing beside it.
package document

import (
	"time"

	"github.com/leeward-dr/leeward/internal/discover"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// Edition is everything that one edition of the documentation says.
type Edition struct {
	Estate, Source, Target string
	Store                  string
	File                   string // leeward.yaml
	Version                string // of Leeward
	At                     time.Time
	Looked                 time.Time // when the inventory was taken; zero: there is none
	Graph                  *discover.Graph
	Needs                  []discover.Needs
	Servers                []Server
	Databases              []Database
	Groups                 []Group
	Networks               [][2]string // source to target
	Redirects              []string    // how clients are led to the other site, in words
	Contacts               []Contact
	Credentials            []Credential
	Procedures             []Procedure
	NotCopied              []string  // patterns that no pass carries
	Previous               time.Time // of the edition before; zero: this is the first
	Changes                []discover.Change
	Alarms                 []string // where reality is not what was last proven
}

// Server is a server with what is known of its copies.
type Server struct {
	Name, Host string
	After      []string
	Excludes   []string
	Inventory  *inventory.Server // nil: it was never looked at
	Err        string            // why not, the last time
	Point      string            // the newest recovery point
	PointAt    time.Time
	Consistent string
	Drilled    bool
	Proven     bool // by its newest drill
	DrillPoint string
	DrillAt    time.Time
	Proof      time.Duration     // from power-on until every check held
	Cause      string            // why its drill failed
	HeldBack   []string          // what a drill keeps it from doing
	Drift      []discover.Change // since the last proven state
	Address    []string          // at the target, where the network maps it
}

// proof says whether the copy was proven.
func (s Server) proof() string {
	switch {
	case !s.Drilled:
		return "never"
	case s.Proven:
		return "yes"
	}
	return "no"
}

// Database is one that is replicated by itself.
type Database struct {
	Name, Engine, Mode string
	Source, Target     string // where, without any secret
	Secrets            []string
	Server             string // that holds it, where that is known
}

// Group is what recovers together.
type Group struct {
	Name     string
	Order    []string
	RPO, RTO time.Duration
}

// Contact is somebody to call.
type Contact struct{ Name, Role, Phone, Mail string }

// Credential says where a secret is kept, never what it is.
type Credential struct{ For, Where string }

// Procedure is a runbook as it would be carried out now.
type Procedure struct {
	Kind string // cutover, failover, failback
	Plan *runbook.Plan
	Err  string // why there is none
	Last []Measured
}

// Measured is how long a step took when it was last done.
type Measured struct {
	Step string
	Took time.Duration
	At   time.Time
}

// Write returns the files of the edition, by name.
func Write(e *Edition) map[string][]byte {
	svg, left := drawTopology(e)
	sections := compose(e, svg, left)
	files := writeMarkdown(sections)
	files["runbook.html"] = writeHTML(e.Estate+": how to recover it", sections)
	files[topologyFile] = []byte(svg)
	return files
}

const topologyFile = "topology.svg"
