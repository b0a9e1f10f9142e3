package tree

import (
	"math/rand/v2"
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
		{`: > a/b/new; : > a/b/ours; touch -r ../src/a/b a/b`, "a/b/new: extra"},
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
