package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Form is how a server of the lab runs.
type Form string

const (
	// Light is a private set of namespaces over loop-mounted filesystems.
	Light Form = "light"
	// Guest is a QEMU guest that boots its own kernel and systemd.
	Guest Form = "guest"
)

// stateVersion is the form of state.json.
const stateVersion = 1

// state is what `lab up` leaves on record for the other commands. It is written
// before each thing it names exists, or while that thing still waits to begin.
type state struct {
	Version   int        `json:"version"`
	Created   time.Time  `json:"created"`
	Rate      string     `json:"rate"`
	Ready     bool       `json:"ready"`
	Servers   []*server  `json:"servers"`
	Databases []Database `json:"databases,omitempty"`
	Dallas    process    `json:"dallas"` // of the target site's database servers
	Home      process    `json:"home"`   // of Miami's host for machines
}

// server is one server on record.
type server struct {
	Name    string      `json:"name"`
	Form    Form        `json:"form"`
	Address string      `json:"address"`
	User    string      `json:"user"`
	Process process     `json:"process"`
	Parts   []Partition `json:"partitions"`
}

// statePlace is a lab's directory and the record in it.
type statePlace struct {
	dir string

	mu sync.Mutex // guards the record against the servers that start at once
	state
}

func (p *statePlace) path(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}

// update changes the record and writes it down.
func (p *statePlace) update(change func(*state)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.state)
	b, err := json.MarshalIndent(p.state, "", "  ")
	if err != nil {
		return fmt.Errorf("write the lab's record: %w", err)
	}
	tmp := p.path("state.json.new")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return fmt.Errorf("write the lab's record: %w", err)
	}
	if err := os.Rename(tmp, p.path("state.json")); err != nil {
		return fmt.Errorf("write the lab's record: %w", err)
	}
	return nil
}

// errNoLab means that a directory holds no lab.
var errNoLab = errors.New("there is no lab")

func loadState(dir string) (*statePlace, error) {
	p := &statePlace{dir: dir}
	b, err := os.ReadFile(p.path("state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the lab's record in %s: %w", dir, errNoLab)
	}
	if err != nil {
		return nil, fmt.Errorf("read the lab's record: %w", err)
	}
	if err := json.Unmarshal(b, &p.state); err != nil {
		return nil, fmt.Errorf("read the lab's record in %s: %w", dir, err)
	}
	if p.Version != stateVersion {
		return nil, fmt.Errorf("read the lab's record in %s: it has form %d, this Leeward knows %d", dir, p.Version, stateVersion)
	}
	return p, nil
}
