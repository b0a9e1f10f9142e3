package tree

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrDamaged means that a catalog does not hold together. It is set aside and made
// anew, by a full comparison; see SetAside.
var ErrDamaged = errors.New("the catalog is damaged")

// isDamaged reports whether err is about what the file holds: a full or unreadable
// disk must not cost a good catalog.
func isDamaged(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch)
}

// IsDamaged reports whether err is about what a catalog holds.
func IsDamaged(err error) bool { return isDamaged(err) }

// OpenOrReplaceCatalog is OpenCatalog, but a damaged catalog is moved aside: the
// pass then compares everything anew.
func OpenOrReplaceCatalog(path string) (c *Catalog, replaced bool, err error) {
	c, err = OpenCatalog(path)
	if !isDamaged(err) {
		return c, false, err
	}
	if mvErr := SetAside(path); mvErr != nil {
		return nil, false, errors.Join(err, mvErr)
	}
	c, err = OpenCatalog(path)
	return c, true, err
}

// SetAside renames a damaged catalog, which must be closed, to .damaged.
func SetAside(path string) error {
	if err := os.Rename(path, path+".damaged"); err != nil {
		return fmt.Errorf("set catalog aside: %w", err)
	}
	return nil
}

// openBolt has the list of free pages kept in the file: bbolt would find them by a
// goroutine of its own, and what that stumbles over nobody can catch.
func openBolt(path string) (db *bbolt.DB, err error) {
	defer guardDamage(&err)()
	return bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 5 * time.Second, FreelistType: bbolt.FreelistMapType})
}

// view and update are bbolt's; what it finds damaged is an error.
func (c *Catalog) view(f func(*bbolt.Tx) error) (err error) {
	defer guardDamage(&err)()
	return c.db.View(f)
}

func (c *Catalog) update(f func(*bbolt.Tx) error) (err error) {
	defer guardDamage(&err)()
	return c.db.Update(f)
}

// guardDamage is deferred around bbolt, which follows the numbers in a file wherever
// they lead: into a panic, or to an address where the file does not reach.
func guardDamage(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			*err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}
}

// dropLinks removes from links the names in a page that is replaced or removed.
func (p *stagedPage) dropLinks(links *bbolt.Bucket, page []byte) error {
	entries, err := decodePage(page)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.links < 2 {
			continue
		}
		name := linkName{linkKey{p.sub, e.inode}, join(p.path, e.name)}
		if err := links.Delete(name.bytes()); err != nil {
			return err
		}
	}
	return nil
}
