package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/chunk"
)

// Opener returns how to open the regular files below root.
func Opener(root int) func(path string) (int, error) {
	return func(path string) (int, error) { return openRegular(root, path) }
}

// IndexSeed attaches the tree below root to the index under name, keeping its runs
// in dir. It reads the files only where the tree has changed since the last time.
func IndexSeed(ctx context.Context, root int, x *chunk.Index, name, dir string) error {
	sum, files, err := listSeed(ctx, root)
	if err != nil {
		return err
	}
	mark := filepath.Join(dir, "listing")
	if old, err := os.ReadFile(mark); err == nil && bytes.Equal(old, sum) {
		return x.Attach(name, dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := x.Attach(name, dir); err != nil {
		return err
	}
	w, err := x.NewWriter(name)
	if err != nil {
		return err
	}
	err = indexFiles(ctx, root, w, files)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return os.WriteFile(mark, sum, 0o600)
}

// listSeed returns the regular files below root that are worth indexing, and a
// digest of their names, sizes and times.
func listSeed(ctx context.Context, root int) (sum []byte, files []string, err error) {
	h := blake3.New()
	work := []string{""}
	for len(work) > 0 {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		path := work[len(work)-1]
		work = work[:len(work)-1]
		fd, err := openDir(root, path)
		if err != nil {
			continue // a seed is only a hint: what cannot be read is not used
		}
		names, err := readNames(fd)
		for _, name := range names {
			var st unix.Stat_t
			if lstat(fd, name, &st) != nil {
				continue
			}
			full := join(path, name)
			switch {
			case kindOf(st.Mode) == unix.S_IFDIR:
				work = append(work, full)
			case kindOf(st.Mode) == unix.S_IFREG && st.Size >= minIndexed:
				files = append(files, full)
				fmt.Fprintf(h, "%q %d %d %d\n", full, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
			}
		}
		unix.Close(fd)
		if err != nil {
			return nil, nil, fmt.Errorf("read %q: %w", path, err)
		}
	}
	return h.Sum(nil), files, nil
}

func indexFiles(ctx context.Context, root int, w *chunk.Writer, files []string) error {
	next := make(chan string)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for range 3 {
		wg.Go(func() {
			for path := range next {
				if err := indexFile(root, w, path); err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, f := range files {
		if ctx.Err() != nil {
			break
		}
		next <- f
	}
	close(next)
	wg.Wait()
	return errors.Join(failed, ctx.Err())
}

// indexFile cuts a file as a source would and adds its chunks. Only an error of
// the index is returned.
func indexFile(root int, w *chunk.Writer, path string) error {
	fd, err := openRegular(root, path)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return nil
	}
	params := chunk.ParamsFor(st.Size)
	bp := seedBuffers.Get().(*[]byte)
	defer seedBuffers.Put(bp)
	var pieces []chunk.Piece
	err = segments(fd, st.Size, st.Blocks*512 < st.Size, func(pos, end int64) (bool, error) {
		for pos < end {
			b := (*bp)[:min(int64(len(*bp)), end-pos)]
			n, err := readFull(fd, b, pos)
			if err != nil || n == 0 {
				return false, nil // a seed is only a hint
			}
			final := pos+int64(n) >= end || n < len(b)
			used := 0
			for used < n && (final || n-used >= params.Max) {
				k := chunk.Cut(b[used:n], params)
				if k >= minIndexed {
					pieces = append(pieces, chunk.Piece{Digest: chunk.Sum(b[used : used+k]), Offset: pos + int64(used), Length: k})
				}
				used += k
			}
			pos += int64(used)
		}
		return true, nil
	}, func(int64) {})
	if err != nil {
		return err
	}
	return w.Add(path, pieces)
}

var seedBuffers = sync.Pool{New: func() any { b := make([]byte, 2*chunk.MaxLen); return &b }}
