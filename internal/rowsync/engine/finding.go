package engine

// Severity says how much a finding matters.
type Severity string

// A Blocker must be mended before replication can start, a Warning tells of
// something that will not be as the user may expect, a Note is for the record.
const (
	Blocker Severity = "blocker"
	Warning Severity = "warning"
	Note    Severity = "note"
)

// Finding is something a user should know of a database before replicating it.
type Finding struct {
	Severity Severity
	Object   string // what it is about: a table, a setting
	Text     string // what is so
	Remedy   string // what to do: the exact statement where there is one
}

// FenceObject is the Object of findings about a source that could not be fenced as it is:
// replication does without, a planned switch does not.
const FenceObject = "fence"
