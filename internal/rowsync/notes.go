package rowsync

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	notesName    = "state.json"
	notesVersion = 1
)

// notes is what the target site remembers of a stream beside its rows. The truth of
// how far rows are is in the target itself; losing this file costs a comparison.
type notes struct {
	path string
	mu   sync.Mutex
	d    notesData
}

type notesData struct {
	Version int    `json:"version"`
	Stream  string `json:"stream,omitempty"`
	// Compare is set while everything must be compared anew from a fresh position.
	Compare string `json:"compare,omitempty"` // why
	// Stopped are the tables that are not followed.
	Stopped map[string]Stop `json:"stopped,omitempty"`
	// Intent is a change of definitions on its way to the target.
	Intent *intent `json:"intent,omitempty"`
	// Made are objects that passes made at the target and that may lack owners or grants;
	// Lacking says, for people, what could not be given.
	Made    []engine.Name `json:"made,omitempty"`
	Lacking []string      `json:"lacking,omitempty"`
	// LastVerified is when a verification last found both ends equal.
	LastVerified time.Time            `json:"last_verified,omitzero"`
	Verified     map[string]time.Time `json:"verified,omitempty"` // by table
	// Known is how much the source had done when it was last heard of.
	Known pulse `json:"known"`
	// Seen is, of a physical copy, where the target was when it was last looked at.
	Seen *seen `json:"seen,omitempty"`
	// Aside is when the rows were set aside that the target of a physical copy alone has.
	Aside time.Time `json:"aside,omitzero"`
}

// seen is one look at how far the log was applied; the pace is reckoned from two.
type seen struct {
	At      time.Time `json:"at"`
	Log     int64     `json:"log"`     // bytes; -1: not known
	Commits int64     `json:"commits"` // -1: not known
}

// Stop is why a table is not followed, and what to do.
type Stop struct {
	Cause  string    `json:"cause"`
	Remedy string    `json:"remedy,omitempty"`
	At     time.Time `json:"at"`
}

// intent is noted before DDL is executed at the target, which no transaction holds.
type intent struct {
	After  engine.Pos `json:"after"`  // of the target, when it was noted
	End    engine.Pos `json:"end"`    // of the transaction that holds the DDL
	Pieces int        `json:"pieces"` // of that transaction which are done before it
	Before string     `json:"before"` // fingerprint of the target's definitions then
	Done   bool       `json:"done"`
}

// pulse is the pace of a stream: what may be missing is reckoned from it.
type pulse struct {
	Heard        time.Time `json:"heard,omitzero"`       // when something last came, by the target site's clock
	SourceTime   time.Time `json:"source_time,omitzero"` // of the newest that landed
	Transactions float64   `json:"transactions"`         // a second, of late
	Bytes        float64   `json:"bytes"`                // a second, of late
}

func loadNotes(dir string) (*notes, error) {
	n := &notes{path: filepath.Join(dir, notesName), d: notesData{Version: notesVersion}}
	b, err := os.ReadFile(n.path)
	if errors.Is(err, os.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the spool's state: %w", err)
	}
	if err := json.Unmarshal(b, &n.d); err != nil {
		return nil, fmt.Errorf("read %s: %w; remove it to compare both ends anew", n.path, err)
	}
	if n.d.Version != notesVersion {
		return nil, fmt.Errorf("read %s: it has version %d, this program knows %d", n.path, n.d.Version, notesVersion)
	}
	return n, nil
}

// get returns a copy.
func (n *notes) get() notesData {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.d
	d.Stopped, d.Verified = maps.Clone(d.Stopped), maps.Clone(d.Verified)
	d.Made, d.Lacking = slices.Clone(d.Made), slices.Clone(d.Lacking)
	if d.Intent != nil {
		i := *d.Intent
		d.Intent = &i
	}
	return d
}

// change changes the notes, durably before it returns.
func (n *notes) change(f func(*notesData)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.d)
	b, err := json.MarshalIndent(n.d, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the spool's state: %w", err)
	}
	return atomicfile.Write(n.path, append(b, '\n'), 0o600)
}

// stopped reports the tables that are not followed.
func (n *notes) stopped() map[string]Stop { return n.get().Stopped }

// stop notes that tables are not followed any more.
func (n *notes) stop(names []engine.Name, cause, remedy string) error {
	return n.change(func(d *notesData) {
		if d.Stopped == nil {
			d.Stopped = map[string]Stop{}
		}
		for _, t := range names {
			d.Stopped[t.String()] = Stop{Cause: cause, Remedy: remedy, At: time.Now().UTC()}
		}
	})
}
