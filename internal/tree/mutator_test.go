package tree

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mutator changes a tree at random. Steps that cannot be done are no steps.
type mutator struct {
	r    *rand.Rand
	root string
}

func (m *mutator) pick() string {
	var all []string
	filepath.WalkDir(m.root, func(p string, _ os.DirEntry, _ error) error { all = append(all, p); return nil })
	return all[m.r.IntN(len(all))]
}

func (m *mutator) dir() string {
	for {
		p := m.pick()
		if st, err := os.Lstat(p); err == nil && st.IsDir() {
			return p
		}
	}
}

func (m *mutator) fresh() string { return m.dir() + "/" + fmt.Sprint("n", m.r.IntN(200)) }

func (m *mutator) content() []byte {
	b := make([]byte, []int{0, 10, 5000, 70000, 1500000}[m.r.IntN(5)])
	for i := 0; i < len(b); i += 1000 {
		b[i] = byte(m.r.Uint32())
	}
	return b
}

func (m *mutator) step() {
	p := m.pick()
	switch m.r.IntN(13) {
	case 0, 1:
		p := m.fresh()
		if st, err := os.Lstat(p); err == nil && !st.Mode().IsRegular() {
			return // opening a FIFO would wait for ever
		}
		os.WriteFile(p, m.content(), 0o644)
	case 2:
		os.Mkdir(m.fresh(), 0o750)
	case 3:
		os.Symlink(fmt.Sprint("to", m.r.IntN(9)), m.fresh())
	case 4:
		unix.Mknod(m.fresh(), []uint32{unix.S_IFIFO, unix.S_IFCHR}[m.r.IntN(2)]|0o600, m.r.IntN(3))
	case 5:
		if p != m.root && m.r.IntN(3) == 0 {
			os.RemoveAll(p)
		}
	case 6:
		if p != m.root {
			os.Rename(p, m.fresh())
		}
	case 7:
		os.Link(p, m.fresh())
	case 8:
		os.Lchown(p, m.r.IntN(5), m.r.IntN(5))
		if st, err := os.Lstat(p); err == nil && st.Mode()&os.ModeSymlink == 0 {
			os.Chmod(p, os.FileMode(m.r.IntN(0o777)|0o500))
		}
	case 9:
		unix.Lsetxattr(p, "trusted.x", []byte{byte(m.r.IntN(9))}, 0)
	case 10:
		if f, err := os.OpenFile(p, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
			if st, _ := f.Stat(); st.Mode().IsRegular() {
				f.WriteAt(m.content(), int64(m.r.IntN(2000000)))
			}
			f.Close()
		}
	case 11:
		if st, err := os.Lstat(p); err == nil && st.Mode().IsRegular() {
			os.Truncate(p, int64(m.r.IntN(2000000)))
		}
	case 12:
		unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1}, {Sec: int64(m.r.Uint32()), Nsec: int64(m.r.IntN(1e9))}}, unix.AT_SYMLINK_NOFOLLOW)
	}
}
