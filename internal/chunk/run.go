package chunk

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sort"

	"golang.org/x/sys/unix"
)

// A run is a sorted, immutable file of records: see docs/formats.md, "Index run".
//
//	8 bytes  "LWINDEX1"
//	8 bytes  number of records
//	8 bytes  number of files
//	24 bytes a record: key, file, length, offset; sorted by key
//	8 bytes  a file: where its path ends in the path area
//	         the path area
//
// All numbers are big-endian.
type run struct {
	name  string
	data  []byte
	count int
	files int
}

// record is one chunk of one file. The key is the first 8 bytes of its digest.
type record struct {
	key    uint64
	file   uint32
	length uint32
	offset int64
}

const (
	runMagic   = "LWINDEX1"
	runHeader  = 24
	recordSize = 24
)

// writeRun writes a run of records, which it sorts.
func writeRun(name string, recs []record, paths []byte, ends []uint64) error {
	slices.SortFunc(recs, func(a, b record) int { return cmp.Compare(a.key, b.key) })
	return createRun(name, func(w *runWriter) {
		for _, r := range recs {
			w.record(r)
		}
		for _, e := range ends {
			w.end(e)
		}
		w.Write(paths)
	})
}

// runWriter writes the parts of a run in their order. The bufio.Writer keeps the
// first error.
type runWriter struct {
	*bufio.Writer
	count, files uint64
	buf          [recordSize]byte
}

func (w *runWriter) record(r record) {
	b := w.buf[:]
	binary.BigEndian.PutUint64(b, r.key)
	binary.BigEndian.PutUint32(b[8:], r.file)
	binary.BigEndian.PutUint32(b[12:], r.length)
	binary.BigEndian.PutUint64(b[16:], uint64(r.offset))
	w.Write(b)
	w.count++
}

// end writes where the path of one more file ends.
func (w *runWriter) end(e uint64) {
	w.Write(binary.BigEndian.AppendUint64(w.buf[:0], e))
	w.files++
}

// createRun makes the file name out of what body writes, all or nothing.
func createRun(name string, body func(w *runWriter)) (err error) {
	tmp := name + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
			err = fmt.Errorf("write index: %w", err)
		}
	}()
	w := &runWriter{Writer: bufio.NewWriterSize(f, 1<<20)}
	w.Write(make([]byte, runHeader)) // known at the end
	body(w)
	if err := w.Flush(); err != nil {
		return err
	}
	header := binary.BigEndian.AppendUint64([]byte(runMagic), w.count)
	if _, err := f.WriteAt(binary.BigEndian.AppendUint64(header, w.files), 0); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// mergeRuns writes one run of all, oldest first; where they disagree on a chunk the
// newest counts. It holds a few bytes a file in memory and nothing a record.
func mergeRuns(name string, runs []*run) error {
	type place struct {
		run  int
		file uint32
	}
	ids := make([][]uint32, len(runs)) // of the files used so far, plus one
	for i, r := range runs {
		ids[i] = make([]uint32, r.files)
	}
	var used []place
	next := make([]int, len(runs))
	return createRun(name, func(w *runWriter) {
		for {
			newest := -1
			for i, r := range runs {
				if next[i] < r.count && (newest < 0 || r.key(next[i]) <= runs[newest].key(next[newest])) {
					newest = i
				}
			}
			if newest < 0 {
				break
			}
			rec := runs[newest].record(next[newest])
			for i, r := range runs {
				for next[i] < r.count && r.key(next[i]) == rec.key {
					next[i]++
				}
			}
			if int(rec.file) >= runs[newest].files {
				continue // damaged: only a hint is lost
			}
			id := &ids[newest][rec.file]
			if *id == 0 {
				used = append(used, place{newest, rec.file})
				*id = uint32(len(used))
			}
			rec.file = *id - 1
			w.record(rec)
		}
		end := uint64(0)
		for _, p := range used {
			path, _ := runs[p.run].path(p.file)
			end += uint64(len(path))
			w.end(end)
		}
		for _, p := range used {
			path, _ := runs[p.run].path(p.file)
			w.WriteString(path)
		}
	})
}

func openRun(name string) (*run, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	if st.Size() < runHeader {
		return nil, fmt.Errorf("open index %s: too short", name)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map index %s: %w", name, err)
	}
	r, err := parseRun(data)
	if err != nil {
		unix.Munmap(data)
		return nil, fmt.Errorf("open index %s: %w", name, err)
	}
	r.name = name
	return r, nil
}

func parseRun(data []byte) (*run, error) {
	if len(data) < runHeader || string(data[:8]) != runMagic {
		return nil, fmt.Errorf("not an index run of this version")
	}
	count := binary.BigEndian.Uint64(data[8:])
	files := binary.BigEndian.Uint64(data[16:])
	size := uint64(len(data) - runHeader)
	if count > size/recordSize || files > (size-count*recordSize)/8 {
		return nil, fmt.Errorf("damaged: %d records and %d files in %d bytes", count, files, size)
	}
	return &run{data: data, count: int(count), files: int(files)}, nil
}

func (r *run) close() {
	if r.name != "" {
		unix.Munmap(r.data)
	}
	r.data, r.count, r.files = nil, 0, 0
}

func (r *run) key(i int) uint64 { return binary.BigEndian.Uint64(r.data[runHeader+i*recordSize:]) }

func (r *run) record(i int) record {
	b := r.data[runHeader+i*recordSize:]
	return record{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:]), int64(binary.BigEndian.Uint64(b[16:]))}
}

func (r *run) path(file uint32) (string, bool) {
	if int(file) >= r.files {
		return "", false
	}
	table := r.data[runHeader+r.count*recordSize:]
	area := table[r.files*8:]
	start, end := uint64(0), binary.BigEndian.Uint64(table[file*8:])
	if file > 0 {
		start = binary.BigEndian.Uint64(table[(file-1)*8:])
	}
	if start > end || end > uint64(len(area)) {
		return "", false
	}
	return string(area[start:end]), true
}

func (r *run) find(key uint64) (record, string, bool) {
	i := sort.Search(r.count, func(i int) bool { return r.key(i) >= key })
	if i == r.count || r.key(i) != key {
		return record{}, "", false
	}
	rec := r.record(i)
	path, ok := r.path(rec.file)
	if !ok || rec.offset < 0 || rec.length > MaxLen {
		return record{}, "", false
	}
	return rec, path, true
}
