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

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

const (
	groupVersion = 1
	groupsDir    = "groups"
)

// GroupManifest tells what a group's recovery point holds: points of its servers and
// watermarks of its databases, all of one run. It is written last: a point without
// it does not exist.
type GroupManifest struct {
	Version     int             `json:"version"`
	Group       string          `json:"group"`
	ID          dr.PointID      `json:"id"`
	Sequence    int64           `json:"sequence"` // grows from point to point, whatever the clock does
	Started     time.Time       `json:"started"`
	Finished    time.Time       `json:"finished"`
	Consistency dr.Consistency  `json:"consistency"` // the weakest of the members
	From        time.Time       `json:"from"`        // the oldest instant that a member shows
	To          time.Time       `json:"to"`          // the newest
	Skew        time.Duration   `json:"skew_ns"`     // between the two
	Order       []string        `json:"order"`       // names of the members as they start
	Servers     []GroupServer   `json:"servers"`
	Databases   []GroupDatabase `json:"databases"`
	Anomalies   []Anomaly       `json:"anomalies,omitempty"` // of all members
	Leeward     string          `json:"leeward"`             // version that made the point
	Digest      string          `json:"digest"`              // BLAKE3 of this manifest with an empty digest
}

// GroupServer is a server's part in a group's point.
type GroupServer struct {
	Server      dr.ServerName  `json:"server"`
	Point       dr.PointID     `json:"point"`
	Manifest    string         `json:"manifest"` // digest of that point's manifest, which covers all else
	Consistency dr.Consistency `json:"consistency"`
	From        time.Time      `json:"from"`
	To          time.Time      `json:"to"`
	Entries     int64          `json:"entries"`
	Bytes       int64          `json:"bytes"`
	Source      Source         `json:"source"`
}

// GroupDatabase is the watermark of a database: where in its source's history the
// copy stood. The copy itself goes on with later passes.
type GroupDatabase struct {
	Database    string         `json:"database"`
	Engine      string         `json:"engine"`
	Position    string         `json:"position"`
	Committed   time.Time      `json:"committed"` // of the newest change applied, by the source's clock
	Heard       time.Time      `json:"heard"`     // when the source had nothing newer
	Consistency dr.Consistency `json:"consistency"`
	Source      string         `json:"source"` // host of the source
}

// GroupPoint is a complete recovery point of a group.
type GroupPoint struct {
	ID       dr.PointID
	Dir      string
	Manifest *GroupManifest
}

// Place returns where the point lies.
func (g *GroupPoint) Place() Place { return Place{g.Manifest.Group, g.ID, g.Dir} }

// Hold keeps the point, and so its members, from being removed until the returned
// function is called, or the process ends.
func (g *GroupPoint) Hold() (release func() error, err error) {
	release, err = g.Place().hold()
	if err != nil {
		return nil, fmt.Errorf("hold recovery point %s of group %s: %w", g.ID, g.Manifest.Group, err)
	}
	return release, nil
}

// ServerMember describes a server's point as part of a group's. It shows its source from
// when the first filesystem was opened until the pass had read all, or, where all are
// of an instant, the last of those.
func ServerMember(p *Point) GroupServer {
	m := p.Manifest
	out := GroupServer{Server: m.Server, Point: p.ID, Manifest: m.Digest, Consistency: m.Consistency, Source: m.Source, From: m.Started, To: m.Started}
	for i, f := range m.Filesystems {
		out.Entries += f.Entries
		out.Bytes += f.Bytes
		if i == 0 || f.At.Before(out.From) {
			out.From = f.At
		}
		if f.Consistency == dr.Fuzzy {
			out.To = m.Finished
		} else if i == 0 || f.At.After(out.To) {
			out.To = f.At
		}
	}
	if out.To.Before(out.From) {
		out.To = out.From
	}
	return out
}

// MakeGroupPoint makes a recovery point of the group that man names: it holds the
// servers' points that man names, makes sure that each is there and is the one meant,
// and writes the manifest last. What is of all members MakeGroupPoint fills in.
func (s *Store) MakeGroupPoint(ctx context.Context, man *GroupManifest) (_ *GroupPoint, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make recovery point of group %s: %w", man.Group, err)
		}
	}()
	if _, err := man.ID.Time(); err != nil {
		return nil, err
	}
	if !dr.ValidName(man.Group) {
		return nil, fmt.Errorf("%q is no valid name", man.Group)
	}
	for i := range man.Servers {
		release, err := s.holdMember(&man.Servers[i])
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	unlock, err := s.lockGroup(ctx, man.Group)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	dir := s.groupDir(man.Group)
	final, tmp := filepath.Join(dir, string(man.ID)), filepath.Join(dir, tmpPrefix+string(man.ID))
	if there, err := exists(final); err != nil || there {
		return nil, errors.Join(err, fmt.Errorf("%s is there already", final))
	}
	if err := errors.Join(ctx.Err(), sweepDir(dir)); err != nil {
		return nil, err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return nil, err
	}
	done := *man
	older, _ := s.groupManifests(man.Group) // what is damaged has no number
	for _, g := range older {
		done.Sequence = max(done.Sequence, g.Manifest.Sequence)
	}
	done.Sequence++
	done.sumUp()
	err = done.write(filepath.Join(tmp, manifestFile))
	if err == nil {
		err = atomicfile.Rename(tmp, final)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	return &GroupPoint{ID: done.ID, Dir: final, Manifest: &done}, nil
}

// sumUp fills in what follows from the members.
func (m *GroupManifest) sumUp() {
	m.Version, m.Consistency, m.From, m.To = groupVersion, dr.Application, time.Time{}, time.Time{}
	member := func(c dr.Consistency, from, to time.Time) {
		if c.Weaker(m.Consistency) {
			m.Consistency = c
		}
		if m.From.IsZero() || from.Before(m.From) {
			m.From = from
		}
		if to.After(m.To) {
			m.To = to
		}
	}
	for _, s := range m.Servers {
		member(s.Consistency, s.From, s.To)
	}
	for _, d := range m.Databases {
		member(d.Consistency, d.Heard, d.Heard)
	}
	m.Skew = m.To.Sub(m.From)
}

func (m *GroupManifest) write(path string) (err error) {
	if m.Digest, err = m.digest(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return atomicfile.Write(path, append(b, '\n'), 0o600)
}

func (m *GroupManifest) digest() (string, error) {
	c := *m
	c.Digest = ""
	return digestOf(&c, "manifest")
}

// lockGroup waits for the sole right to make and remove points of a group.
func (s *Store) lockGroup(ctx context.Context, group string) (unlock func() error, err error) {
	if err := os.MkdirAll(s.groupDir(group), 0o700); err != nil {
		return nil, err
	}
	return waitLock(ctx, filepath.Join(s.root, groupsDir, group, "lock"))
}

func (s *Store) groupDir(group string) string {
	return filepath.Join(s.root, groupsDir, group, pointsDir)
}

// Member returns the server's point that a group's point names.
func (s *Store) Member(m *GroupServer) (*Point, error) {
	if !dr.ValidName(string(m.Server)) || strings.ContainsRune(string(m.Point), '/') {
		return nil, fmt.Errorf("%w: it names no server's point: %q of %q", ErrDamagedPoint, m.Point, m.Server)
	}
	p, err := readPoint(s.MemberPlace(m).Dir)
	if err == nil && p.Manifest.Digest != m.Manifest {
		err = errors.New("it is another than the one meant")
	}
	if err != nil {
		return nil, fmt.Errorf("recovery point %s of %s: %w: %w", m.Point, m.Server, ErrDamagedPoint, err)
	}
	return p, nil
}

// MemberPlace returns where the server's point lies that a group's point names, whether
// it is there or not.
func (s *Store) MemberPlace(m *GroupServer) Place {
	return Place{string(m.Server), m.Point, filepath.Join(s.root, "servers", string(m.Server), pointsDir, string(m.Point))}
}

func (s *Store) holdMember(m *GroupServer) (release func() error, err error) {
	p, err := s.Member(m)
	if err != nil {
		return nil, err
	}
	return p.Hold()
}

// GroupNames returns the names of the groups that the store holds points of.
func (s *Store) GroupNames() (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(s.root, groupsDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if e.IsDir() && dr.ValidName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// GroupPoints returns the complete recovery points of a group, the last made first. Damaged
// ones, and those that lack the point of a member, are not among them but in the
// error, which is ErrDamagedPoint and does not spoil the points returned with it.
func (s *Store) GroupPoints(group string) (points []*GroupPoint, err error) {
	all, err := s.groupManifests(group)
	errs := []error{err}
	for _, g := range all {
		if err := s.whole(g); err != nil {
			errs = append(errs, fmt.Errorf("recovery point %s of group %s: %w", g.ID, group, err))
			continue
		}
		points = append(points, g)
	}
	return points, errors.Join(errs...)
}

// NewestGroupPoint returns the newest point of a group that is complete, nil where none
// is, and how many manifests there are. An error tells of newer ones that are damaged,
// and does not spoil the point.
func (s *Store) NewestGroupPoint(group string) (newest *GroupPoint, count int, err error) {
	all, err := s.groupManifests(group)
	errs := []error{err}
	for _, g := range all {
		if err := s.whole(g); err != nil {
			errs = append(errs, fmt.Errorf("recovery point %s of group %s: %w", g.ID, group, err))
			continue
		}
		newest = g
		break
	}
	return newest, len(all), errors.Join(errs...)
}

// GroupPlaces returns where the points of a group lie, newest first, also of those that
// lack a member. Damaged ones are not among them.
func (s *Store) GroupPlaces(group string) (out []Place) {
	all, _ := s.groupManifests(group) // what is damaged is told where the points are listed
	for _, g := range all {
		out = append(out, g.Place())
	}
	return out
}

// Users returns which points of groups use each point of servers, by its place's name.
// What a group's damaged point uses is not among them.
func (s *Store) Users() (map[string][]string, error) {
	out := map[string][]string{}
	names, err := s.GroupNames()
	for _, name := range names {
		points, _ := s.groupManifests(name) // damaged ones are told where the group's are listed
		for _, g := range points {
			for i := range g.Manifest.Servers {
				key := s.MemberPlace(&g.Manifest.Servers[i]).String()
				out[key] = append(out[key], g.Place().String())
			}
		}
	}
	return out, err
}

// whole makes sure that all members of a point are there.
func (s *Store) whole(g *GroupPoint) error {
	var errs []error
	for i := range g.Manifest.Servers {
		_, err := s.Member(&g.Manifest.Servers[i])
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// groupManifests is GroupPoints without a look at the members.
func (s *Store) groupManifests(group string) (points []*GroupPoint, err error) {
	dir := s.groupDir(group)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list recovery points of group %s: %w", group, err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // being made, or being removed
		}
		g, err := readGroupPoint(filepath.Join(dir, e.Name()))
		if err == nil && g.Manifest.Group != group {
			err = fmt.Errorf("read manifest: it is of group %q", g.Manifest.Group)
		}
		if there, _ := exists(filepath.Join(dir, e.Name())); err != nil && !there {
			continue // removed while we looked
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("recovery point %s of group %s: %w: %w", e.Name(), group, ErrDamagedPoint, err))
			continue
		}
		points = append(points, g)
	}
	slices.SortFunc(points, func(a, b *GroupPoint) int {
		return cmp.Or(cmp.Compare(b.Manifest.Sequence, a.Manifest.Sequence), strings.Compare(string(b.ID), string(a.ID)))
	})
	return points, errors.Join(errs...)
}

func readGroupPoint(dir string) (*GroupPoint, error) {
	b, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	m, err := parseGroupManifest(b)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if string(m.ID) != filepath.Base(dir) {
		return nil, fmt.Errorf("read manifest: it is of point %q", m.ID)
	}
	return &GroupPoint{ID: m.ID, Dir: dir, Manifest: m}, nil
}

func parseGroupManifest(b []byte) (*GroupManifest, error) {
	var m GroupManifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m.Version != groupVersion {
		return nil, fmt.Errorf("version %d, this Leeward reads %d", m.Version, groupVersion)
	}
	if want, err := m.digest(); err != nil || want != m.Digest {
		return nil, errors.Join(err, errors.New("its digest does not match its content"))
	}
	return &m, nil
}

// usersOf returns which groups' points use each point of a server. A group's point that
// cannot be read may use any: that is an error.
func (s *Store) usersOf(server dr.ServerName) (map[dr.PointID][]string, error) {
	out := map[dr.PointID][]string{}
	names, err := s.GroupNames()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		points, err := s.groupManifests(name)
		if err != nil {
			return nil, dr.WithHint(err, "nothing is removed while it is not known what that point needs; remove its directory")
		}
		for _, g := range points {
			for _, m := range g.Manifest.Servers {
				if m.Server == server {
					out[m.Point] = append(out[m.Point], name+"/"+string(g.ID))
				}
			}
		}
	}
	return out, nil
}

// RetainGroup removes the points of a group that o does not keep, and returns those
// that went, oldest first. The points of its members are left to Retain.
func (s *Store) RetainGroup(ctx context.Context, group string, o Retention) (removed []dr.PointID, err error) {
	if there, err := exists(s.groupDir(group)); err != nil || !there || o.keepsAll() {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("remove recovery points of group %s: %w", group, err)
		}
	}()
	unlock, err := s.lockGroup(ctx, group)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := sweepDir(s.groupDir(group)); err != nil {
		return nil, err
	}
	points, err := s.groupManifests(group)
	if err != nil && !errors.Is(err, ErrDamagedPoint) { // those are told where points are listed
		return nil, err
	}
	var places []Place
	for _, g := range points {
		places = append(places, g.Place())
	}
	return s.retain(places, o, func(dr.PointID) (bool, error) { return false, nil })
}
