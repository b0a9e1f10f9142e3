package tree

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
)

// Catalog is what the target knows of one filesystem of the source: every entry
// as the last pass that carried it saw it, with the digest of its content. It
// never claims more than the replica holds: a page is stored after all of its
// entries are in place and on disk.
//
// It is a bbolt file. In bucket "pages" the key is the digest of the directory's
// path (16 bytes) and the first name of the page; the value is a version byte,
// the page's digest (8 bytes) and a CatalogPage message. In bucket "links" the key
// is subvolume, inode (8 bytes each) and a digest of the path (16 bytes) of an
// entry with several names, the value its path; these are hints. Bucket "contents"
// keeps what large files are made of, see contentKey and keepContent. Bucket "meta"
// keeps the sum of the pages until they change.
type Catalog struct {
	db *bbolt.DB

	mu     sync.Mutex
	staged []stagedPage
	size   int
}

var pagesBucket, linksBucket, metaBucket = []byte("pages"), []byte("links"), []byte("meta")

const (
	catalogVersion = 1
	// stageMax is how many bytes of pages wait in memory for the next commit.
	stageMax = 16 << 20
)

// stagedPage replaces all pages of dir from first to before next.
type stagedPage struct {
	dir         dirKey
	first, next []byte
	head        bool
	value       []byte
	all         bool   // remove the whole directory
	path        string // the directory's, and the number of its subvolume
	sub         uint64
	links       []linkName
	content     []byte // where set, this is not a page but what a file is made of, or nothing
}

// linkName is one name of an inode that has several.
type linkName struct {
	key  linkKey
	path string
}

func (l *linkName) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, l.key.subvolume)
	b = binary.BigEndian.AppendUint64(b, l.key.inode)
	k := keyOf(l.path)
	return append(b, k[:]...)
}

// OpenCatalog opens or makes the catalog at path. A file that is no catalog is
// an error that says so; removing it costs a full comparison, never data.
func OpenCatalog(path string) (*Catalog, error) {
	db, err := openBolt(path)
	if err != nil {
		if isDamaged(err) {
			return nil, fmt.Errorf("catalog %s is damaged: %w", path, err)
		}
		return nil, fmt.Errorf("open catalog %s: %w", path, err)
	}
	c := &Catalog{db: db}
	err = c.update(func(tx *bbolt.Tx) error {
		var err error
		for _, name := range [][]byte{pagesBucket, linksBucket, contentsBucket, metaBucket} {
			if err == nil {
				_, err = tx.CreateBucketIfNotExists(name)
			}
		}
		return err
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("open catalog %s: %w", path, err)
	}
	return c, nil
}

// Close closes the file. What is staged and not committed is dropped.
func (c *Catalog) Close() error { return c.db.Close() }

// Baseline calls send with the keys and digests of all pages, some thousand at a
// time.
func (c *Catalog) Baseline(send func(*agentpb.Baseline) error) error {
	const step = 8 << 10
	return c.view(func(tx *bbolt.Tx) error {
		b := &agentpb.Baseline{}
		cur := tx.Bucket(pagesBucket).Cursor()
		for k, v := cur.First(); k != nil; k, v = cur.Next() {
			if len(k) < 16 || len(v) < 9 || v[0] != catalogVersion {
				continue
			}
			b.Keys = binary.BigEndian.AppendUint64(b.Keys, pageKey(dirKey(k[:16]), k[16:]))
			b.Digests = append(b.Digests, v[1:9]...)
			if len(b.Keys) >= 8*step {
				if err := send(b); err != nil {
					return err
				}
				b = &agentpb.Baseline{}
			}
		}
		b.Last = true
		return send(b)
	})
}

// known is an entry with the digest of its content.
type known struct {
	entry
	digest chunk.Digest
}

// between returns the entries of dir whose names are from first to before next.
// head means from the very first name; an empty next means to the last.
func (c *Catalog) between(dir dirKey, first, next []byte, head bool) (map[string]known, error) {
	out := map[string]known{}
	err := c.view(func(tx *bbolt.Tx) error {
		cur := tx.Bucket(pagesBucket).Cursor()
		seek := append(append(make([]byte, 0, 16+len(first)), dir[:]...), first...)
		if head {
			seek = seek[:16]
		}
		k, v := cur.Seek(seek)
		if !head && (k == nil || !bytes.Equal(k, seek)) {
			// The page that holds first begins before it.
			if k == nil {
				k, v = cur.Last()
			} else {
				k, v = cur.Prev()
			}
			if k != nil && !bytes.HasPrefix(k, dir[:]) {
				k, v = cur.Next()
			}
		}
		for ; k != nil && bytes.HasPrefix(k, dir[:]); k, v = cur.Next() {
			if len(next) > 0 && bytes.Compare(k[16:], next) >= 0 {
				break
			}
			entries, err := decodePage(v)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if (head || e.name >= string(first)) && (len(next) == 0 || e.name < string(next)) {
					out[e.name] = e
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read catalog: %w", err)
	}
	return out, nil
}

func decodePage(v []byte) ([]known, error) {
	if len(v) < 9 || v[0] != catalogVersion {
		return nil, nil // of another version: as if it were not there
	}
	var p agentpb.CatalogPage
	if err := proto.Unmarshal(v[9:], &p); err != nil {
		return nil, fmt.Errorf("%w: page: %w", ErrDamaged, err)
	}
	if p.Page == nil {
		return nil, fmt.Errorf("%w: page: %w", ErrDamaged, errColumns)
	}
	entries, err := unpack(p.Page, true)
	if err != nil {
		return nil, fmt.Errorf("%w: page: %w", ErrDamaged, err)
	}
	if len(p.Digests) != 32*len(entries) {
		return nil, fmt.Errorf("%w: page: %w", ErrDamaged, errColumns)
	}
	out := make([]known, len(entries))
	for i, e := range entries {
		out[i] = known{entry: e, digest: chunk.Digest(p.Digests[32*i:])}
	}
	return out, nil
}

// put stages a page: all entries from first to before next are now these. An
// entry with a zero change time is one whose state is not settled: it makes the
// page differ from whatever the source shows next time.
func (c *Catalog) put(dir *dirJob, first, next []byte, head bool, entries []known) error {
	var links []linkName
	rows := make([]entry, len(entries))
	p := &agentpb.CatalogPage{Digests: make([]byte, 0, 32*len(entries))}
	for i, e := range entries {
		rows[i] = e.entry
		p.Digests = append(p.Digests, e.digest[:]...)
		if e.links > 1 {
			links = append(links, linkName{linkKey{dir.sub, e.inode}, join(dir.path, e.name)})
		}
	}
	p.Page = makePage(rows, string(next))
	digest, _ := pageDigest(rows, string(next), nil)
	value := binary.BigEndian.AppendUint64([]byte{catalogVersion}, digest)
	value, err := proto.MarshalOptions{}.MarshalAppend(value, p)
	if err != nil {
		return fmt.Errorf("encode page: %w", err)
	}
	c.stage(stagedPage{dir: dir.key, first: first, next: next, head: head, value: value, links: links, path: dir.path, sub: dir.sub})
	return nil
}

// twin is another name of an inode.
type twin struct {
	path string
	row  known
}

// twins returns the other names of the inode that e is an entry of, as the catalog
// has them: with all else equal.
func (c *Catalog) twins(k linkKey, path string, e entry) (out []twin) {
	var paths []string
	prefix := (&linkName{key: k}).bytes()[:16]
	c.view(func(tx *bbolt.Tx) error {
		cur := tx.Bucket(linksBucket).Cursor()
		for k, v := cur.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cur.Next() {
			if string(v) != path {
				paths = append(paths, string(v))
			}
		}
		return nil
	}) // a hint that cannot be read is none
	for _, p := range paths {
		dir, name := split(p)
		known, err := c.between(keyOf(dir), []byte(name), append([]byte(name), 0), false)
		if err != nil {
			return nil
		}
		row, ok := known[name]
		same := row.entry
		same.name = e.name
		if ok && same == e {
			out = append(out, twin{p, row})
		}
	}
	return out
}

// has reports whether there are pages of dir.
func (c *Catalog) has(dir dirKey) (found bool, err error) {
	err = c.view(func(tx *bbolt.Tx) error {
		k, _ := tx.Bucket(pagesBucket).Cursor().Seek(dir[:])
		found = k != nil && bytes.HasPrefix(k, dir[:])
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read catalog: %w", err)
	}
	return found, nil
}

// drop stages the removal of the pages of the directory at path, in the subvolume
// of number sub. It returns the entries it had, so that the caller can go on with
// the directories among them.
func (c *Catalog) drop(path string, sub uint64) (map[string]known, error) {
	dir := keyOf(path)
	entries, err := c.between(dir, nil, nil, true)
	if err != nil {
		return nil, err
	}
	c.stage(stagedPage{dir: dir, all: true, path: path, sub: sub})
	return entries, nil
}

// full reports whether it is time to commit.
func (c *Catalog) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size >= stageMax
}

// commit writes what is staged, after sync has made the replica itself durable.
func (c *Catalog) commit(sync func() error) error {
	c.mu.Lock()
	staged := c.staged
	c.staged, c.size = nil, 0
	c.mu.Unlock()
	if len(staged) == 0 {
		return nil
	}
	if err := sync(); err != nil {
		return fmt.Errorf("sync replica: %w", err)
	}
	err := c.update(func(tx *bbolt.Tx) error {
		b, l := tx.Bucket(pagesBucket), tx.Bucket(linksBucket)
		if err := tx.Bucket(metaBucket).Delete(sumKey); err != nil {
			return err
		}
		contents := tx.Bucket(contentsBucket)
		for i := range staged {
			if staged[i].all || staged[i].content != nil {
				if err := staged[i].applyContent(contents); err != nil {
					return err
				}
			}
			if staged[i].content != nil {
				continue
			}
			if err := staged[i].apply(b, l); err != nil {
				return err
			}
			for k := range staged[i].links {
				if err := l.Put(staged[i].links[k].bytes(), []byte(staged[i].links[k].path)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("commit catalog: %w", err)
	}
	return nil
}

// apply writes the page in place of those it replaces, and drops the names that they
// had in links; those of the page itself are the caller's to put.
func (p *stagedPage) apply(b, links *bbolt.Bucket) error {
	key := append(append(make([]byte, 0, 16+len(p.first)), p.dir[:]...), p.first...)
	seek := key
	if p.head || p.all {
		seek = key[:16]
	}
	var old [][]byte
	cur := b.Cursor()
	for k, v := cur.Seek(seek); k != nil && bytes.HasPrefix(k, p.dir[:]); k, v = cur.Next() {
		if !p.all && len(p.next) > 0 && bytes.Compare(k[16:], p.next) >= 0 {
			break
		}
		if err := p.dropLinks(links, v); err != nil {
			return err
		}
		if !bytes.Equal(k, key) || p.all {
			old = append(old, bytes.Clone(k))
		}
	}
	for _, k := range old {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	if p.all {
		return nil
	}
	return b.Put(key, p.value)
}

// CatalogSum describes a catalog for a recovery point's manifest.
type CatalogSum struct {
	Digest  string `json:"digest"` // over all pages in order, hex
	Entries int64  `json:"entries"`
	Bytes   int64  `json:"bytes"`
}

var sumKey = []byte("sum")

// Sum digests the whole catalog: equal sums mean equal listings and equal content
// digests. It reads everything only where something has changed since the last
// time.
func (c *Catalog) Sum() (CatalogSum, error) {
	var out CatalogSum
	c.view(func(tx *bbolt.Tx) error {
		return json.Unmarshal(tx.Bucket(metaBucket).Get(sumKey), &out)
	})
	if out.Digest != "" {
		return out, nil
	}
	err := c.update(func(tx *bbolt.Tx) (err error) {
		if out, err = sumPages(tx); err != nil {
			return err
		}
		b, err := json.Marshal(out)
		if err != nil {
			return err
		}
		return tx.Bucket(metaBucket).Put(sumKey, b)
	})
	if err != nil {
		return CatalogSum{}, fmt.Errorf("sum catalog: %w", err)
	}
	return out, nil
}

// count is Sum for a catalog that is only read, and reads everything.
func (c *Catalog) count() (out CatalogSum, err error) {
	err = c.view(func(tx *bbolt.Tx) (err error) {
		out, err = sumPages(tx)
		return err
	})
	if err != nil {
		return CatalogSum{}, fmt.Errorf("sum catalog: %w", err)
	}
	return out, nil
}

func sumPages(tx *bbolt.Tx) (out CatalogSum, err error) {
	pages := tx.Bucket(pagesBucket)
	if pages == nil {
		return out, fmt.Errorf("%w: it has no pages", ErrDamaged)
	}
	var h chunk.Hasher
	err = pages.ForEach(func(k, v []byte) error {
		h.Write(k)
		h.Write(v)
		entries, err := decodePage(v)
		for _, e := range entries {
			out.Entries++
			if kindOf(e.mode) == unix.S_IFREG {
				out.Bytes += int64(e.size)
			}
		}
		return err
	})
	out.Digest = h.Sum().String()
	return out, err
}
