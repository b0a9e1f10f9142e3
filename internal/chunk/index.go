package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
)

// Location says where a chunk was seen. It is a hint: the bytes there may have
// changed since, so whoever reads them must hash them again.
type Location struct {
	Tree   string // as given to Attach
	Path   string // within the tree
	Offset int64
	Length int
}

// flushAt is how many records a Writer holds before it writes them to a run of
// its own: it bounds memory to about 25 MB a tree.
const flushAt = 256 << 10

// mergeAt is how many runs a tree may have before they are made one.
const mergeAt = 8

// Index knows where at the target each chunk lies: in replicas and in seeds. It
// consists of sorted, immutable files, one or more a tree, and of what the passes
// in progress have written so far. All methods may be called concurrently.
type Index struct {
	mu      sync.RWMutex
	trees   map[string]*treeIndex
	flights map[Digest]*Flight
}

type treeIndex struct {
	dir  string
	seq  int
	runs []*run
	live map[uint64]record // of the Writer in progress
	open *Writer
}

// NewIndex returns an index of nothing.
func NewIndex() *Index {
	return &Index{trees: map[string]*treeIndex{}, flights: map[Digest]*Flight{}}
}

// Attach adds the runs in dir as the index of tree. dir need not exist. Damaged
// runs are removed: they are only hints.
func (x *Index) Attach(tree, dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.run"))
	if err != nil {
		return fmt.Errorf("list index %s: %w", dir, err)
	}
	t := &treeIndex{dir: dir, live: map[uint64]record{}}
	sort.Strings(names)
	for _, name := range names {
		var seq int
		if _, err := fmt.Sscanf(filepath.Base(name), "%d.run", &seq); err != nil {
			continue
		}
		t.seq = max(t.seq, seq)
		r, err := openRun(name)
		if err != nil {
			os.Remove(name) // a hint that cannot be read is worth nothing
			continue
		}
		t.runs = append(t.runs, r)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.trees[tree]; old != nil {
		closeRuns(old.runs)
	}
	x.trees[tree] = t
	return nil
}

// Close releases all files.
func (x *Index) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, t := range x.trees {
		closeRuns(t.runs)
	}
	x.trees = map[string]*treeIndex{}
	return nil
}

func closeRuns(runs []*run) {
	for _, r := range runs {
		r.close()
	}
}

// maxLocations is how many places Lookup names for one chunk. More would only
// help where several trees changed since they were indexed.
const maxLocations = 4

func (d Digest) key() uint64 { return binary.BigEndian.Uint64(d[:]) }

// Lookup returns where chunk d was seen, likely places first, preferring the tree
// near, which costs no mount.
func (x *Index) Lookup(d Digest, near string) []Location {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []Location
	if t := x.trees[near]; t != nil {
		out = t.lookup(near, d.key(), out)
	}
	for name, t := range x.trees {
		if len(out) >= maxLocations {
			break
		}
		if name != near {
			out = t.lookup(name, d.key(), out)
		}
	}
	return out
}

func (t *treeIndex) lookup(name string, key uint64, out []Location) []Location {
	if r, ok := t.live[key]; ok {
		out = append(out, Location{name, t.open.path(r.file), r.offset, int(r.length)})
	}
	for i := len(t.runs) - 1; i >= 0 && len(out) < maxLocations; i-- {
		if r, path, ok := t.runs[i].find(key); ok {
			out = append(out, Location{name, path, r.offset, int(r.length)})
		}
	}
	return out
}

// Empty reports whether nothing is indexed and nothing is under way, so that
// looking up is pointless.
func (x *Index) Empty() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, t := range x.trees {
		if len(t.runs) > 0 || len(t.live) > 0 {
			return false
		}
	}
	return len(x.flights) == 0
}

// Flight is a chunk that one pass has asked its source for while others may want
// it too.
type Flight struct {
	x    *Index
	d    Digest
	done chan struct{}
	once sync.Once
	data []byte // set before done is closed
}

// Begin announces that the caller lacks chunk d. The first to do so owns the
// flight and must Land it, whatever happens, and Release it; the others wait for
// Done and take its Data.
func (x *Index) Begin(d Digest) (f *Flight, owner bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if f := x.flights[d]; f != nil {
		return f, false
	}
	f = &Flight{x: x, d: d, done: make(chan struct{})}
	x.flights[d] = f
	return f, true
}

// Land ends the flight with the chunk's bytes, which must not be changed after, or
// with nil: it will not come, and whoever waits has to see to itself. After Land
// with bytes others may still Begin the flight and find it landed, until Release.
func (f *Flight) Land(data []byte) {
	f.once.Do(func() {
		f.data = data
		close(f.done)
		if data == nil {
			f.Release()
		}
	})
}

// Release forgets a landed flight, once the index knows where the chunk lies.
func (f *Flight) Release() {
	f.x.mu.Lock()
	defer f.x.mu.Unlock()
	if f.x.flights[f.d] == f {
		delete(f.x.flights, f.d)
	}
}

// Done is closed when the flight has ended.
func (f *Flight) Done() <-chan struct{} { return f.done }

// Data returns what the flight landed with. It may be called after Done only.
func (f *Flight) Data() []byte { return f.data }

// Writer adds what a pass writes to one tree. A tree has one Writer at a time.
type Writer struct {
	x    *Index
	tree string

	// Guarded by x.mu.
	recs  []record
	paths []byte
	ends  []uint64 // ends[i] is where path i ends in paths
}

// NewWriter returns the writer of tree, which must be attached.
func (x *Index) NewWriter(tree string) (*Writer, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.trees[tree]
	if t == nil || t.open != nil {
		return nil, fmt.Errorf("index %s: not attached or already being written", tree)
	}
	w := &Writer{x: x, tree: tree}
	t.open = w
	return w, nil
}

func (w *Writer) path(file uint32) string {
	start := uint64(0)
	if file > 0 {
		start = w.ends[file-1]
	}
	return string(w.paths[start:w.ends[file]])
}

// Piece is one chunk of a file.
type Piece struct {
	Digest Digest
	Offset int64
	Length int
}

// Add records that path now holds the pieces. They are found at once.
func (w *Writer) Add(path string, pieces []Piece) error {
	if len(pieces) == 0 {
		return nil
	}
	w.x.mu.Lock()
	t := w.x.trees[w.tree]
	w.paths = append(w.paths, path...)
	w.ends = append(w.ends, uint64(len(w.paths)))
	file := uint32(len(w.ends) - 1)
	for _, p := range pieces {
		r := record{p.Digest.key(), file, uint32(p.Length), p.Offset}
		if _, dup := t.live[r.key]; dup {
			continue
		}
		t.live[r.key] = r
		w.recs = append(w.recs, r)
	}
	full := len(w.recs) >= flushAt
	w.x.mu.Unlock()
	if full {
		return w.Flush()
	}
	return nil
}

// Flush writes what was added to a run.
func (w *Writer) Flush() error {
	w.x.mu.Lock()
	defer w.x.mu.Unlock()
	t := w.x.trees[w.tree]
	if t == nil || len(w.recs) == 0 {
		return nil
	}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	t.seq++
	name := filepath.Join(t.dir, fmt.Sprintf("%08d.run", t.seq))
	if err := writeRun(name, w.recs, w.paths, w.ends); err != nil {
		return err
	}
	r, err := openRun(name)
	if err != nil {
		return err
	}
	t.runs = append(t.runs, r)
	w.recs, w.paths, w.ends = w.recs[:0], w.paths[:0], w.ends[:0]
	clear(t.live)
	return nil
}

// Close flushes, makes many runs one, and ends the writer.
func (w *Writer) Close() error {
	err := w.Flush()
	w.x.mu.Lock()
	defer w.x.mu.Unlock()
	t := w.x.trees[w.tree]
	if t == nil {
		return err
	}
	t.open = nil
	clear(t.live)
	if len(t.runs) > mergeAt {
		err = errors.Join(err, t.merge())
	}
	return err
}

// merge makes one run of all; where runs disagree on a chunk the newest counts.
func (t *treeIndex) merge() error {
	t.seq++
	name := filepath.Join(t.dir, fmt.Sprintf("%08d.run", t.seq))
	if err := mergeRuns(name, t.runs); err != nil {
		return err
	}
	merged, err := openRun(name)
	if err != nil {
		return err
	}
	for _, r := range t.runs {
		r.close()
		if err := os.Remove(r.name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("merge index: %w", err)
		}
	}
	t.runs = []*run{merged}
	return nil
}
