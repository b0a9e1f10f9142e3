package tree

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// check compares the world's replica with its catalog.
func (w *world) check(ours ...string) *CheckResult {
	w.t.Helper()
	c := &Check{Catalog: w.state + "/catalog.db", Root: w.root(w.dst), Ours: ours}
	res, err := c.Run(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	w.sh(`mkdir -p a/b; seq 1000 > a/f; ln a/f a/b/g; ln -s f a/l; mkfifo a/p; : > empty; head -c 2000000 /dev/urandom > large
		head -c 5000000 /dev/urandom > larger; truncate -s 50M sparse; head -c 100000 /dev/urandom | dd of=sparse bs=1M seek=20 conv=notrunc status=none
		head -c 1000000 /dev/zero > zeros`)
	w.sync()
	w.sh(`printf x | dd of=larger bs=1 seek=2000000 conv=notrunc status=none; echo y >> large`)
	w.sync()
	res := w.check()
	if len(res.Differences)+len(res.Unclear) > 0 || res.Entries != 12 || res.Sum.Entries != 12 || res.Bytes < 60e6 {
		t.Errorf("of a sound replica: %+v", res)
	}
	for _, c := range []struct{ script, want string }{
		{`echo 2 > a/f; touch -r ../src/a/f a/f`, "a/b/g: size; a/f: size"},
		{`printf z | dd of=large bs=1 seek=777777 conv=notrunc status=none; touch -r ../src/large large`, "large: content"},
		{`printf z | dd of=larger bs=1 seek=3000000 conv=notrunc status=none; touch -r ../src/larger larger`, "larger: content"},
		{`printf z | dd of=sparse bs=1 seek=20971600 conv=notrunc status=none; touch -r ../src/sparse sparse`, "unclear sparse"},
		{`rm a/p; touch -r ../src/a a`, "a/p: missing"},
		{`rm a/l; : > a/l; touch -r ../src/a a`, "a/l: type"},
		{`chmod 600 empty`, "empty: mode"},
		{`chown 1:2 a/b`, "a/b: owner"},
		{`touch -d @1 a/b`, "a/b: time"},
		{`: > a/b/new; : > a/b/ours`, "a/b/new: extra"},
	} {
		w.inDst(c.script)
		res := w.check("a/b/ours")
		var got []string
		for _, d := range res.Differences {
			got = append(got, d.Path+": "+strings.Join(d.Kinds, ", "))
		}
		for _, u := range res.Unclear {
			got = append(got, "unclear "+u)
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("after %s: %q, want %s", c.script, got, c.want)
		}
		w.sh(`rm -rf ../dst/* ; rm -f ../state/catalog.db*`)
		w.sync()
	}
}

func TestCheckAfterRandomChanges(t *testing.T) {
	w := newWorld(t)
	seed := rand.Uint64()
	m := &mutator{r: rand.New(rand.NewPCG(seed, 9)), root: w.src}
	for range 3 {
		for range 60 {
			m.step()
		}
		w.sync()
		if res := w.check(); len(res.Differences)+len(res.Unclear) > 0 || res.Entries == 0 {
			t.Errorf("seed %d: %+v", seed, res)
		}
	}
}

func (w *world) inDst(script string) {
	w.t.Helper()
	old := w.src
	w.src = w.dst
	defer func() { w.src = old }()
	w.sh(script)
}

// Zeros that were written beside a hole are as good as a hole: what the kernel shows of
// them depends on what has been written back.
func TestSegmentsTrimZeros(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(b []byte, off int64) {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	const size = 10 << 20
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	write(make([]byte, 200000), 1<<20)                // zeros alone
	write(make([]byte, 131072), 4<<20)                // zeros around
	write(bytes.Repeat([]byte{1}, 50000), 4<<20+8192) // what counts
	write([]byte{2}, size-1)
	var got []string
	err = segments(int(f.Fd()), size, true, func(pos, end int64) (bool, error) {
		got = append(got, fmt.Sprintf("data %d-%d", pos, end))
		return true, nil
	}, func(end int64) { got = append(got, fmt.Sprintf("hole -%d", end)) })
	want := []string{"hole -4202496", "data 4202496-4255744", "hole -10481664", "data 10481664-10485760"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
