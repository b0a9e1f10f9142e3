package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// EntryChange is one entry that is not the same in two catalogs. Sizes are those of
// regular files, 0 for all else.
type EntryChange struct {
	Path   string
	Kind   ChangeKind
	Dir    bool
	Before int64
	After  int64
}

// ChangeKind says how an entry changed.
type ChangeKind string

// An entry whose content is as before, but not its mode, owner or time, has other
// attributes; of a directory its time does not count, since it changes with what is in it.
const (
	Added      ChangeKind = "added"
	Removed    ChangeKind = "removed"
	Changed    ChangeKind = "changed"
	Attributes ChangeKind = "attributes"
)

// CatalogChanges sums up how one catalog differs from an earlier one. Added, Removed and
// Changed count entries of any type.
type CatalogChanges struct {
	Changed      int64 `json:"changed"`       // with other content
	ChangedBytes int64 `json:"changed_bytes"` // what those held before
	ShrunkBytes  int64 `json:"shrunk_bytes"`  // by how much those became shorter
	Added        int64 `json:"added"`
	AddedBytes   int64 `json:"added_bytes"`
	Removed      int64 `json:"removed"`
	RemovedBytes int64 `json:"removed_bytes"`
	Attributes   int64 `json:"attributes"`
}

func (c *CatalogChanges) add(e EntryChange) {
	switch e.Kind {
	case Added:
		c.Added++
		c.AddedBytes += e.After
	case Removed:
		c.Removed++
		c.RemovedBytes += e.Before
	case Changed:
		c.Changed++
		c.ChangedBytes += e.Before
		c.ShrunkBytes += max(0, e.Before-e.After)
	case Attributes:
		c.Attributes++
	}
}

// CountCatalogChanges sums up how the catalog at after differs from that at before.
// Both are only read, and of what is equal nothing but the bytes is looked at.
func CountCatalogChanges(ctx context.Context, before, after string) (sum CatalogChanges, err error) {
	err = withCatalogs(before, after, func(a, b *bbolt.Bucket) error {
		x, y := &dirRows{cur: a.Cursor()}, &dirRows{cur: b.Cursor()}
		x.first()
		y.first()
		for {
			dir, ok := nextDir(x, y)
			if !ok {
				return ctx.Err()
			}
			x.begin(dir)
			y.begin(dir)
			err := mergeRows(x, y, false, func(old, now *known) error {
				if c, differs := compareRows(old, now); differs {
					sum.add(c)
				}
				return ctx.Err()
			})
			if err != nil {
				return err
			}
		}
	})
	return sum, err
}

// CatalogDifferences calls found with every entry that differs between the catalogs at
// before and after, in the order of the tree, and returns their sum.
func CatalogDifferences(ctx context.Context, before, after string, found func(EntryChange) error) (sum CatalogChanges, err error) {
	err = withCatalogs(before, after, func(a, b *bbolt.Bucket) error {
		stack := []string{""}
		for len(stack) > 0 {
			path := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			x, y := &dirRows{cur: a.Cursor()}, &dirRows{cur: b.Cursor()}
			x.seek(keyOf(path))
			y.seek(keyOf(path))
			err := mergeRows(x, y, true, func(old, now *known) error {
				row := old
				if now != nil {
					row = now
				}
				full := join(path, row.name)
				if row.name != "" && (isDir(old) || isDir(now)) {
					stack = append(stack, full)
				}
				c, differs := compareRows(old, now)
				if !differs {
					return ctx.Err()
				}
				sum.add(c)
				c.Path = full
				return errors.Join(ctx.Err(), found(c))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return sum, err
}

func isDir(k *known) bool { return k != nil && kindOf(k.mode) == unix.S_IFDIR }

// withCatalogs calls f with the pages of two catalogs that nobody may write.
func withCatalogs(before, after string, f func(a, b *bbolt.Bucket) error) (err error) {
	a, err := readCatalog(before)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	b, err := readCatalog(after)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	err = a.view(func(old *bbolt.Tx) error {
		return b.view(func(now *bbolt.Tx) error {
			x, y := old.Bucket(pagesBucket), now.Bucket(pagesBucket)
			if x == nil || y == nil {
				return fmt.Errorf("%w: it has no pages", ErrDamaged)
			}
			return f(x, y)
		})
	})
	if err != nil {
		return fmt.Errorf("compare catalogs: %w", err)
	}
	return nil
}

// dirRows goes through the pages of a catalog, and through the entries of one directory
// at a time.
type dirRows struct {
	cur  *bbolt.Cursor
	k, v []byte // the page that is not decoded yet
	dir  dirKey
	rows []known // of the page before it, those that are left
}

func (d *dirRows) first() {
	d.k, d.v = d.cur.First()
	d.skipForeign()
}

func (d *dirRows) seek(dir dirKey) {
	d.dir = dir
	d.k, d.v = d.cur.Seek(dir[:])
	d.skipForeign()
}

func (d *dirRows) begin(dir dirKey) { d.dir = dir }

func (d *dirRows) step() {
	d.k, d.v = d.cur.Next()
	d.skipForeign()
}

// skipForeign passes over keys that are no page's.
func (d *dirRows) skipForeign() {
	for d.k != nil && len(d.k) < len(dirKey{}) {
		d.k, d.v = d.cur.Next()
	}
}

// page returns the key and value of the next page of the directory where all entries
// before it have been taken, or nil.
func (d *dirRows) page() (k, v []byte) {
	if len(d.rows) > 0 || d.k == nil || !bytes.HasPrefix(d.k, d.dir[:]) {
		return nil, nil
	}
	return d.k, d.v
}

// peek returns the next entry of the directory, nil at its end.
func (d *dirRows) peek() (*known, error) {
	for len(d.rows) == 0 {
		k, v := d.page()
		if k == nil {
			return nil, nil
		}
		var err error
		if d.rows, err = decodePage(v); err != nil {
			return nil, err
		}
		d.step()
	}
	return &d.rows[0], nil
}

func (d *dirRows) take() { d.rows = d.rows[1:] }

// nextDir returns the directory that comes next in either catalog.
func nextDir(x, y *dirRows) (dir dirKey, ok bool) {
	switch {
	case x.k == nil && y.k == nil:
		return dir, false
	case y.k == nil || x.k != nil && bytes.Compare(x.k, y.k) < 0:
		return dirKey(x.k), true
	}
	return dirKey(y.k), true
}

// mergeRows calls visit with each entry of a directory as it is in the one catalog and
// in the other, nil where it is not. Pages that are equal are passed over unless all is
// set.
func mergeRows(x, y *dirRows, all bool, visit func(old, now *known) error) error {
	for {
		k, v := x.page()
		l, w := y.page()
		if !all && k != nil && bytes.Equal(k, l) && bytes.Equal(v, w) {
			x.step()
			y.step()
			continue
		}
		old, err := x.peek()
		if err != nil {
			return err
		}
		now, err := y.peek()
		if err != nil {
			return err
		}
		order := 0
		switch {
		case old == nil && now == nil:
			return nil
		case now == nil:
			order = -1
		case old == nil:
			order = 1
		default:
			order = strings.Compare(old.name, now.name)
		}
		if order < 0 {
			now = nil
		} else if order > 0 {
			old = nil
		}
		err = visit(old, now)
		if old != nil {
			x.take()
		}
		if now != nil {
			y.take()
		}
		if err != nil {
			return err
		}
	}
}

// compareRows says how an entry changed, and false where it did not.
func compareRows(old, now *known) (c EntryChange, differs bool) {
	size := func(k *known) int64 {
		if k != nil && kindOf(k.mode) == unix.S_IFREG {
			return int64(k.size)
		}
		return 0
	}
	c = EntryChange{Before: size(old), After: size(now), Dir: isDir(now) || now == nil && isDir(old)}
	switch {
	case old == nil:
		c.Kind = Added
	case now == nil:
		c.Kind = Removed
	case kindOf(old.mode) != kindOf(now.mode) || old.device != now.device || old.size != now.size || old.digest != now.digest:
		c.Kind = Changed
	case old.mode != now.mode || old.uid != now.uid || old.gid != now.gid || !c.Dir && (old.mtimeSec != now.mtimeSec || old.mtimeNsec != now.mtimeNsec):
		c.Kind = Attributes
	default:
		return c, false
	}
	return c, true
}
