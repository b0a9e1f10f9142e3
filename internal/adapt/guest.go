package adapt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Filesystem is one filesystem of the image.
type Filesystem struct {
	Partition
	Root *os.Root // its topmost directory; for btrfs that of the top-level subvolume
}

// place is where the guest will see a part of a filesystem.
type place struct {
	point string // in the guest, "/" or clean and absolute
	fs    *Filesystem
	sub   string // the part shown, relative to the filesystem's root, "." for all of it
}

const (
	maxLinks    = 40
	maxFileSize = 64 << 20 // of what is read into memory whole
)

var errTooManyLinks = errors.New("too many symbolic links")

// locate says which filesystem holds the guest path p, whose parents are no
// symbolic links, and where in it.
func (g *Image) locate(p string) (*Filesystem, string, error) {
	for _, pl := range g.places { // longest mount points first
		if rest, ok := below(p, pl.point); ok {
			return pl.fs, path.Join(pl.sub, rest), nil
		}
	}
	return nil, "", fmt.Errorf("%s lies in no filesystem of the image", p)
}

// below returns p relative to dir.
func below(p, dir string) (string, bool) {
	if p == dir {
		return ".", true
	}
	if dir == "/" {
		return p[1:], true
	}
	return strings.CutPrefix(p, dir+"/")
}

// resolve follows the symbolic links of p as the guest would, absolute ones and
// those across its mounts included, and never leaves it. With follow the last
// element is followed too. The path need not exist.
func (g *Image) resolve(p string, follow bool) (string, error) {
	todo := strings.Split(p, "/")
	at := "/"
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, name)
		target, err := g.readlink(next)
		if err != nil {
			return "", err
		}
		if target == "" || len(todo) == 0 && !follow {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: p, Err: errTooManyLinks}
		}
		if strings.HasPrefix(target, "/") {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, nil
}

// readlink returns the target of p, or "" if p is no symbolic link.
func (g *Image) readlink(p string) (string, error) {
	fsys, rel, err := g.locate(p)
	if err != nil {
		return "", err
	}
	st, err := fsys.Root.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if st.Mode()&fs.ModeSymlink == 0 {
		return "", nil
	}
	return fsys.Root.Readlink(rel)
}

// find resolves p wholly to a place that has no links left.
func (g *Image) find(p string, follow bool) (*Filesystem, string, error) {
	p, err := g.resolve(p, follow)
	if err != nil {
		return nil, "", err
	}
	return g.locate(p)
}

// Place returns where p of the guest lies on this host while the image is open, with all
// links resolved. It need not exist.
func (g *Image) Place(p string) (string, error) {
	fsys, rel, err := g.find(p, true)
	if err != nil {
		return "", err
	}
	return filepath.Join(fsys.Root.Name(), rel), nil
}

// Stat follows links within the guest.
func (g *Image) Stat(p string) (fs.FileInfo, error) {
	fsys, rel, err := g.find(p, true)
	if err != nil {
		return nil, err
	}
	return fsys.Root.Lstat(rel)
}

// Exists reports whether p leads to something.
func (g *Image) Exists(p string) bool {
	_, err := g.Stat(p)
	return err == nil
}

// open opens the regular file at p for reading. Anything else is an error: a
// FIFO would block, a device would be this host's.
func (g *Image) open(p string) (*os.File, fs.FileInfo, error) {
	fsys, rel, err := g.find(p, true)
	if err != nil {
		return nil, nil, err
	}
	f, err := fsys.Root.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: p, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

// ReadFile returns the content of a regular file of at most 64 MiB.
func (g *Image) ReadFile(p string) ([]byte, error) {
	f, _, err := g.open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(b) > maxFileSize {
		err = &fs.PathError{Op: "read", Path: p, Err: fmt.Errorf("larger than %d bytes", maxFileSize)}
	}
	return b, err
}

// List returns the names in a directory, sorted; none if it is not there.
func (g *Image) List(p string) []string {
	fsys, rel, err := g.find(p, true)
	if err != nil {
		return nil
	}
	if st, err := fsys.Root.Lstat(rel); err != nil || !st.IsDir() {
		return nil
	}
	d, err := fsys.Root.Open(rel)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil
	}
	slices.Sort(names)
	return names
}

// Glob returns the paths in directory dir whose names match pattern.
func (g *Image) Glob(dir, pattern string) []string {
	var found []string
	for _, name := range g.List(dir) {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			found = append(found, path.Join(dir, name))
		}
	}
	return found
}

// WriteFile makes p hold data and reports whether that was a change. An existing
// file keeps its owner, mode, label and flags; a new one takes the label of its
// directory and the mode perm. Missing directories are made.
func (g *Image) WriteFile(p string, data []byte, perm uint32) (changed bool, err error) {
	if old, err := g.ReadFile(p); err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	return true, g.write(p, bytes.NewReader(data), perm)
}

func (g *Image) write(p string, data io.Reader, perm uint32) (err error) {
	fsys, rel, err := g.find(p, true)
	if err != nil {
		return err
	}
	st, err := fsys.Root.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return g.create(fsys, rel, data, perm)
	}
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return &fs.PathError{Op: "write", Path: p, Err: errors.New("not a regular file")}
	}
	restore, err := unlock(fsys.Root, rel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	f, err := fsys.Root.OpenFile(rel, os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, data)
	return errors.Join(err, f.Close())
}

func (g *Image) create(fsys *Filesystem, rel string, data io.Reader, perm uint32) error {
	if err := makeDirs(fsys.Root, path.Dir(rel)); err != nil {
		return err
	}
	f, err := fsys.Root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(perm))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, data)
	// The mode once more, past our umask.
	return errors.Join(err, f.Chmod(fs.FileMode(perm)), labelLike(fsys.Root, path.Dir(rel), f), f.Close())
}

// makeDirs makes dir and what leads to it, each labelled like its parent.
func makeDirs(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	if _, err := root.Lstat(dir); err == nil {
		return nil
	}
	parent := path.Dir(dir)
	if err := makeDirs(root, parent); err != nil {
		return err
	}
	if err := root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Chmod(0o755), labelLike(root, parent, d), d.Close())
}

const selinuxLabel = "security.selinux"

// labelLike gives f the SELinux label of the directory dir, if that has one.
func labelLike(root *os.Root, dir string, f *os.File) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	label := make([]byte, 256)
	n, err := unix.Fgetxattr(int(d.Fd()), selinuxLabel, label)
	if err != nil || n == 0 {
		return nil // the guest has no labels, or its filesystem cannot have any
	}
	return unix.Fsetxattr(int(f.Fd()), selinuxLabel, label[:n], 0)
}

const lockFlags = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND // the same bits as FS_IMMUTABLE_FL, FS_APPEND_FL

// unlock lifts the immutable and append-only flags of a file until restore is
// called.
func unlock(root *os.Root, rel string) (restore func() error, err error) {
	f, err := root.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&lockFlags == 0 {
		f.Close()
		return func() error { return nil }, nil // no such flags here, or none set
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^lockFlags); err != nil {
		f.Close()
		return nil, fmt.Errorf("lift flags of %s: %w", rel, err)
	}
	return func() error {
		return errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags), f.Close())
	}, nil
}

// Remove deletes the file or link at p, if there is one. It does not follow p
// itself.
func (g *Image) Remove(p string) (removed bool, err error) {
	fsys, rel, err := g.find(p, false)
	if err != nil {
		return false, err
	}
	st, err := fsys.Root.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if st.IsDir() {
		return false, &fs.PathError{Op: "remove", Path: p, Err: unix.EISDIR}
	}
	if st.Mode().IsRegular() {
		restore, err := unlock(fsys.Root, rel)
		if err != nil {
			return false, err
		}
		defer restore() // of a file that is gone by then: what it says is of no use
	}
	return true, fsys.Root.Remove(rel)
}

// Symlink makes p a link to target and reports whether that was a change. A file
// or link at p is replaced.
func (g *Image) Symlink(target, p string) (changed bool, err error) {
	fsys, rel, err := g.find(p, false)
	if err != nil {
		return false, err
	}
	if old, err := fsys.Root.Readlink(rel); err == nil && old == target {
		return false, nil
	}
	if _, err := g.Remove(p); err != nil {
		return false, err
	}
	if err := makeDirs(fsys.Root, path.Dir(rel)); err != nil {
		return false, err
	}
	return true, fsys.Root.Symlink(target, rel)
}

// loaderPath returns how a boot loader that sees fsys alone names the guest path
// p.
func (g *Image) loaderPath(p string) (*Filesystem, string, error) {
	fsys, rel, err := g.find(p, true)
	if err != nil {
		return nil, "", err
	}
	return fsys, "/" + strings.TrimPrefix(rel, "./"), nil
}

// systemd reports whether the guest boots with systemd. The image decides: a source
// that runs without it, in a container say, may still start with it as a machine.
func (j *job) systemd() bool {
	return j.facts.GetSystemd() || j.img.Exists("/lib/systemd/systemd") || j.img.Exists("/usr/lib/systemd/systemd")
}
