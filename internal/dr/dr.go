// Package dr is the vocabulary of Leeward: the nouns every other package
// speaks in. It imports the standard library only and does no I/O.
package dr

import (
	"errors"
	"fmt"
	"regexp"
	"time"
)

// ServerName names a protected server as leeward.yaml does. It is also a
// directory name in the store, so ValidName constrains it.
type ServerName string

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// ValidName reports whether s can name a server, site, group or database: 1 to
// 63 lower-case letters, digits, dots, dashes and underscores, beginning and
// ending with a letter or digit.
func ValidName(s string) bool { return nameRE.MatchString(s) }

// Outcome says how a step or a whole run ended. The zero value is Unknown: what
// nobody checked is not done.
type Outcome int

// The three outcomes. Unknown goes to a person.
const (
	Unknown Outcome = iota
	NotDone
	Done
)

func (o Outcome) String() string {
	switch o {
	case Done:
		return "done"
	case NotDone:
		return "not done"
	}
	return "unknown"
}

// MarshalText writes the outcome as it appears in --json and in files.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (o *Outcome) UnmarshalText(b []byte) error {
	switch string(b) {
	case "done":
		*o = Done
	case "not done":
		*o = NotDone
	case "unknown":
		*o = Unknown
	default:
		return fmt.Errorf("outcome %q: want done, not done or unknown", b)
	}
	return nil
}

// Consistency is what a recovery point promises about the instant it shows.
type Consistency string

// From weakest to strongest. Fuzzy: files were read over a span of time and some
// changed meanwhile. Crash: as after a power cut. Filesystem: frozen.
// Application: quiesced by the application itself.
const (
	Fuzzy       Consistency = "fuzzy"
	Crash       Consistency = "crash"
	Filesystem  Consistency = "filesystem"
	Application Consistency = "application"
)

// Weaker reports whether c promises less than other.
func (c Consistency) Weaker(other Consistency) bool { return c.rank() < other.rank() }

func (c Consistency) rank() int {
	switch c {
	case Crash:
		return 1
	case Filesystem:
		return 2
	case Application:
		return 3
	}
	return 0
}

// PointID names a recovery point within a server: the UTC time its pass began,
// as 20060102T150405.000Z. It sorts by age.
type PointID string

// NewPointID returns the ID for a pass begun at t.
func NewPointID(t time.Time) PointID {
	return PointID(t.UTC().Format("20060102T150405.000Z"))
}

// Time returns when the pass of this point began.
func (id PointID) Time() (time.Time, error) {
	t, err := time.Parse("20060102T150405.000Z", string(id))
	if err != nil {
		return time.Time{}, fmt.Errorf("recovery point id %q: %w", id, err)
	}
	return t, nil
}

// Traffic counts the bytes of one pass or run. Wire figures are bytes on the
// ssh connection before encryption, both ways counted apart.
type Traffic struct {
	WireIn   int64 `json:"wire_in"`  // from the source
	WireOut  int64 `json:"wire_out"` // to the source
	Read     int64 `json:"read"`     // file content the source had to look at
	Sent     int64 `json:"sent"`     // of that, what crossed the wire, uncompressed
	Reused   int64 `json:"reused"`   // of that, what the target had already
	Files    int64 `json:"files"`    // entries created or changed at the target
	Deleted  int64 `json:"deleted"`  // entries removed at the target
	Examined int64 `json:"examined"` // entries looked at on the source
}

// ErrTemporary marks errors worth trying again without a person: a cut link, a
// busy source. Wrap it with %w beside the cause.
var ErrTemporary = errors.New("temporary")

// Hinted is an error that also tells the reader what to do next.
type Hinted struct {
	Err  error
	Hint string
}

func (h *Hinted) Error() string { return h.Err.Error() }

// Unwrap returns the cause.
func (h *Hinted) Unwrap() error { return h.Err }

// WithHint returns err with the advice hint, which the command line prints on
// a line of its own. A nil err stays nil.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Hinted{Err: err, Hint: hint}
}
