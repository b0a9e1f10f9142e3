package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

const (
	proofVersion = 1
	proofFile    = "proof.json"
)

// Changes are how a pass found a filesystem changed since the point before.
type Changes struct {
	Entries      int64 `json:"entries"`       // there before
	Bytes        int64 `json:"bytes"`         // of the files among them
	Changed      int64 `json:"changed"`       // entries with other content than before
	ChangedBytes int64 `json:"changed_bytes"` // what those held before
	ShrunkBytes  int64 `json:"shrunk_bytes"`  // by how much those became shorter
	Added        int64 `json:"added"`
	AddedBytes   int64 `json:"added_bytes"`
	Removed      int64 `json:"removed"`
	RemovedBytes int64 `json:"removed_bytes"`
	Sent         int64 `json:"sent"`  // content that crossed the wire, uncompressed
	Stiff        int64 `json:"stiff"` // of that, what does not compress
}

// PassChanges are the changes of one earlier pass, by mount point. A point carries
// those of the passes before it, so that they outlive the points themselves.
type PassChanges struct {
	ID          dr.PointID         `json:"id"`
	Filesystems map[string]Changes `json:"filesystems"`
	Unusual     bool               `json:"unusual,omitempty"` // says nothing of what is usual
}

// Anomaly is a change far outside what is usual of its filesystem.
type Anomaly struct {
	Server     dr.ServerName `json:"server"`
	MountPoint string        `json:"mount_point"`
	Kind       string        `json:"kind"`  // files, bytes or content
	Share      float64       `json:"share"` // of what was there, or of what was sent
	Usual      float64       `json:"usual"` // the median of the passes before
	Limit      float64       `json:"limit"` // above which it is told
	Passes     int           `json:"passes"`
	Text       string        `json:"text"`
}

// String says what is unusual.
func (a Anomaly) String() string { return fmt.Sprintf("%s %s: %s", a.Server, a.MountPoint, a.Text) }

// Proof is what a drill found of a recovery point. It lies in the point's directory.
type Proof struct {
	Version     int           `json:"version"`
	Outcome     dr.Outcome    `json:"outcome"` // done: proven
	At          time.Time     `json:"at"`
	Drill       string        `json:"drill"`
	TimeToProof time.Duration `json:"time_to_proof_ns,omitempty"`
	Cause       string        `json:"cause,omitempty"` // why it is not proven
	// Took is the achieved RTO: from the first step until all was proven; Phases are where
	// it went, by name.
	Took   time.Duration            `json:"took_ns,omitempty"`
	Phases map[string]time.Duration `json:"phases_ns,omitempty"`
}

// SetProof records what a drill found, in place of what an earlier one did.
func (p *Point) SetProof(proof Proof) error {
	proof.Version = proofVersion
	b, err := json.MarshalIndent(proof, "", "  ")
	if err == nil {
		err = atomicfile.Write(filepath.Join(p.Dir, proofFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("record proof of recovery point %s of %s: %w", p.ID, p.Manifest.Server, err)
	}
	return nil
}

// Proof returns what the last drill of the point found, nil where there was none.
func (p Place) Proof() (*Proof, error) {
	b, err := os.ReadFile(filepath.Join(p.Dir, proofFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var proof Proof
	if err == nil {
		err = json.Unmarshal(b, &proof)
	}
	if err == nil && proof.Version != proofVersion {
		err = fmt.Errorf("version %d, this Leeward reads %d", proof.Version, proofVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("read proof of recovery point %s: %w", p, err)
	}
	return &proof, nil
}
