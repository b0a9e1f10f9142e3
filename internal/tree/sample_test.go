package tree

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
)

// mixed is what servers are made of: programs and texts of this host, files that do
// not compress, one sparse, one with two names.
const mixed = `
mkdir lib share data
cp -a /usr/lib/python3* lib/ 2>/dev/null || cp -a /usr/lib/x86_64-linux-gnu/*.so.* lib/
cp -a /usr/share/perl share/ 2>/dev/null || true
head -c 8000000 /dev/urandom > data/noise
ln data/noise data/twin
truncate -s 200M data/sparse
head -c 2000000 /dev/urandom | dd of=data/sparse bs=1M seek=100 conv=notrunc status=none
for i in $(seq 400); do head -c 6000 /dev/urandom > data/small$i; done
`

func (w *world) sample(step int64) *Sample {
	w.t.Helper()
	s, err := TakeSample(context.Background(), w.connect(), "/", step, 2)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func allTravels(chunk.Digest) float64 { return 1 }

// TestSamplePredicts holds a sample against the pass after it.
func TestSamplePredicts(t *testing.T) {
	if testing.Short() {
		t.Skip("it carries 120 MB")
	}
	w := newWorld(t)
	w.sh(mixed)
	s := w.sample(512 << 10)
	conn := w.connect()
	r := w.passOver(conn)
	wire, _ := conn.Counters()
	forecast := s.Wire(allTravels)
	t.Logf("%d pieces with %d MB of %d MB, forecast %d kB, travelled %d kB for %d entries", len(s.Pieces), s.Read>>20, s.Bytes>>20,
		forecast>>10, wire>>10, s.Entries)
	if s.Read > s.Bytes*3/4 {
		t.Errorf("the sample reads %d of %d bytes: it is none", s.Read, s.Bytes)
	}
	if off := math.Abs(float64(forecast-wire)) / float64(wire); off > 0.15 {
		t.Errorf("forecast %d bytes, %d travelled: off by %.0f %%", forecast, wire, 100*off)
	}
	if want := r.Read; math.Abs(float64(s.Bytes-want)) > float64(want)/50 {
		t.Errorf("content of %d bytes, the pass read %d", s.Bytes, want)
	}
	// What the pass has carried is known by the digests of a sample.
	known := func(d chunk.Digest) float64 {
		if len(w.index.Lookup(d, w.tree)) > 0 {
			return 0
		}
		return 1
	}
	if left := w.sample(512 << 10).Wire(known); left > forecast/20 {
		t.Errorf("%d of %d bytes seem not to be there after a pass", left, forecast)
	}
}

// TestSamplesShowWhatIsCommon takes samples of two servers that share half of their
// content.
func TestSamplesShowWhatIsCommon(t *testing.T) {
	a, b := newWorld(t), newWorld(t)
	common := "mkdir -p c; cp -a " + a.src + "/c/. c/"
	a.sh("mkdir c; for i in $(seq 1200); do head -c 8000 /dev/urandom > c/f$i; done")
	b.sh(common + "; mkdir own; for i in $(seq 1200); do head -c 8000 /dev/urandom > own/f$i; done")
	seen := map[chunk.Digest]bool{}
	once := func(d chunk.Digest) float64 {
		if seen[d] {
			return 0
		}
		seen[d] = true
		return 1
	}
	const step = 40 << 10
	first, second := a.sample(step).Wire(once), b.sample(step).Wire(once)
	if first < 9e6 || first > 10.2e6 {
		t.Errorf("the first server has %d bytes to carry, want 9.6 MB", first)
	}
	if second < 7.5e6 || second > 11.7e6 {
		t.Errorf("the second has %d bytes to carry of its own, want 9.6 of its 19 MB", second)
	}
}

func TestPieceOf(t *testing.T) {
	digest := make([]byte, 32)
	for _, c := range []struct {
		piece *agentpb.SampledPiece
		good  bool
	}{
		{&agentpb.SampledPiece{Size: 100, Packed: 50, Digests: digest, Lengths: []uint32{100}}, true},
		{&agentpb.SampledPiece{Size: 100, Packed: 500}, true}, // more than it was: as it was
		{&agentpb.SampledPiece{Size: 0}, false},
		{&agentpb.SampledPiece{Size: 1 << 40}, false},
		{&agentpb.SampledPiece{Size: 100, Digests: digest}, false},
		{&agentpb.SampledPiece{Size: 100, Digests: digest, Lengths: []uint32{101}}, false},
	} {
		p, err := pieceOf(c.piece, 1000)
		if (err == nil) != c.good {
			t.Errorf("%v: %v", fmt.Sprint(c.piece), err)
		}
		if c.good && (p.Weight != 10 || p.Packed > 1) {
			t.Errorf("%v: got %+v", fmt.Sprint(c.piece), p)
		}
	}
}
