// Package protect runs passes: it reaches the sources of an estate, carries what
// changed into their replicas, compares the two, and tells beforehand what that
// takes. What it returns are plain values; rendering them is left to the caller.
package protect

import (
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/forecast"
	"github.com/leeward-dr/leeward/internal/replica"
)

// Options say what to work on.
type Options struct {
	Estate *config.Estate
	// Names and Databases are the servers and databases to work on; none of either
	// means all.
	Names     []dr.ServerName
	Databases []string

	// Progress is told of every change of a server's progress. It is called
	// concurrently and must return at once. It may be nil.
	Progress func(Progress)
}

// Progress is the newest state of one server's pass, or of a database's, which goes by
// its own name. A later value replaces an earlier one whole; totals that are not known
// yet are zero.
type Progress struct {
	Server    dr.ServerName
	Phase     string // in a word or two: connecting, scanning, copying …
	Unit      string // what entries are called, one of them; "" is entry
	Entries   int64  // entries known to be there
	Examined  int64  // of them, those looked at
	Files     int64  // files to bring over
	FilesDone int64
	Bytes     int64 // content to bring over, uncompressed
	BytesDone int64
	WireIn    int64 // bytes from the source so far
	WireOut   int64 // bytes to the source so far
	Started   time.Time
	Finished  bool
	Err       error
	Note      string // what a person should know now: waiting for the link …
	Trail     []Mark // the steps so far, the last one under way; nil where nobody tells
}

// Mark is when a step began.
type Mark struct {
	Step string
	At   time.Time
}

// PlanResult is what plan found out.
type PlanResult struct {
	Servers  []ServerPlan  `json:"servers"`
	Rows     []RowsPlan    `json:"databases,omitempty"` // of the databases replicated by themselves
	Target   TargetSpace   `json:"target"`
	Points   *PointSpace   `json:"points,omitempty"` // what recovery points take, and will take
	Bytes    int64         `json:"bytes"`            // content of all servers together
	ETA      time.Duration `json:"eta_ns"`           // until all are safe, in 19 of 20 cases; 0 unknown
	Deadline time.Time     `json:"deadline"`         // zero where there is none
	Findings []Finding     `json:"findings"`         // of the estate as a whole
	Measured int64         `json:"link_rate"`        // bytes per second, of all connections together; 0 unknown
	// Forecast says when what is safe; nil where nothing is known. Verdict holds it against
	// the deadline, Rescue says what to do where not all is in time.
	Forecast *forecast.Forecast `json:"forecast,omitempty"`
	Verdict  *forecast.Verdict  `json:"verdict,omitempty"`
	Rescue   *forecast.Rescue   `json:"rescue,omitempty"`
	// Simulated are forecasts under changes that were asked for.
	Simulated []Simulation `json:"simulated,omitempty"`

	input forecast.Input
}

// TargetSpace compares what the store will need with what is free there.
type TargetSpace struct {
	Store string `json:"store"`
	Need  int64  `json:"need"`
	Free  int64  `json:"free"`
}

// ServerPlan is the plan for one server.
type ServerPlan struct {
	Server      dr.ServerName    `json:"server"`
	Reachable   bool             `json:"reachable"`
	System      string           `json:"system"` // as the source names itself, with kernel and firmware
	Filesystems []FilesystemPlan `json:"filesystems"`
	Excluded    []Exclusion      `json:"excluded"`
	Databases   []DatabasePlan   `json:"databases"`
	Bytes       int64            `json:"bytes"`      // of content
	Wire        int64            `json:"wire_bytes"` // that will cross the link, by sample or by its last passes
	ETA         time.Duration    `json:"eta_ns"`     // until it is safe, in 19 of 20 cases; 0 unknown
	Findings    []Finding        `json:"findings"`
	Err         string           `json:"error,omitempty"` // why it is not reachable
	Hint        string           `json:"hint,omitempty"`
}

// FilesystemPlan is one filesystem a pass carries.
type FilesystemPlan struct {
	MountPoint string `json:"mount_point"`
	Type       string `json:"type"`
	Size       int64  `json:"size"`
	Used       int64  `json:"used"`
	Inodes     int64  `json:"inodes"`
	Capture    string `json:"capture"` // "btrfs snapshot", "LVM snapshot", or "live", then with the reason where a snapshot could be expected
}

// Exclusion is something a pass leaves behind, and why.
type Exclusion struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// DatabasePlan says how a running database is treated.
type DatabasePlan struct {
	Engine   string `json:"engine"`
	DataDir  string `json:"data_dir"`
	Decision string `json:"decision"`
	Advice   string `json:"advice,omitempty"`
}

// Level grades a finding.
type Level string

// A blocker stops the pass, a warning costs something, a note is good to know.
const (
	Blocker Level = "blocker"
	Warning Level = "warning"
	Note    Level = "note"
)

// Finding is something plan noticed.
type Finding struct {
	Level Level  `json:"level"`
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"`
}

// RunResult is what replicate did.
type RunResult struct {
	Servers   []ServerRun   `json:"servers"`
	Databases []DatabaseRun `json:"databases,omitempty"`
	Groups    []GroupRun    `json:"groups,omitempty"`   // those with a member in the run
	Findings  []Finding     `json:"findings,omitempty"` // of the store and its recovery points
	Duration  time.Duration `json:"duration_ns"`
}

// ServerRun is how the pass of one server ended.
type ServerRun struct {
	Server   dr.ServerName `json:"server"`
	Outcome  dr.Outcome    `json:"outcome"`
	Point    dr.PointID    `json:"point,omitempty"` // the recovery point it made
	Traffic  dr.Traffic    `json:"traffic"`
	Duration time.Duration `json:"duration_ns"`
	Fuzzy    []string      `json:"fuzzy,omitempty"` // files that changed each time they were read, quoted
	Warnings []string      `json:"warnings,omitempty"`
	// Anomalies are changes far outside what is usual of the server, and Pinned the
	// points that are kept for their sake.
	Anomalies []replica.Anomaly `json:"anomalies,omitempty"`
	Pinned    []string          `json:"pinned,omitempty"`
	Removed   []dr.PointID      `json:"removed,omitempty"` // points that keep: does not keep
	Err       string            `json:"error,omitempty"`
	Hint      string            `json:"hint,omitempty"`

	made     *replica.Point
	unpinned bool // the last good point could not be pinned: nothing is removed
	full     bool // it failed for want of space in the store
}

// VerifyResult is what verify found.
type VerifyResult struct {
	Servers   []ServerVerify   `json:"servers"`
	Databases []DatabaseVerify `json:"databases,omitempty"`
	Patterns  []string         `json:"volatile_patterns"` // what may differ
	Duration  time.Duration    `json:"duration_ns"`
}

// ServerVerify compares one source with its replica. Outcome is Done only where
// everything was compared, and NotDone where that found differences.
type ServerVerify struct {
	Server      dr.ServerName `json:"server"`
	Outcome     dr.Outcome    `json:"outcome"`
	Differences []Difference  `json:"differences"`
	Volatile    []Difference  `json:"volatile"` // differences that a volatile pattern covers
	Newer       []Difference  `json:"newer"`    // entries changed at the source since the pass
	Entries     int64         `json:"entries"`  // compared
	Bytes       int64         `json:"bytes"`    // of file content compared
	Duration    time.Duration `json:"duration_ns"`
	Err         string        `json:"error,omitempty"`
	Hint        string        `json:"hint,omitempty"`
}

// Difference is one entry that is not the same on both sides.
type Difference struct {
	Path   string `json:"path"` // quoted as by strconv.Quote where it is not plain text
	Kind   string `json:"kind"` // missing, extra, content, owner …
	Detail string `json:"detail,omitempty"`
}
