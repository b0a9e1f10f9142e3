package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	filesPerDir = 100
	blockSize   = 64 << 10
	seed        = 20170910 // of all that is random, so that runs compare
)

// random returns a source of random numbers for one purpose.
func random(purpose uint64) *rand.ChaCha8 {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], purpose)
	return rand.NewChaCha8(key)
}

func smallFile(root string, i int) string {
	dir := i / filesPerDir
	return filepath.Join(root, fmt.Sprintf("%02x/%04x/f%07d", dir%64, dir, i))
}

// makeSmall makes n files of 100 to 2,000 bytes, a hundred in a directory.
func makeSmall(root string, n int) error {
	src := random(1)
	rnd := rand.New(src)
	buf := make([]byte, 2000)
	for i := range n {
		path := smallFile(root, i)
		if i%filesPerDir == 0 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return fmt.Errorf("make small files: %w", err)
			}
		}
		b := buf[:100+rnd.IntN(1900)]
		src.Read(b)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return fmt.Errorf("make small files: %w", err)
		}
	}
	return nil
}

// changeSmall rewrites count of the n files, other ones in each round.
func changeSmall(root string, n, count, round int) error {
	src := random(uint64(100 + round))
	buf := make([]byte, 1000)
	step := n / count
	for k := range count {
		src.Read(buf)
		if err := os.WriteFile(smallFile(root, k*step+round%step), buf, 0o644); err != nil {
			return fmt.Errorf("change small files: %w", err)
		}
	}
	return nil
}

// makeLarge makes a file of random bytes.
func makeLarge(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make large file: %w", err)
	}
	defer f.Close()
	src := random(2)
	buf := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(buf)) {
		src.Read(buf)
		if _, err := f.Write(buf[:min(int64(len(buf)), size-at)]); err != nil {
			return fmt.Errorf("make large file: %w", err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("make large file: %w", err)
	}
	return nil
}

// changeLarge overwrites one in a hundred of the file's blocks with random bytes
// and returns how many bytes that were.
func changeLarge(path string, size int64) (changed int64, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, fmt.Errorf("change large file: %w", err)
	}
	defer f.Close()
	src := random(3)
	blocks := int(size / blockSize)
	buf := make([]byte, blockSize)
	for _, b := range rand.New(src).Perm(blocks)[:max(blocks/100, 1)] {
		src.Read(buf)
		if _, err := f.WriteAt(buf, int64(b)*blockSize); err != nil {
			return 0, fmt.Errorf("change large file: %w", err)
		}
		changed += blockSize
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("change large file: %w", err)
	}
	return changed, nil
}

// forget drops files from the page cache, so that every run reads them from disk.
func forget(paths ...string) error {
	for _, p := range paths {
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
		}
		if err != nil {
			return fmt.Errorf("drop %s from memory: %w", p, err)
		}
	}
	return nil
}

// aging counts what was done to make a copy stale.
type aging struct{ files, moved, changed int }

// age makes a stale clone of a copy of a server: a third of the files are
// elsewhere under other names, and one in a hundred is other than it was.
func age(root string) (aging, error) {
	var a aging
	src := random(4)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, root+"/")
		if d.IsDir() && rel == "old" {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		a.files++
		h := fnv.New32a()
		h.Write([]byte(rel)) // never fails
		switch n := h.Sum32(); {
		case n%100 < 33:
			a.moved++
			return move(path, filepath.Join(root, "old", fmt.Sprintf("%02x", n>>24), fmt.Sprintf("%08x-%s", n, d.Name())))
		case n%100 == 33:
			a.changed++
			return disturb(path, src)
		}
		return nil
	})
	if err != nil {
		return a, fmt.Errorf("age a copy: %w", err)
	}
	return a, nil
}

func move(from, to string) error {
	if len(filepath.Base(to)) > 255 {
		to = to[:len(to)-len(filepath.Base(to))+255]
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// disturb overwrites 4 KiB in the middle of a file and dates it back.
func disturb(path string, src *rand.ChaCha8) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	buf := make([]byte, min(4096, fi.Size()))
	src.Read(buf)
	if _, err := f.WriteAt(buf, (fi.Size()-int64(len(buf)))/2); err != nil {
		return err
	}
	then := fi.ModTime().Add(-30 * 24 * time.Hour)
	return errors.Join(f.Close(), os.Chtimes(path, then, then))
}
