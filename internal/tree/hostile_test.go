package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// liar is a source that says what a test tells it to.
type liar struct {
	scan []*agentpb.ScanReply
	// between is called before each message of the scan but the first.
	between func(i int)
	// copy is called once with each message of the target.
	copy func(s *pipe.Stream, req *agentpb.CopyRequest) error
}

func (l *liar) handlers() map[string]pipe.Handler {
	return map[string]pipe.Handler{
		"tree.scan": func(_ context.Context, s *pipe.Stream) error {
			for {
				var b agentpb.Baseline
				if err := s.Recv(&b); err == io.EOF {
					break
				} else if err != nil {
					return err
				}
			}
			for i, r := range l.scan {
				if i > 0 && l.between != nil {
					l.between(i)
				}
				if err := s.Send(r); err != nil {
					return err
				}
			}
			return nil
		},
		"tree.copy": func(_ context.Context, s *pipe.Stream) error {
			for {
				req := &agentpb.CopyRequest{}
				if err := s.Recv(req); err != nil {
					return err
				}
				if l.copy != nil {
					if err := l.copy(s, req); err != nil {
						return err
					}
				}
				if req.Last {
					return s.Send(&agentpb.CopyReply{Done: true})
				}
			}
		},
	}
}

// lie runs a pass against the liar. It fails the test if anything outside of the
// replica changed.
func (w *world) lie(l *liar) (*Result, error) {
	w.t.Helper()
	outside := filepath.Dir(w.dst) + "/outside"
	if err := os.MkdirAll(outside, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(outside+"/secret", []byte("as it was"), 0o640); err != nil {
		w.t.Fatal(err)
	}
	before := listing(w.t, outside, nil)
	cat, err := OpenCatalog(w.state + "/catalog.db")
	if err != nil {
		w.t.Fatal(err)
	}
	defer cat.Close()
	if err := w.index.Attach(w.tree, w.state+"/index"); err != nil {
		w.t.Fatal(err)
	}
	p := &Pass{Conns: []*pipe.Conn{link(w.t, l.handlers())}, Filesystem: "/", Root: openRoot(w.t, w.dst), Catalog: cat,
		Index: w.index, Tree: w.tree, Sources: w.sources}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	res, err := p.Run(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		w.t.Error("the pass hangs")
	}
	if after := listing(w.t, outside, nil); fmt.Sprint(after) != fmt.Sprint(before) {
		w.t.Errorf("outside of the replica:\nbefore %v\nafter  %v", before, after)
	}
	return res, err
}

// link connects a server with handlers and returns the client's end.
func link(t testing.TB, handlers map[string]pipe.Handler) *pipe.Conn {
	ar, aw := io.Pipe()
	br, bw := io.Pipe()
	client := pipe.New(ar, bw, pipe.Options{Dialer: true})
	server := pipe.New(br, aw, pipe.Options{Handlers: handlers})
	var wg sync.WaitGroup
	wg.Go(func() { client.Run(context.Background()) })
	wg.Go(func() { server.Run(context.Background()) })
	t.Cleanup(func() { client.Close(); server.Close(); wg.Wait() })
	return client
}

func dirOf(path string, pages ...*agentpb.Page) *agentpb.Directory {
	return &agentpb.Directory{Path: []byte(path), Pages: pages, Self: &agentpb.Meta{Mode: unix.S_IFDIR | 0o755}, Last: true}
}

// pageOf is a head page of regular files, for names in the given order.
func pageOf(mode uint32, names ...string) *agentpb.Page {
	var rows []entry
	for i, n := range names {
		rows = append(rows, entry{name: n, mode: mode, ctimeSec: 1, inode: uint64(i + 10), links: 1, size: 10})
	}
	p := makePage(rows, "")
	p.Head = true
	return p
}

func scanOf(dirs ...*agentpb.Directory) []*agentpb.ScanReply {
	return []*agentpb.ScanReply{{Directories: dirs}, {Summary: &agentpb.ScanSummary{}}}
}

func TestHostileScan(t *testing.T) {
	const file, dir = unix.S_IFREG | 0o644, unix.S_IFDIR | 0o755
	short := pageOf(file, "a", "b")
	short.Uid = short.Uid[:1]
	moved := pageOf(file, "b")
	moved.First = []byte("a")
	beyond := pageOf(file, "b")
	beyond.Next = []byte("a")
	cases := map[string][]*agentpb.ScanReply{
		"parent":         scanOf(dirOf("", pageOf(file, "..", "x"))),
		"itself":         scanOf(dirOf("", pageOf(file, "."))),
		"slash":          scanOf(dirOf("", pageOf(file, "../outside/secret"))),
		"absolute":       scanOf(dirOf("", pageOf(file, "/etc/shadow"))),
		"empty":          scanOf(dirOf("d", pageOf(file, ""))),
		"nul":            scanOf(dirOf("", pageOf(file, "a\x00b"))),
		"long":           scanOf(dirOf("", pageOf(file, strings.Repeat("n", 256)))),
		"twice":          scanOf(dirOf("", pageOf(file, "a", "a"))),
		"unsorted":       scanOf(dirOf("", pageOf(file, "b", "a"))),
		"columns":        scanOf(dirOf("", short)),
		"first":          scanOf(dirOf("", moved)),
		"next":           scanOf(dirOf("", beyond)),
		"the stage":      scanOf(dirOf("", pageOf(dir, stage))),
		"in the stage":   scanOf(dirOf(stage+"/x", pageOf(file, "a"))),
		"path up":        scanOf(dirOf("..", pageOf(file, "a"))),
		"path inside up": scanOf(dirOf("a/../../outside", pageOf(file, "secret"))),
		"path absolute":  scanOf(dirOf("/etc", pageOf(file, "a"))),
		"path slash":     scanOf(dirOf("a/", pageOf(file, "a"))),
		"no self":        scanOf(&agentpb.Directory{Path: []byte("d"), Pages: []*agentpb.Page{pageOf(file, "a")}}),
		"nil page":       scanOf(dirOf("d", &agentpb.Page{Name: [][]byte{nil}})),
		"never last":     scanOf(endless(1000)...),
		"ends early":     {{Directories: []*agentpb.Directory{dirOf("", pageOf(file))}}},
		"nothing at all": nil,
		"dir left open":  scanOf(&agentpb.Directory{Path: []byte(""), Self: &agentpb.Meta{}}),
	}
	for name, scan := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			// A link that an earlier pass has brought.
			if err := os.Symlink("../outside", w.dst+"/a"); err != nil {
				t.Fatal(err)
			}
			if _, err := w.lie(&liar{scan: scan, copy: answer(nil)}); err == nil {
				t.Error("the pass ended well")
			}
		})
	}
}

// endless returns directories that never end.
func endless(n int) (out []*agentpb.Directory) {
	for i := range n {
		d := dirOf(fmt.Sprint("d", i))
		d.Last = false
		out = append(out, d)
	}
	return out
}

// answer returns a copy function that sends the entries it has and says of all
// others that they vanished.
func answer(entries map[string]*agentpb.Meta) func(*pipe.Stream, *agentpb.CopyRequest) error {
	batch := uint64(0)
	return func(s *pipe.Stream, req *agentpb.CopyRequest) error {
		for _, f := range req.Files {
			batch++
			part := &agentpb.Part{Id: f.Id, Head: true, Tail: true, Meta: entries[string(f.Path)], Outcome: &agentpb.Outcome{}}
			if part.Meta == nil {
				part.Outcome.Kind = agentpb.Outcome_VANISHED
			}
			if err := s.Send(&agentpb.CopyReply{Offers: []*agentpb.Offer{{Batch: batch, Parts: []*agentpb.Part{part}}}}); err != nil {
				return err
			}
		}
		return nil
	}
}

func metaOf(size int) *agentpb.Meta {
	return &agentpb.Meta{Mode: unix.S_IFREG | 0o600, Size: uint64(size), MtimeSec: 1, CtimeSec: 1, Inode: 10, Links: 1}
}

// wholeOf is an offer of one entry with one chunk.
func wholeOf(id uint64, content []byte) *agentpb.Offer {
	o := &agentpb.Offer{Batch: 1, Parts: []*agentpb.Part{{Id: id, Head: true, Tail: true, Meta: metaOf(len(content)), Chunks: 1,
		End: uint64(len(content)), Outcome: &agentpb.Outcome{}}}}
	describeForTest(o, content)
	return o
}

func describeForTest(o *agentpb.Offer, chunks ...[]byte) {
	o.Digests, o.Lengths = nil, nil
	for _, c := range chunks {
		d := chunk.Sum(c)
		o.Digests = append(o.Digests, d[:]...)
		o.Lengths = append(o.Lengths, uint32(len(c)))
	}
}

// lies are what a source may say when it is asked for one file.
func lies() map[string]func(id uint64) []*agentpb.CopyReply {
	content := bytes.Repeat([]byte("leeward "), 200)
	big := bytes.Repeat([]byte("leeward!"), 8192)
	change := func(f func(o *agentpb.Offer)) func(id uint64) []*agentpb.CopyReply {
		return func(id uint64) []*agentpb.CopyReply {
			o := wholeOf(id, content)
			f(o)
			return []*agentpb.CopyReply{{Offers: []*agentpb.Offer{o}}}
		}
	}
	data := func(d *agentpb.Data) func(id uint64) []*agentpb.CopyReply {
		return func(id uint64) []*agentpb.CopyReply {
			return []*agentpb.CopyReply{{Offers: []*agentpb.Offer{wholeOf(id, content)}}, {Data: []*agentpb.Data{d}}}
		}
	}
	bomb, _, err := chunk.NewPacker(4).Pack(make([]byte, 7<<20))
	if err != nil {
		panic(err)
	}
	return map[string]func(id uint64) []*agentpb.CopyReply{
		"unknown id": change(func(o *agentpb.Offer) { o.Parts[0].Id = 77 }),
		"no meta":    change(func(o *agentpb.Offer) { o.Parts[0].Meta = nil }),
		"no meta, no data": change(func(o *agentpb.Offer) {
			o.Parts[0].Meta, o.Parts[0].Chunks, o.Digests, o.Lengths, o.Parts[0].End = nil, 0, nil, nil, 0
		}),
		"no outcome":      change(func(o *agentpb.Offer) { o.Parts[0].Outcome = nil }),
		"tail alone":      change(func(o *agentpb.Offer) { o.Parts[0].Head = false }),
		"middle alone":    change(func(o *agentpb.Offer) { o.Parts[0].Head, o.Parts[0].Tail, o.Parts[0].Outcome = false, false, nil }),
		"wrong end":       change(func(o *agentpb.Offer) { o.Parts[0].End++ }),
		"too many chunks": change(func(o *agentpb.Offer) { o.Parts[0].Chunks = 1 << 30 }),
		"too few chunks":  change(func(o *agentpb.Offer) { o.Parts[0].Chunks = 0; o.Parts[0].End = 0 }),
		"missing digest":  change(func(o *agentpb.Offer) { o.Digests = o.Digests[:31] }),
		"empty chunk":     change(func(o *agentpb.Offer) { o.Lengths[0] = 0; o.Parts[0].End = 0 }),
		"huge chunk":      change(func(o *agentpb.Offer) { o.Lengths[0] = 1 << 31; o.Parts[0].End = 1 << 31 }),
		"hole behind":     change(func(o *agentpb.Offer) { o.Parts[0].Holes = []*agentpb.Hole{{Offset: 1 << 40, Length: 1}} }),
		"hole inside":     change(func(o *agentpb.Offer) { o.Parts[0].Holes = []*agentpb.Hole{{Offset: 5, Length: 10}} }),
		"holes overlap": change(func(o *agentpb.Offer) {
			o.Parts[0].Holes = []*agentpb.Hole{{Offset: 0, Length: 10}, {Offset: 5, Length: 10}}
		}),
		"hole wraps": change(func(o *agentpb.Offer) { wrap(o) }),
		"directory in parts": change(func(o *agentpb.Offer) {
			o.Parts[0].Tail, o.Parts[0].Outcome, o.Parts[0].Meta.Mode = false, nil, unix.S_IFDIR|0o755
		}),
		"twice in a batch": change(func(o *agentpb.Offer) {
			o.Parts = append(o.Parts, o.Parts[0])
			describeForTest(o, content, content)
		}),
		"batch twice": func(id uint64) []*agentpb.CopyReply {
			return []*agentpb.CopyReply{{Offers: []*agentpb.Offer{wholeOf(id, content), wholeOf(id, content)}}}
		},
		"batch becomes another": func(id uint64) []*agentpb.CopyReply {
			o := wholeOf(id, big)
			o.Parts[0].Id, o.Parts[0].Head, o.Parts[0].Tail, o.Parts[0].Meta, o.Parts[0].Outcome = id, false, false, nil, nil
			return []*agentpb.CopyReply{{Offers: []*agentpb.Offer{wholeOf(id, content)}}, {Offers: []*agentpb.Offer{o}},
				{Data: []*agentpb.Data{framed(big, &agentpb.Data{Batch: 1, Chunks: []uint32{0}})}}}
		},
		"wrong bytes":    data(framed(make([]byte, len(content)), &agentpb.Data{Batch: 1, Chunks: []uint32{0}})),
		"short frame":    data(framed(content[1:], &agentpb.Data{Batch: 1, Chunks: []uint32{0}})),
		"bomb":           data(framed(bytes.Join(bomb, nil), &agentpb.Data{Batch: 1, Zstd: true, Chunks: []uint32{0}})),
		"broken zstd":    data(framed(content, &agentpb.Data{Batch: 1, Zstd: true, Chunks: []uint32{0}})),
		"unknown batch":  data(framed(content, &agentpb.Data{Batch: 9, Chunks: []uint32{0}})),
		"unknown chunk":  data(framed(content, &agentpb.Data{Batch: 1, Chunks: []uint32{1 << 31}})),
		"chunk twice":    data(framed(append(content[:len(content):len(content)], content...), &agentpb.Data{Batch: 1, Chunks: []uint32{0, 0}})),
		"done too early": func(uint64) []*agentpb.CopyReply { return []*agentpb.CopyReply{{Done: true}} },
		"a strange kind": change(func(o *agentpb.Offer) { nothingIn(o); o.Parts[0].Meta.Mode = 0o644 }),
		"no such kind":   change(func(o *agentpb.Offer) { nothingIn(o); o.Parts[0].Meta.Mode = 0o170644 }),
		"a bad link":     change(func(o *agentpb.Offer) { nothingIn(o); o.Parts[0].Meta.Mode = unix.S_IFLNK | 0o777 }),
		"a link with nul": change(func(o *agentpb.Offer) {
			nothingIn(o)
			o.Parts[0].Meta.Mode, o.Parts[0].Meta.Target = unix.S_IFLNK|0o777, []byte("a\x00b")
		}),
		"a bad xattr": change(func(o *agentpb.Offer) {
			nothingIn(o)
			o.Parts[0].Meta.Xattrs = []*agentpb.Xattr{{Name: []byte("no namespace")}}
		}),
	}
}

func TestHostileCopy(t *testing.T) {
	for name, replies := range lies() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l := &liar{scan: scanOf(dirOf("", pageOf(unix.S_IFREG|0o644, "f")))}
			l.copy = func(s *pipe.Stream, req *agentpb.CopyRequest) error {
				for _, f := range req.Files {
					for i, r := range replies(f.Id) {
						if i > 0 { // once the target has answered
							var a agentpb.CopyRequest
							if err := s.Recv(&a); err != nil {
								return err
							}
						}
						if err := sendFramed(s, r); err != nil {
							return err
						}
					}
				}
				return nil
			}
			res, err := w.lie(l)
			if err == nil && len(res.Problems) == 0 {
				t.Error("the pass ended well")
			}
		})
	}
}

// nothingIn makes an offer one without content.
func nothingIn(o *agentpb.Offer) {
	o.Digests, o.Lengths, o.Parts[0].Chunks, o.Parts[0].End, o.Parts[0].Meta.Size = nil, nil, 0, 0, 0
}

// wrap lets the holes of an offer lead beyond the largest offset and round again.
func wrap(o *agentpb.Offer) {
	const quarter = 1 << 62
	o.Parts[0].Holes = []*agentpb.Hole{{Offset: 0, Length: quarter}, {Offset: quarter, Length: quarter},
		{Offset: 2 * quarter, Length: quarter}, {Offset: 3 * quarter, Length: quarter - 10}}
	o.Parts[0].End = uint64(o.Lengths[0]) - 10
}

// TestLinkInTheReplica plants links where directories should be.
func TestLinkInTheReplica(t *testing.T) {
	w := newWorld(t)
	w.sh(`mkdir -p d/sub; echo one > d/sub/f; echo two > d/g`)
	w.sync()
	outside := filepath.Dir(w.dst) + "/outside"
	os.MkdirAll(outside+"/sub", 0o755)
	os.WriteFile(outside+"/sub/f", []byte("secret"), 0o600)
	if err := os.RemoveAll(w.dst + "/d"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, w.dst+"/d"); err != nil {
		t.Fatal(err)
	}
	before := listing(t, outside, nil)
	w.sh(`echo three > d/sub/f; echo four > d/h; chmod 700 d`)
	w.sync()
	if after := listing(t, outside, nil); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("a link in the replica led out:\nbefore %v\nafter  %v", before, after)
	}
	w.equal()
}

// framed is a Data with the bytes that are to follow it, carried along as an
// unknown field.
func framed(frame []byte, d *agentpb.Data) *agentpb.Data {
	d.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), frame))
	return d
}

func sendFramed(s *pipe.Stream, r *agentpb.CopyReply) error {
	var frame []byte
	for _, d := range r.Data {
		if u := d.ProtoReflect().GetUnknown(); len(u) > 0 {
			_, _, n := protowire.ConsumeTag(u)
			frame, _ = protowire.ConsumeBytes(u[n:])
			d.ProtoReflect().SetUnknown(nil)
		}
	}
	return s.SendRaw(r, frame)
}
