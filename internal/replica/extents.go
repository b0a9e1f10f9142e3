package replica

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From linux/fiemap.h.
const (
	ioctlFiemap     = 0xc020660b // FS_IOC_FIEMAP
	fiemapSync      = 0x1
	fiemapLast      = 0x1
	fiemapUnplaced  = 0x2 | 0x4 | 0x200 // unknown, delayed, inline: no place of its own on the disk
	fiemapShared    = 0x2000
	extentsPerFetch = 512
)

// extent is one stretch of a file and where it lies on the disk, in bytes.
type extent struct {
	logical, physical, length int64
	unplaced, shared          bool
}

func (e *extent) end() int64 { return e.logical + e.length }

// fiemapExtent is struct fiemap_extent.
type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

// fiemapRequest is struct fiemap with room for extents.
type fiemapRequest struct {
	start, length uint64
	flags, mapped uint32
	count, _      uint32
	extents       [extentsPerFetch]fiemapExtent
}

// extentReader goes through the extents of a file in order.
type extentReader struct {
	f    *os.File
	req  fiemapRequest
	next int
	last bool
	at   uint64
}

// openExtents begins with a file; one that is not there has no extents.
func openExtents(path string) (*extentReader, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return &extentReader{last: true}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return &extentReader{f: f}, nil
}

func (r *extentReader) close() error {
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}

// read returns the next extent; false at the end.
func (r *extentReader) read() (extent, bool, error) {
	if r.next == int(r.req.mapped) {
		if r.last {
			return extent{}, false, nil
		}
		if err := r.fetch(); err != nil {
			return extent{}, false, err
		}
		if r.req.mapped == 0 {
			r.last = true
			return extent{}, false, nil
		}
	}
	e := &r.req.extents[r.next]
	r.next++
	r.at = e.logical + e.length
	r.last = r.last || e.flags&fiemapLast != 0
	return extent{logical: int64(e.logical), physical: int64(e.physical), length: int64(e.length),
		unplaced: e.flags&fiemapUnplaced != 0, shared: e.flags&fiemapShared != 0}, true, nil
}

func (r *extentReader) fetch() error {
	r.next = 0
	r.req.start, r.req.length, r.req.flags, r.req.mapped, r.req.count = r.at, ^uint64(0)-r.at, 0, 0, extentsPerFetch
	if r.at == 0 {
		r.req.flags = fiemapSync
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, r.f.Fd(), ioctlFiemap, uintptr(unsafe.Pointer(&r.req)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return fmt.Errorf("map %s: %w", r.f.Name(), errno)
		}
		if r.req.mapped > extentsPerFetch {
			return fmt.Errorf("map %s: the kernel tells of %d extents, at most %d were asked for", r.f.Name(), r.req.mapped, extentsPerFetch)
		}
		return nil
	}
}

// fileCost is what a file takes of the disk.
type fileCost struct {
	alone int64 // bytes that no other file has
	older int64 // bytes that the file it is compared with does not have in the same place
}

// costOf compares the places of a file's blocks with those of the file newer. A clone
// has its blocks where its origin had them, so what was not written since is the same
// in both.
func costOf(path, newer string) (c fileCost, err error) {
	a, err := openExtents(path)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	b, err := openExtents(newer)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	other, more, err := b.read()
	if err != nil {
		return c, err
	}
	for {
		e, ok, err := a.read()
		if err != nil || !ok {
			return c, err
		}
		if !e.shared {
			c.alone += e.length
		}
		for at := e.logical; at < e.end(); {
			for more && other.end() <= at {
				if other, more, err = b.read(); err != nil {
					return c, err
				}
			}
			stretch := e.end() - at
			switch {
			case !more || other.logical >= e.end():
				c.older += stretch
			case other.logical > at:
				stretch = other.logical - at
				c.older += stretch
			default:
				stretch = min(stretch, other.end()-at)
				same := e.physical+at-e.logical == other.physical+at-other.logical
				if !same || e.unplaced || other.unplaced {
					c.older += stretch
				}
			}
			at += stretch
		}
	}
}
