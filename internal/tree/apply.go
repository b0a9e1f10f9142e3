package tree

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
)

// ErrNoSpace means that the replica's filesystem or the store is full.
var ErrNoSpace = errors.New("no space left at the target")

// fatalOf returns err if it ends the pass, for it would befall every file.
func fatalOf(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EROFS):
		return fmt.Errorf("write replica: %w", err)
	}
	return nil
}

// beginPart prepares a job for a part of it: parts of one file are begun in their
// order, though they may be applied in another.
func (p *Pass) beginPart(j *job, part *agentpb.Part) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.begun != !part.Head || j.ended {
		return fmt.Errorf("%w: parts of %q out of order", errOffer, j.path)
	}
	j.begun, j.ended = true, part.Tail
	if part.Head && part.Tail {
		return nil
	}
	if part.Head {
		if part.Meta == nil || kindOf(part.Meta.Mode) != unix.S_IFREG {
			return fmt.Errorf("%w: strange head of %q", errOffer, j.path)
		}
		j.meta = part.Meta
		j.file, j.failed = p.openLarge(j)
		if fatal := fatalOf(j.failed); fatal != nil {
			return fatal
		}
	}
	j.parts++
	return nil
}

// create makes a new regular file.
func (p *Pass) create(dir int, name string, m *agentpb.Meta) (fd int, err error) {
	err = unlocked(dir, "", func() error {
		fd, err = unix.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("create: %w", err)
	}
	if m.Flags&flagNoCow != 0 {
		setFlags(fd, flagNoCow) // only an empty file takes it; where it cannot be had, nothing is lost
	}
	return fd, nil
}

// oldFile returns a descriptor of the version of the file that the replica has, or
// -1; done releases it.
func (p *Pass) oldFile(j *job, part *agentpb.Part) (fd int, done func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		return j.file.old, func() {}
	}
	if part.Meta == nil || kindOf(part.Meta.Mode) != unix.S_IFREG {
		return -1, nil
	}
	fd, err := openRegular(p.Root, j.path)
	if err != nil {
		return -1, nil
	}
	return fd, func() { unix.Close(fd) }
}

// applyPart writes one part of a large file; the last to come finishes it, and is
// told. as are the chunks as the source cut them.
func (p *Pass) applyPart(j *job, part *agentpb.Part, chunks, as []rxChunk) (done bool, err error) {
	j.mu.Lock()
	f, failed := j.file, j.failed
	j.mu.Unlock()
	if failed == nil {
		if failed = f.write(part, chunks); failed == nil {
			pieces := piecesOf(as)
			f.mu.Lock()
			f.now = append(f.now, pieces...)
			f.mu.Unlock()
			failed = p.remember(j.path, pieces)
		}
		if fatal := fatalOf(failed); fatal != nil {
			return false, fatal
		}
	}
	j.mu.Lock()
	if failed != nil && j.failed == nil {
		j.failed = failed
	}
	if part.Tail {
		j.tail = part
	}
	j.parts--
	last := j.tail != nil && j.parts == 0
	j.mu.Unlock()
	if !last {
		return false, nil
	}
	err = j.failed
	if err == nil {
		err = p.finishLarge(j)
	}
	j.file.close()
	if fatal := fatalOf(err); fatal != nil {
		return true, fatal
	}
	p.finishJob(j, j.meta, j.tail.Outcome, err)
	return true, nil
}

func writeFull(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
		off += int64(n)
	}
	return nil
}

func piecesOf(chunks []rxChunk) []chunk.Piece {
	pieces := make([]chunk.Piece, len(chunks))
	for i := range chunks {
		ch := &chunks[i]
		pieces[i] = chunk.Piece{Digest: ch.digest, Offset: ch.offset, Length: ch.length}
	}
	return pieces
}

// remember indexes what a file now holds.
func (p *Pass) remember(path string, pieces []chunk.Piece) error {
	worth := make([]chunk.Piece, 0, len(pieces))
	for _, piece := range pieces {
		if piece.Length >= minIndexed {
			worth = append(worth, piece)
		}
	}
	return p.writer.Add(path, worth)
}

// applyWhole makes an entry that came in one part.
func (p *Pass) applyWhole(j *job, part *agentpb.Part, chunks []rxChunk) error {
	m := part.Meta
	if m == nil {
		p.finishJob(j, nil, part.Outcome, nil)
		return nil
	}
	dirPath, name := split(j.path)
	dir, err := p.dirs.get(dirPath)
	if err != nil {
		p.finishJob(j, m, part.Outcome, fmt.Errorf("open directory: %w", err))
		return nil
	}
	if kindOf(m.Mode) == unix.S_IFREG {
		err = p.writeSmall(j, dir, dirPath, name, part, chunks)
	} else {
		err = p.makeNode(j, dir, dirPath, name, m)
	}
	p.dirs.put(dir)
	if fatal := fatalOf(err); fatal != nil {
		return fatal
	}
	p.finishJob(j, m, part.Outcome, err)
	return nil
}

func (p *Pass) writeSmall(j *job, dir int, dirPath, name string, part *agentpb.Part, chunks []rxChunk) error {
	fd := -1
	if j.exists && len(part.Holes) == 0 && allInPlace(chunks) {
		fd = p.reopen(j, dir, name, part)
	}
	if fd < 0 {
		var err error
		if fd, err = p.writeNew(j, dir, dirPath, name, part, chunks); err != nil {
			return err
		}
	}
	defer unix.Close(fd)
	if err := applyMeta(dir, name, fd, part.Meta); err != nil {
		return err
	}
	return p.remember(j.path, piecesOf(chunks))
}

func allInPlace(chunks []rxChunk) bool {
	for i := range chunks {
		if !chunks[i].inPlace {
			return false
		}
	}
	return true
}

// reopen opens the file that has the right content already, if it also has the
// right size and no name that the source's has not.
func (p *Pass) reopen(j *job, dir int, name string, part *agentpb.Part) int {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || kindOf(st.Mode) != unix.S_IFREG || uint64(st.Size) != part.End || !p.links.mayKeep(j, &st) {
		unix.Close(fd)
		return -1
	}
	return fd
}

func (p *Pass) writeNew(j *job, dir int, dirPath, name string, part *agentpb.Part, chunks []rxChunk) (int, error) {
	if j.exists {
		if err := p.putAside(dir, dirPath, name); err != nil {
			return -1, err
		}
	}
	fd, err := p.create(dir, name, part.Meta)
	if errors.Is(err, unix.EEXIST) {
		if err = p.putAside(dir, dirPath, name); err == nil {
			fd, err = p.create(dir, name, part.Meta)
		}
	}
	if err != nil {
		return -1, err
	}
	for i := range chunks {
		if err := writeFull(fd, chunks[i].data, chunks[i].offset); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("write: %w", err)
		}
	}
	if len(part.Holes) > 0 {
		if err := unix.Ftruncate(fd, int64(part.End)); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("set size: %w", err)
		}
	}
	return fd, nil
}

// makeNode makes what is not a regular file, or sees that it is there.
func (p *Pass) makeNode(j *job, dir int, dirPath, name string, m *agentpb.Meta) error {
	var st unix.Stat_t
	err := lstat(dir, name, &st)
	if err == nil && (!sameNode(dir, name, &st, m) || (kindOf(m.Mode) != unix.S_IFDIR && !p.links.mayKeep(j, &st))) {
		if err := p.putAside(dir, dirPath, name); err != nil {
			return err
		}
		err = unix.ENOENT
	}
	if err == unix.ENOENT {
		err = unlocked(dir, "", func() error { return makeNew(dir, name, m) })
	}
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	fd := -1
	if kindOf(m.Mode) == unix.S_IFDIR {
		if fd, err = openDir(dir, name); err != nil {
			return fmt.Errorf("open: %w", err)
		}
		defer unix.Close(fd)
	}
	return applyMeta(dir, name, fd, m)
}

func sameNode(dir int, name string, st *unix.Stat_t, m *agentpb.Meta) bool {
	if kindOf(st.Mode) != kindOf(m.Mode) {
		return false
	}
	switch kindOf(m.Mode) {
	case unix.S_IFLNK:
		target, err := readlink(dir, name, st.Size)
		return err == nil && string(target) == string(m.Target)
	case unix.S_IFCHR, unix.S_IFBLK:
		return st.Rdev == m.Device
	}
	return true
}

func makeNew(dir int, name string, m *agentpb.Meta) error {
	switch kindOf(m.Mode) {
	case unix.S_IFDIR:
		return unix.Mkdirat(dir, name, 0o700)
	case unix.S_IFLNK:
		return unix.Symlinkat(string(m.Target), dir, name)
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		return unix.Mknodat(dir, name, kindOf(m.Mode)|0o600, int(m.Device))
	}
	return fmt.Errorf("entry of unknown kind %o", m.Mode)
}

// link makes path another name of the group's inode in the replica.
func (p *Pass) link(g *linkGroup, path string) error {
	toDir, toName := split(path)
	to, err := p.dirs.get(toDir)
	if err != nil {
		return err
	}
	defer p.dirs.put(to)
	var st unix.Stat_t
	if lstat(to, toName, &st) == nil {
		if st.Ino == g.ino {
			return nil
		}
		if err := p.putAside(to, toDir, toName); err != nil {
			return err
		}
	}
	for _, at := range p.places(g.path) {
		done, err := p.linkFrom(g, at, to, toName)
		if done || err != nil {
			return err
		}
	}
	return fmt.Errorf("its other name is gone")
}

// linkFrom links what is at the path from, if that is the group's inode.
func (p *Pass) linkFrom(g *linkGroup, from string, to int, toName string) (done bool, err error) {
	fromDir, fromName := split(from)
	dir, err := p.dirs.get(fromDir)
	if err != nil {
		return false, nil
	}
	defer p.dirs.put(dir)
	var st unix.Stat_t
	if lstat(dir, fromName, &st) != nil || st.Ino != g.ino {
		return false, nil
	}
	err = unlocked(to, "", func() error { return unix.Linkat(dir, fromName, to, toName, 0) })
	if err == unix.EPERM && kindOf(st.Mode) == unix.S_IFREG {
		err = linkLocked(dir, fromName, to, toName)
	}
	return err == nil, err
}

// linkLocked links a file that is immutable or append-only.
func linkLocked(from int, fromName string, to int, toName string) error {
	fd, err := unix.Openat(from, fromName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	if !unlock(fd) {
		return unix.EPERM
	}
	err = unix.Linkat(from, fromName, to, toName, 0)
	return errors.Join(err, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags)))
}
