package replica

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

const (
	manifestVersion = 1
	manifestFile    = "manifest.json"
	factsFile       = "facts.json"
	tmpPrefix       = ".tmp-"
	oldPrefix       = ".old-"
)

// ErrDamagedPoint marks the error of a recovery point that cannot be relied on.
var ErrDamagedPoint = errors.New("damaged recovery point")

// Manifest tells what a recovery point holds. It is written last: a point without
// it does not exist.
type Manifest struct {
	Version     int               `json:"version"`
	Server      dr.ServerName     `json:"server"`
	ID          dr.PointID        `json:"id"`
	Sequence    int64             `json:"sequence,omitempty"` // grows from point to point, whatever the clock does
	Started     time.Time         `json:"started"`
	Finished    time.Time         `json:"finished"`
	Consistency dr.Consistency    `json:"consistency"` // the weakest of the filesystems
	Filesystems []FilesystemState `json:"filesystems"`
	Traffic     dr.Traffic        `json:"traffic"`
	Source      Source            `json:"source"`
	Leeward     string            `json:"leeward"` // version that made the point
	DiskBytes   int64             `json:"disk_bytes"`
	History     []PassChanges     `json:"history,omitempty"`   // of the passes before, oldest first
	Anomalies   []Anomaly         `json:"anomalies,omitempty"` // what is unusual in this pass
	Files       map[string]string `json:"files"`               // BLAKE3 of the files beside the disk, by name
	Digest      string            `json:"digest"`              // BLAKE3 of this manifest with an empty digest

	Facts *agentpb.Facts `json:"-"` // becomes facts.json
}

// FilesystemState is the state of one filesystem in a point.
type FilesystemState struct {
	MountPoint  string         `json:"mount_point"`
	Type        string         `json:"type"`
	UUID        string         `json:"uuid"`
	Digest      string         `json:"digest,omitempty"` // of all its entries, as the capture defines it
	Entries     int64          `json:"entries"`
	Bytes       int64          `json:"bytes"`
	Consistency dr.Consistency `json:"consistency"`
	How         string         `json:"how"` // live, btrfs snapshot …
	At          time.Time      `json:"at"`
	Fuzzy       []string       `json:"fuzzy,omitempty"`   // files that changed while they were read, see EscapePath
	Changes     *Changes       `json:"changes,omitempty"` // since the point before; nil where nothing is known
}

// Source sums up the host the point was taken of.
type Source struct {
	Hostname string `json:"hostname"`
	OS       string `json:"os"`
	Kernel   string `json:"kernel"`
	UEFI     bool   `json:"uefi"`
	BootID   string `json:"boot_id"`
}

// Point is a complete recovery point.
type Point struct {
	ID       dr.PointID
	Dir      string
	Manifest *Manifest
}

// EscapePath makes a path of any bytes fit for JSON and for people: control
// characters, backslashes and what is no UTF-8 become \xNN.
func EscapePath(path string) string {
	var b strings.Builder
	for i, c := range path {
		switch {
		case c < ' ' || c == 0x7f || c == '\\' || c == '\uFFFD' && !strings.HasPrefix(path[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, path[i])
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// MakePoint makes a recovery point of the replica as it is now: it freezes m,
// clones the disk, thaws, and writes the manifest last. man tells what the pass
// knows; the rest MakePoint fills in. A point and an error together mean that the
// point is complete, but something after it went wrong.
func (r *Replica) MakePoint(ctx context.Context, m *Mounted, man *Manifest) (*Point, error) {
	p, err := r.makePoint(ctx, m, man)
	if err != nil {
		return p, fmt.Errorf("make recovery point of %s: %w", r.name, err)
	}
	return p, nil
}

func (r *Replica) makePoint(ctx context.Context, m *Mounted, man *Manifest) (_ *Point, err error) {
	if _, err := man.ID.Time(); err != nil {
		return nil, err
	}
	final, tmp := r.path(pointsDir, string(man.ID)), r.path(pointsDir, tmpPrefix+string(man.ID))
	if there, err := exists(final); err != nil || there {
		return nil, errors.Join(err, fmt.Errorf("%s is there already", final))
	}
	if r.store.SpaceLow() {
		return nil, dr.WithHint(ErrSpace, "free space beneath the store, then run again")
	}
	if err := os.RemoveAll(tmp); err != nil {
		return nil, err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := m.Freeze(ctx); err != nil {
		return nil, err
	}
	err = r.cloneInto(ctx, tmp)
	thawed := m.Thaw()
	if err != nil {
		return nil, errors.Join(err, thawed)
	}
	done := *man
	older, _ := r.Points() // what is damaged has no number
	for _, p := range older {
		done.Sequence = max(done.Sequence, p.Manifest.Sequence)
	}
	done.Sequence++
	if err := r.describe(tmp, m.layout, &done); err != nil {
		return nil, errors.Join(err, thawed)
	}
	if err := atomicfile.Rename(tmp, final); err != nil {
		return nil, errors.Join(err, thawed)
	}
	return &Point{ID: done.ID, Dir: final, Manifest: &done}, thawed
}

// cloneInto clones the disk, the plain trees and the catalogs into dir.
func (r *Replica) cloneInto(ctx context.Context, dir string) error {
	if err := cloneFile(r.Disk(), filepath.Join(dir, diskFile)); err != nil {
		return err
	}
	for _, name := range []string{treesDir, stateDir} {
		if there, err := exists(r.path(name)); err != nil {
			return err
		} else if !there {
			continue
		}
		if err := cloneTree(ctx, r.path(name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// describe writes what stands beside the disk of a point, the manifest last.
func (r *Replica) describe(dir string, l *Layout, man *Manifest) error {
	if err := l.write(filepath.Join(dir, layoutFile)); err != nil {
		return err
	}
	facts, err := protojson.MarshalOptions{Multiline: true}.Marshal(orEmpty(man.Facts))
	if err != nil {
		return fmt.Errorf("write facts: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, factsFile), facts, 0o600); err != nil {
		return err
	}
	man.Version, man.Server, man.DiskBytes = manifestVersion, r.name, l.Size
	if man.Facts != nil {
		man.Source = sourceOf(man.Facts)
	}
	man.Files = map[string]string{}
	for _, name := range []string{layoutFile, factsFile} {
		if man.Files[name], err = fileDigest(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if man.Digest, err = man.digest(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(man, "", "  ")
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return atomicfile.Write(filepath.Join(dir, manifestFile), append(b, '\n'), 0o600)
}

func orEmpty(f *agentpb.Facts) *agentpb.Facts {
	if f == nil {
		return &agentpb.Facts{}
	}
	return f
}

func sourceOf(f *agentpb.Facts) Source {
	return Source{Hostname: f.GetHost().GetHostname(), OS: f.GetOs().GetPrettyName(),
		Kernel: f.GetKernel(), UEFI: f.GetUefi(), BootID: f.GetHost().GetBootId()}
}

// digestOf is the BLAKE3 of v as JSON, for values that hold their own digest; what names
// it in errors.
func digestOf(v any, what string) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("digest %s: %w", what, err)
	}
	return fmt.Sprintf("%x", blake3.Sum256(b)), nil
}

// digest returns the digest of the manifest as it must stand in it.
func (m *Manifest) digest() (string, error) {
	c := *m
	c.Digest = ""
	return digestOf(&c, "manifest")
}

func fileDigest(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("digest %s: %w", path, err)
	}
	sum := blake3.Sum256(b)
	return fmt.Sprintf("%x", sum), nil
}

// Points returns the complete recovery points, the last made first: that is the newest
// also where the clock was set back. Damaged ones are not
// among them but in the error, which is ErrDamagedPoint and does not spoil the
// points returned with it.
func (r *Replica) Points() ([]*Point, error) {
	entries, err := os.ReadDir(r.path(pointsDir))
	if err != nil {
		return nil, fmt.Errorf("list recovery points of %s: %w", r.name, err)
	}
	var points []*Point
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // being made, or being removed
		}
		p, err := readPoint(r.path(pointsDir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			if gone, _ := exists(r.path(pointsDir, e.Name())); !gone {
				continue // pruned while we looked
			}
		}
		if err != nil {
			errs = append(errs, &PointError{dr.PointID(e.Name()), r.name, err})
			continue
		}
		points = append(points, p)
	}
	slices.SortFunc(points, func(a, b *Point) int {
		return cmp.Or(cmp.Compare(b.Manifest.Sequence, a.Manifest.Sequence), strings.Compare(string(b.ID), string(a.ID)))
	})
	return points, errors.Join(errs...)
}

// PointError is of one damaged point. It is ErrDamagedPoint.
type PointError struct {
	ID     dr.PointID
	Server dr.ServerName
	Cause  error
}

func (e *PointError) Error() string {
	return fmt.Sprintf("recovery point %s of %s: %v: %v", e.ID, e.Server, ErrDamagedPoint, e.Cause)
}

// Unwrap makes it ErrDamagedPoint, and its cause.
func (e *PointError) Unwrap() []error { return []error{ErrDamagedPoint, e.Cause} }

// PointErrors lists the damaged points that an error of Points tells of.
func PointErrors(err error) (out []*PointError) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			var one *PointError
			if errors.As(e, &one) {
				out = append(out, one)
			}
		}
	}
	return out
}

// readPoint reads and checks what stands beside a point's disk.
func readPoint(dir string) (*Point, error) {
	b, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	man, err := parseManifest(b)
	if err != nil {
		return nil, err
	}
	if string(man.ID) != filepath.Base(dir) {
		return nil, fmt.Errorf("read manifest: it is of point %s", man.ID)
	}
	for _, name := range []string{layoutFile, factsFile} {
		sum, err := fileDigest(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if sum != man.Files[name] {
			return nil, fmt.Errorf("check %s: it is not the one the manifest names", name)
		}
	}
	st, err := os.Stat(filepath.Join(dir, diskFile))
	if err != nil {
		return nil, fmt.Errorf("check disk: %w", err)
	}
	if st.Size() != man.DiskBytes {
		return nil, fmt.Errorf("check disk: %d bytes, the manifest says %d", st.Size(), man.DiskBytes)
	}
	return &Point{ID: man.ID, Dir: dir, Manifest: man}, nil
}

func parseManifest(b []byte) (*Manifest, error) {
	var man Manifest
	if err := json.Unmarshal(b, &man); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if man.Version != manifestVersion {
		return nil, fmt.Errorf("read manifest: version %d, this Leeward reads %d", man.Version, manifestVersion)
	}
	want, err := man.digest()
	if err != nil {
		return nil, err
	}
	if man.Digest != want {
		return nil, fmt.Errorf("read manifest: its digest does not match its content")
	}
	return &man, nil
}
