package tree

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/pipe"
)

const (
	// samplePieces is how many pieces go into one message.
	samplePieces = 256
	// maxSampled bounds the pieces of one filesystem.
	maxSampled = 50_000
)

// stretchFor is how long the stretches are that a file of a size is taken in, in
// bytes: several times its longest chunk. A file of one stretch is taken whole.
func stretchFor(size int64) int64 {
	switch {
	case size <= 16<<20:
		return 512 << 10
	case size <= 1<<30:
		return 1 << 20
	}
	return 4 << 20
}

// sampleHandler serves the "sample" call.
func (s *Service) sampleHandler(ctx context.Context, st *pipe.Stream) error {
	var req agentpb.SampleRequest
	if err := st.Recv(&req); err != nil {
		return err
	}
	v, err := s.view(req.Filesystem)
	if err != nil {
		return err
	}
	p := &sampler{view: v, gov: s.gov, step: max(req.Step, 1), top: strings.Trim(req.Filesystem, "/"), inodes: map[[2]uint64]bool{},
		packer: chunk.NewPacker(max(1, int(req.Level)))}
	sc := &scanner{view: v, gov: s.gov, visit: p.visit, stack: []dirTask{{}}}
	if err := sc.walk(ctx); err != nil {
		return err
	}
	if err := p.take(ctx, st); err != nil {
		return err
	}
	return st.Send(&agentpb.SampleReply{Last: true, Entries: sc.summary.Entries, Bytes: uint64(p.bytes), Read: p.read, BusyNs: uint64(p.busy)})
}

// sampler chooses pieces of files by their names, so that every server that has a file
// chooses the same pieces of it, and looks what they are made of.
type sampler struct {
	view   *view
	gov    Governor
	step   uint64
	top    string // where the filesystem is mounted: names are those of the whole system
	packer *chunk.Packer

	mu     sync.Mutex
	inodes map[[2]uint64]bool // with several names
	bytes  int64
	chosen []stretch

	read uint64
	busy time.Duration
}

// stretch is a chosen piece of a file. at counts in the file's data: in a sparse file
// what comes before it may lie further behind.
type stretch struct {
	path     string
	size     int64 // of the file
	at, span int64
	sparse   bool
}

// visit is told of one entry by the scanner.
func (p *sampler) visit(dir, name string, st *unix.Stat_t) {
	if kindOf(st.Mode) != unix.S_IFREG || st.Size == 0 {
		return
	}
	if st.Nlink > 1 && !p.first(st) {
		return
	}
	content := min(st.Size, st.Blocks*512)
	if content == 0 {
		if st.Blocks == 0 && st.Size > 4096 {
			return // a hole as a whole
		}
		content = st.Size // so small that it lies in the inode
	}
	path := join(dir, name)
	var out []stretch
	for at, n := int64(0), stretchFor(st.Size); at < content; at += n {
		span := min(n, content-at)
		if p.chooses(path, at, span) {
			out = append(out, stretch{path: path, size: st.Size, at: at, span: span, sparse: content < st.Size})
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += content
	p.chosen = append(p.chosen, out[:min(len(out), maxSampled-len(p.chosen))]...)
}

// first reports whether an inode with several names was not seen before.
func (p *sampler) first(st *unix.Stat_t) bool {
	id := [2]uint64{st.Dev, st.Ino}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inodes[id] {
		return false
	}
	p.inodes[id] = true
	return true
}

// chooses decides by the name alone, with a probability of span / step.
func (p *sampler) chooses(path string, at, span int64) bool {
	if uint64(span) >= p.step {
		return true
	}
	d := chunk.Sum(binary.BigEndian.AppendUint64([]byte(join(p.top, path)), uint64(at)))
	return binary.BigEndian.Uint64(d[:]) < uint64(float64(span)/float64(p.step)*math.MaxUint64)
}

// take reads what was chosen, in the order in which it would travel.
func (p *sampler) take(ctx context.Context, st *pipe.Stream) error {
	slices.SortFunc(p.chosen, func(a, b stretch) int { return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.at, b.at)) })
	dirs := dirCache{root: p.view.root}
	defer dirs.close()
	reply := &agentpb.SampleReply{}
	for _, s := range p.chosen {
		if err := p.gov.CPU(ctx); err != nil {
			return err
		}
		if err := p.gov.Disk(ctx, int(s.span)); err != nil {
			return err
		}
		piece, err := p.look(&dirs, s)
		if err != nil {
			return err
		}
		if piece == nil {
			continue // gone meanwhile, or not to be read: the pass will tell
		}
		if reply.Pieces = append(reply.Pieces, piece); len(reply.Pieces) >= samplePieces {
			if err := st.Send(reply); err != nil {
				return err
			}
			reply = &agentpb.SampleReply{}
		}
	}
	if len(reply.Pieces) == 0 {
		return nil
	}
	return st.Send(reply)
}

// look reads one piece, cuts and packs it.
func (p *sampler) look(dirs *dirCache, s stretch) (*agentpb.SampledPiece, error) {
	start := time.Now()
	defer func() { p.busy += time.Since(start) }()
	dirPath, name := split(s.path)
	dir, err := dirs.get(dirPath)
	if err != nil {
		return nil, nil
	}
	fd, err := openFile(dir, name)
	if err != nil {
		return nil, nil
	}
	defer unix.Close(fd)
	at := s.at
	if s.sparse {
		if at = dataOffset(fd, s.at, s.size); at < 0 {
			return nil, nil
		}
	}
	buf := make([]byte, s.span)
	n, err := readFull(fd, buf, at)
	if err != nil || n == 0 {
		return nil, nil
	}
	buf = buf[:n]
	p.read += uint64(n)
	piece := &agentpb.SampledPiece{Size: uint64(s.span)}
	cutWhole(piece, buf, chunk.ParamsFor(s.size), at == 0, at+int64(n) >= s.size)
	frame, zipped, err := p.packer.Pack(buf)
	if err != nil {
		return nil, err
	}
	piece.Packed = uint64(n)
	if zipped {
		piece.Packed = 0
		for _, b := range frame {
			piece.Packed += uint64(len(b))
		}
	}
	return piece, nil
}

// cutsToAgree is how many cuts it takes, from anywhere in a file, until they are those of
// the whole file: of 100 chunks behind two cuts 98 or 99 are.
const cutsToAgree = 2

// cutWhole adds the chunks that lie whole in the stretch buf of a file. What is behind
// the last cut of a file that goes on is no chunk.
func cutWhole(piece *agentpb.SampledPiece, buf []byte, params chunk.Params, begins, ends bool) {
	for cuts := 0; len(buf) > 0; cuts++ {
		if !ends && len(buf) < params.Max {
			return
		}
		n := chunk.Cut(buf, params)
		if begins || cuts >= cutsToAgree {
			d := chunk.Sum(buf[:n])
			piece.Digests = append(piece.Digests, d[:]...)
			piece.Lengths = append(piece.Lengths, uint32(n))
		}
		buf = buf[n:]
	}
}

// dataOffset returns where in a sparse file the byte lies that has so many bytes of data
// before it, or -1.
func dataOffset(fd int, before, size int64) int64 {
	for pos := int64(0); pos < size; {
		start, end, _ := nextData(fd, pos, size)
		if before < end-start {
			return start + before
		}
		before -= end - start
		pos = end
	}
	return -1
}

// Sample is what a part of a filesystem's content is made of.
type Sample struct {
	Entries int64
	Bytes   int64 // of all content, holes left out
	Pieces  []Piece
	Read    int64         // bytes of the pieces
	Busy    time.Duration // that the source needed to read, cut and pack them, on one core
}

// Piece is one piece of a Sample.
type Piece struct {
	Size    int64   // bytes
	Weight  float64 // how many pieces like it there are
	Packed  float64 // what compression leaves of a byte
	Chunks  []chunk.Digest
	Lengths []int64 // of the chunks, which may leave out the ends of the piece
}

// TakeSample looks at about one piece for every step bytes of an open filesystem. Which
// pieces are taken depends on step and on the names of files alone, so samples of one
// step show what servers have in common. level is how hard to compress, 1 to 4.
func TakeSample(ctx context.Context, c *pipe.Conn, filesystem string, step int64, level int) (*Sample, error) {
	st, err := c.Open(ctx, "tree.sample")
	if err != nil {
		return nil, fmt.Errorf("sample %s: %w", filesystem, err)
	}
	defer st.Close()
	if err := st.Send(&agentpb.SampleRequest{Filesystem: filesystem, Step: uint64(step), Level: int32(level)}); err != nil {
		return nil, fmt.Errorf("sample %s: %w", filesystem, err)
	}
	out := &Sample{}
	for {
		var m agentpb.SampleReply
		if err := st.Recv(&m); err != nil {
			return nil, fmt.Errorf("sample %s: %w", filesystem, err)
		}
		for _, p := range m.Pieces {
			piece, err := pieceOf(p, step)
			if err != nil {
				return nil, fmt.Errorf("sample %s: %w", filesystem, err)
			}
			out.Pieces = append(out.Pieces, piece)
		}
		if len(out.Pieces) > maxSampled {
			return nil, fmt.Errorf("sample %s: more than %d pieces", filesystem, maxSampled)
		}
		if m.Last {
			out.Entries, out.Bytes, out.Read = clampInt(m.Entries), clampInt(m.Bytes), clampInt(m.Read)
			out.Busy = time.Duration(clampInt(m.BusyNs))
			return out, nil
		}
	}
}

func clampInt(n uint64) int64 { return int64(min(n, math.MaxInt64/2)) }

// pieceOf checks what a source says of a piece.
func pieceOf(p *agentpb.SampledPiece, step int64) (Piece, error) {
	out := Piece{Size: clampInt(p.Size), Weight: 1}
	if out.Size == 0 || out.Size > stretchFor(math.MaxInt64) || len(p.Digests) != 32*len(p.Lengths) {
		return out, fmt.Errorf("malformed piece of %d bytes with %d chunks", out.Size, len(p.Lengths))
	}
	out.Weight = max(1, float64(step)/float64(out.Size))
	out.Packed = min(1, float64(p.Packed)/float64(out.Size))
	total := int64(0)
	for i, n := range p.Lengths {
		total += int64(n)
		out.Chunks = append(out.Chunks, chunk.Digest(p.Digests[32*i:]))
		out.Lengths = append(out.Lengths, int64(n))
	}
	if total > out.Size {
		return out, fmt.Errorf("malformed piece of %d bytes with chunks of %d", out.Size, total)
	}
	return out, nil
}

// Wire reckons how many bytes of the content would travel after compression, if of each
// chunk the share did that is told: 0 of one that the target has, 1 of one that nobody
// else brings.
func (s *Sample) Wire(share func(chunk.Digest) float64) int64 {
	var all, travels float64
	for _, p := range s.Pieces {
		var looked, lacks float64
		for i, d := range p.Chunks {
			looked += float64(p.Lengths[i])
			lacks += float64(p.Lengths[i]) * share(d)
		}
		part := 1.0
		if looked > 0 {
			part = lacks / looked
		}
		weight := p.Weight * float64(p.Size)
		all += weight
		travels += weight * p.Packed * part
	}
	if all == 0 {
		return 0
	}
	return int64(float64(s.Bytes) * travels / all)
}
