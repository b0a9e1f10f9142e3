package switchover

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

// stateFormat is the version of the state's file.
const stateFormat = 1

// State says which site is primary for what. It is a file in the store; what it says
// of databases is in the databases as well.
type State struct {
	Format int `json:"format"`
	// Token is the highest fencing token given out. It only grows.
	Token   int64             `json:"token"`
	Members map[string]Member `json:"members,omitempty"`
}

// Member is how one server or database stands.
type Member struct {
	Primary Site  `json:"primary"`
	Token   int64 `json:"token"` // under which it is primary; a site with a lower one must not write
	// Moving is set from before the first change until the move is recorded: where to.
	Moving Site `json:"moving,omitempty"`
	// Pending is the token of the run that moves it: no older run may go on.
	Pending int64     `json:"pending,omitempty"`
	Run     string    `json:"run,omitempty"` // the last run that set this
	By      string    `json:"by,omitempty"`  // its kind
	Since   time.Time `json:"since,omitzero"`
	// Until ends the window in which a rollback is offered.
	Until time.Time `json:"until,omitzero"`
	// Lost is set after a failover: the other site was not drained, and what it still
	// has is not here. It must not write until somebody has looked at that.
	Lost  bool       `json:"lost,omitempty"`
	Point dr.PointID `json:"point,omitempty"` // that a server was booted from
	// Home is set of a server that came back: at the source it is a machine of ours on
	// the failback host since.
	Home bool `json:"home,omitempty"`
}

// Member returns how a member stands; one that was never moved is primary at the
// source.
func (s *State) Member(name string) Member {
	m, ok := s.Members[name]
	if !ok {
		return Member{Primary: Source}
	}
	return m
}

// Set replaces what is known of a member.
func (s *State) Set(name string, m Member) {
	if s.Members == nil {
		s.Members = map[string]Member{}
	}
	s.Members[name] = m
	s.Token = max(s.Token, m.Token, m.Pending)
}

// digest stands for what plans of these members rest on.
func (s *State) digest(names []string) string {
	type line struct {
		Name   string
		Member Member
	}
	var lines []line
	for _, n := range names {
		lines = append(lines, line{n, s.Member(n)})
	}
	b, err := json.Marshal(struct {
		Token int64
		Lines []line
	}{s.Token, lines})
	if err != nil {
		return ""
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8])
}

// File is a Keeper in a directory of the store.
type File struct {
	dir string
	mu  sync.Mutex // steps that run at once change different members
}

const stateFile = "state.json"

// NewFile keeps the state in dir.
func NewFile(dir string) *File { return &File{dir: dir} }

// Load implements Keeper. A state that is not there is an empty one.
func (f *File) Load() (*State, error) {
	path := filepath.Join(f.dir, stateFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &State{Format: stateFormat}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which site is primary: %w", err)
	}
	s, err := ParseState(b)
	if err != nil {
		return nil, dr.WithHint(fmt.Errorf("read which site is primary: %s: %w", path, err),
			"nothing is moved until this is mended: take the file from a copy of the store, or find out which site writes and write it by hand")
	}
	return s, nil
}

// ParseState reads a state as it is kept.
func ParseState(b []byte) (*State, error) {
	s := &State{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, err
	}
	if s.Format != stateFormat {
		return nil, fmt.Errorf("it is of format %d, this version knows %d", s.Format, stateFormat)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Members)) {
		m := s.Members[name]
		if m.Primary != Source && m.Primary != Target || m.Moving != "" && m.Moving != Source && m.Moving != Target || max(m.Token, m.Pending) > s.Token {
			return nil, fmt.Errorf("what it says of %s cannot be: %+v", name, m)
		}
	}
	return s, nil
}

// Change implements Keeper.
func (f *File) Change(change func(*State)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.Load()
	if err != nil {
		return err
	}
	change(s)
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write which site is primary: %w", err)
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("write which site is primary: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(f.dir, stateFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write which site is primary: %w", err)
	}
	return nil
}
