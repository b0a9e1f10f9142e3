package rowsync

import (
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// EpochError means that the source's history is not the one that was followed.
type EpochError struct{ Name, Was, Is string }

func (e *EpochError) Error() string {
	return fmt.Sprintf("the source of %s was restored or replaced: its history is %s, was %s; nothing was changed. "+
		"If it is what you want to protect now, allow to compare everything anew", e.Name, e.Is, e.Was)
}

// PrimaryError means that the target serves applications.
type PrimaryError struct{ Name string }

func (e *PrimaryError) Error() string {
	return fmt.Sprintf("the target of %s is primary: replicating into it would overwrite what applications write there; "+
		"replicate back from it, with the ends swapped, instead", e.Name)
}

// BlockedError lists what must be mended before replication can start.
type BlockedError struct {
	Name     string
	Findings []engine.Finding // the blockers
}

func (e *BlockedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s cannot be replicated yet", e.Name)
	for _, f := range e.Findings {
		fmt.Fprintf(&b, "; %s: %s", f.Object, f.Text)
		if f.Remedy != "" {
			fmt.Fprintf(&b, " (%s)", f.Remedy)
		}
	}
	return b.String()
}

// blocked makes an error of the findings that stand in the way, nil where none does.
func blocked(name string, fs []engine.Finding) error {
	var out []engine.Finding
	for _, f := range fs {
		if f.Severity == engine.Blocker {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return &BlockedError{Name: name, Findings: out}
}
