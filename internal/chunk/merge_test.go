package chunk

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
)

func TestMergedRunsKeepTheNewest(t *testing.T) {
	dir := t.TempDir()
	var runs []*run
	for i := range 3 {
		name := filepath.Join(dir, fmt.Sprint(i))
		path := fmt.Sprint("unused", "file", i)
		// Chunk 7 is in all runs, chunk 100+i in one alone.
		recs := []record{{key: 100 + uint64(i), file: 1, length: 5, offset: int64(i)}, {key: 7, file: 1, length: 5, offset: int64(i)}}
		if err := writeRun(name, recs, []byte(path), []uint64{6, uint64(len(path))}); err != nil {
			t.Fatal(err)
		}
		r, err := openRun(name)
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		runs = append(runs, r)
	}
	name := filepath.Join(dir, "merged")
	if err := mergeRuns(name, runs); err != nil {
		t.Fatal(err)
	}
	m, err := openRun(name)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if m.count != 4 || m.files != 3 {
		t.Errorf("%d records of %d files, want 4 of 3", m.count, m.files)
	}
	for key, want := range map[uint64]string{7: "file2", 100: "file0", 101: "file1", 102: "file2"} {
		if _, path, ok := m.find(key); !ok || path != want {
			t.Errorf("chunk %d is in %q, %v; want %s", key, path, ok, want)
		}
	}
}

// An index grows with the replica; what merging it takes must not.
func TestMergingTakesLittleMemory(t *testing.T) {
	dir := t.TempDir()
	var runs []*run
	for i := range 4 {
		recs := make([]record, 200_000)
		for k := range recs {
			d := Sum(binary.BigEndian.AppendUint64(nil, uint64(i*len(recs)+k)))
			recs[k] = record{key: d.key(), length: 5}
		}
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := writeRun(name, recs, []byte("file"), []uint64{4}); err != nil {
			t.Fatal(err)
		}
		r, err := openRun(name)
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		runs = append(runs, r)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := mergeRuns(filepath.Join(dir, "merged"), runs); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("%d bytes allocated to merge 800,000 records", n)
	}
}
