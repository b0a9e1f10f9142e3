package tree

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
)

// largeFile is a file of several parts while they arrive.
type largeFile struct {
	fd      int
	old     int // the older version to compare with, may be fd itself, or -1
	oldSize int64
	inPlace bool
	dir     string
	name    string
	had     []chunk.Piece // what the older version holds, by offset; nil where it has to be read
	blocks  atomic.Int64  // of split chunks, looked for in the older version
	found   atomic.Int64  // of those, there

	mu  sync.Mutex
	now []chunk.Piece // what the file is to hold, in no order
}

func (f *largeFile) comparable() bool { return f != nil && f.old >= 0 }

// knows reports whether it is known without reading if the older version has the
// chunk in its place, and if it has.
func (f *largeFile) knows(ch *rxChunk, split bool) (known, equal bool) {
	if f == nil || f.had == nil {
		return false, false
	}
	i := sort.Search(len(f.had), func(i int) bool { return f.had[i].Offset >= ch.offset })
	if i < len(f.had) && f.had[i] == (chunk.Piece{Digest: ch.digest, Offset: ch.offset, Length: ch.length}) {
		return true, true
	}
	return !split, false
}

// refined notes how many blocks of split chunks were looked for and found.
func (f *largeFile) refined(blocks, found int) {
	if f != nil {
		f.blocks.Add(int64(blocks))
		f.found.Add(int64(found))
	}
}

// hopeless reports whether splitting chunks has turned up next to nothing.
func (f *largeFile) hopeless() bool {
	const enough, few = 2048, 64
	n := f.blocks.Load()
	return n >= enough && f.found.Load()*few < n
}

func (f *largeFile) close() {
	if f == nil {
		return
	}
	if f.old >= 0 && f.old != f.fd {
		unix.Close(f.old)
	}
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
	f.fd, f.old = -1, -1
}

// openLarge opens the replica's file for writing: the one that is there, where it
// has no other name, else a new one.
func (p *Pass) openLarge(j *job) (*largeFile, error) {
	dirPath, name := split(j.path)
	dir, err := p.dirs.get(dirPath)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	defer p.dirs.put(dir)
	f := &largeFile{fd: -1, old: -1, dir: dirPath, name: name}
	var st unix.Stat_t
	err = lstat(dir, name, &st)
	if err == nil && kindOf(st.Mode) == unix.S_IFREG && st.Nlink == 1 {
		err = unlocked(dir, name, func() (err error) {
			f.fd, err = unix.Openat(dir, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
			return err
		})
		if err == nil {
			f.old, f.oldSize, f.inPlace = f.fd, st.Size, true
			f.had, err = p.Catalog.takeContent(j.path, &st)
			if err != nil {
				f.close()
				return nil, err
			}
			return f, nil
		}
	}
	if err == nil || err != unix.ENOENT {
		if kindOf(st.Mode) == unix.S_IFREG {
			f.oldSize = st.Size
			f.old, _ = unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		}
		if err := p.putAside(dir, dirPath, name); err != nil {
			f.close()
			return nil, err
		}
	}
	if f.fd, err = p.create(dir, name, j.meta); err != nil {
		f.fd = -1
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *largeFile) write(part *agentpb.Part, chunks []rxChunk) error {
	for i := range chunks {
		ch := &chunks[i]
		if ch.inPlace && f.inPlace {
			continue
		}
		if ch.data == nil { // seen in the old version, which is not the file being written
			ch.data = readIfEqual(f.old, ch.offset, ch.digest, ch.length)
			if ch.data == nil {
				return fmt.Errorf("the older version changed meanwhile")
			}
		}
		if err := writeFull(f.fd, ch.data, ch.offset); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		ch.data = nil
	}
	if !f.inPlace {
		return nil
	}
	for _, h := range part.Holes {
		err := unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(h.Offset), int64(h.Length))
		if err != nil {
			return fmt.Errorf("punch hole: %w", err)
		}
	}
	return nil
}

func (p *Pass) finishLarge(j *job) error {
	f := j.file
	if err := unix.Ftruncate(f.fd, int64(j.tail.End)); err != nil {
		return fmt.Errorf("set size: %w", err)
	}
	if j.tail.Outcome.Kind == agentpb.Outcome_FAILED {
		return nil
	}
	dir, err := p.dirs.get(f.dir)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer p.dirs.put(dir)
	if err := applyMeta(dir, f.name, f.fd, j.meta); err != nil {
		return err
	}
	if j.tail.Outcome.Kind != agentpb.Outcome_STABLE {
		return nil
	}
	return p.Catalog.keepContent(j.path, f.fd, f.now)
}
