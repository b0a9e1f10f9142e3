package rowsync

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	segmentMagic = "LWSPOOL1"
	segmentExt   = ".seg"
	frameHead    = 9       // length, checksum, marks
	compressMin  = 256     // shorter bodies rarely shrink
	maxHeader    = 1 << 20 // of a segment
	maxBody      = 2 << 30 // of a record, unfolded: a row with the largest value there is
)

// Marks of a frame.
const (
	frameComplete byte = 1 << iota // a source transaction ends here, or a heartbeat stands here
	frameZstd
)

// segmentHeader begins a segment.
type segmentHeader struct {
	Stream string     `json:"stream"`
	Epoch  string     `json:"epoch"`
	After  engine.Pos `json:"after"` // the position that the first record follows
}

// frame is one record as it lies on disk.
type frame struct {
	marks byte
	pos   engine.Pos // of the commit or heartbeat; empty within a transaction
	body  []byte
	next  int64 // where the following record begins
}

func segmentPath(dir string, n uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", n, segmentExt))
}

// segments lists the numbers of the segments in a directory, in order.
func segments(dir string) ([]uint64, error) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the spool: %w", err)
	}
	var out []uint64
	for _, e := range es {
		name, ok := strings.CutSuffix(e.Name(), segmentExt)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(name, 16, 64)
		if err == nil && segmentPath("", n) == e.Name() {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

func appendSegmentHeader(b []byte, h segmentHeader) ([]byte, error) {
	j, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the header of a segment: %w", err)
	}
	b = append(b, segmentMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(j)))
	b = binary.BigEndian.AppendUint32(b, checksum(j))
	return append(b, j...), nil
}

// readSegmentHeader returns the header and where the first record begins.
func readSegmentHeader(r io.ReaderAt) (h segmentHeader, at int64, err error) {
	head := make([]byte, len(segmentMagic)+8)
	if _, err := r.ReadAt(head, 0); err != nil {
		return h, 0, cut(err)
	}
	n := binary.BigEndian.Uint32(head[len(segmentMagic):])
	if string(head[:len(segmentMagic)]) != segmentMagic || n > maxHeader {
		return h, 0, errRecord
	}
	j := make([]byte, n)
	if _, err := r.ReadAt(j, int64(len(head))); err != nil {
		return h, 0, cut(err)
	}
	if checksum(j) != binary.BigEndian.Uint32(head[len(segmentMagic)+4:]) || json.Unmarshal(j, &h) != nil {
		return h, 0, errRecord
	}
	return h, int64(len(head)) + int64(n), nil
}

// cut makes the end of a file within a record damage.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errRecord
	}
	return err
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// appendFrame encodes a piece as a record behind b.
func appendFrame(b []byte, enc *zstd.Encoder, p *engine.Piece) []byte {
	var pos engine.Pos
	var marks byte
	if c := commitOf(p); c != nil {
		pos, marks = c.Pos, frameComplete
	}
	body := appendPiece(nil, p)
	if len(body) >= compressMin {
		body, marks = enc.EncodeAll(body, nil), marks|frameZstd
	}
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	b[start+8] = marks
	b = append(appendText(b, string(pos)), body...)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-8))
	binary.BigEndian.PutUint32(b[start+4:], checksum(b[start+8:]))
	return b
}

// commitOf is the commit or heartbeat of a piece, nil within a transaction.
func commitOf(p *engine.Piece) *engine.Commit {
	if p.End != nil {
		return p.End
	}
	return p.Heartbeat
}

// readFrame reads the record at a place of a file that holds size bytes. io.EOF
// means that there is none.
func readFrame(r io.ReaderAt, at, size int64) (frame, error) {
	if at == size {
		return frame{}, io.EOF
	}
	if size-at < frameHead {
		return frame{}, errRecord
	}
	head := make([]byte, 8)
	if _, err := r.ReadAt(head, at); err != nil {
		return frame{}, cut(err)
	}
	n := int64(binary.BigEndian.Uint32(head))
	if n < 2 || n > size-at-8 {
		return frame{}, errRecord
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, at+8); err != nil {
		return frame{}, cut(err)
	}
	if checksum(b) != binary.BigEndian.Uint32(head[4:]) {
		return frame{}, errRecord
	}
	d := &decoder{b: b[1:]}
	f := frame{marks: b[0], pos: engine.Pos(d.text()), next: at + 8 + n}
	if d.bad {
		return frame{}, errRecord
	}
	f.body = d.b
	return f, nil
}

// piece decodes the record.
func (f *frame) piece(dec *zstd.Decoder) (engine.Piece, error) {
	body := f.body
	if f.marks&frameZstd != 0 {
		var err error
		if body, err = dec.DecodeAll(body, nil); err != nil {
			return engine.Piece{}, errRecord
		}
	}
	p, err := decodePiece(body)
	if err != nil {
		return p, err
	}
	if c := commitOf(&p); (c != nil) != (f.marks&frameComplete != 0) || c != nil && c.Pos != f.pos {
		return engine.Piece{}, errRecord
	}
	return p, nil
}

// newCodec makes what compresses and unfolds records.
func newCodec() (*zstd.Encoder, *zstd.Decoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, nil, fmt.Errorf("make a compressor: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBody))
	if err != nil {
		return nil, nil, fmt.Errorf("make a decompressor: %w", err)
	}
	return enc, dec, nil
}
