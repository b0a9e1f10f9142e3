package chunk

import (
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// MaxFrame bounds the bytes that one packed frame may unfold to.
const MaxFrame = 8 << 20

// Packer compresses frames with the effort that pays at the moment: more while
// the wire is what everything waits for, less while the processor is. It may be
// used by several goroutines.
type Packer struct {
	mu       sync.Mutex
	level    int // index into levels
	packing  time.Duration
	sending  time.Duration
	frames   int
	fixed    bool
	encoders [len(levels)]*zstd.Encoder
}

// levels in order of effort. The first means no compression at all.
var levels = [...]zstd.EncoderLevel{0, zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression}

const adjustEvery = 4 // frames between decisions

// NewPacker returns a Packer. level 0 lets it find the effort itself; 1 to 4 fix it.
func NewPacker(level int) *Packer {
	p := &Packer{level: 2}
	if level > 0 {
		p.level, p.fixed = min(level, len(levels)-1), true
	}
	return p
}

// Pack returns the parts joined and compressed, or as they are and false where
// that would not make them smaller by at least a thirtieth.
func (p *Packer) Pack(parts ...[]byte) (frame [][]byte, zipped bool) {
	start := time.Now()
	defer func() { p.spent(&p.packing, time.Since(start)) }()
	n := 0
	for _, b := range parts {
		n += len(b)
	}
	p.mu.Lock()
	level := p.level
	p.mu.Unlock()
	if n == 0 || level == 0 || !p.promising(parts, n) {
		return parts, false
	}
	joined := joinBuffers.Get().(*[]byte)
	defer joinBuffers.Put(joined)
	b := (*joined)[:0]
	for _, part := range parts {
		b = append(b, part...)
	}
	*joined = b
	z := p.encoder(level).EncodeAll(b, make([]byte, 0, len(b)/2))
	if len(z) > len(b)-len(b)/30 {
		return parts, false
	}
	return [][]byte{z}, true
}

var joinBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<20); return &b }}

// promising tries the fastest level on samples, so that no effort goes into what
// is compressed or encrypted already.
func (p *Packer) promising(parts [][]byte, n int) bool {
	const sample, samples = 8 << 10, 4
	if n <= samples*sample {
		return true
	}
	fast := p.encoder(1)
	in, out, skip := 0, 0, 0
	for _, b := range parts {
		for skip < len(b) {
			s := b[skip:min(skip+sample, len(b))]
			in += len(s)
			out += len(fast.EncodeAll(s, nil))
			skip += n / samples
		}
		skip -= len(b)
	}
	return out < in-in/30
}

// encoder returns the encoder of a level, made when first needed. Those of other
// levels but the fastest are let go: each holds some 10 MB.
func (p *Packer) encoder(level int) *zstd.Encoder {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.encoders {
		if i > 1 && i != level && level > 1 {
			p.encoders[i] = nil
		}
	}
	if p.encoders[level] == nil {
		// Fails only on invalid options, and these are constants.
		p.encoders[level], _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(levels[level]),
			zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(4<<20), zstd.WithEncoderCRC(false),
			zstd.WithLowerEncoderMem(true))
	}
	return p.encoders[level]
}

// Sent tells the packer how long handing a frame to the connection took. Long
// waits mean that the wire is full.
func (p *Packer) Sent(d time.Duration) {
	p.spent(&p.sending, d)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frames++
	if p.fixed || p.frames < adjustEvery {
		return
	}
	switch {
	case p.sending > 2*p.packing && p.level < len(levels)-1:
		p.level++
	case p.sending < p.packing/4 && p.level > 1:
		p.level--
	}
	p.packing, p.sending, p.frames = 0, 0, 0
}

// Level returns the current effort, 0 to 4.
func (p *Packer) Level() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.level
}

func (p *Packer) spent(what *time.Duration, d time.Duration) {
	p.mu.Lock()
	*what += d
	p.mu.Unlock()
}

// Unpacker undoes Pack. It may be used by several goroutines.
type Unpacker struct{ dec *zstd.Decoder }

// NewUnpacker returns an Unpacker; Close it after use.
func NewUnpacker() *Unpacker {
	// Fails only on invalid options, and these are constants.
	dec, _ := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxFrame), zstd.WithDecoderConcurrency(2))
	return &Unpacker{dec}
}

// Unpack returns what Pack was given. A frame that unfolds to another length than
// want, or is damaged, is an error.
func (u *Unpacker) Unpack(frame []byte, zipped bool, want int) ([]byte, error) {
	if want > MaxFrame {
		return nil, fmt.Errorf("unpack: %d bytes wanted, at most %d allowed", want, MaxFrame)
	}
	if zipped {
		b, err := u.dec.DecodeAll(frame, make([]byte, 0, want))
		if err != nil {
			return nil, fmt.Errorf("unpack: %w", err)
		}
		frame = b
	}
	if len(frame) != want {
		return nil, fmt.Errorf("unpack: %d bytes, want %d", len(frame), want)
	}
	return frame, nil
}

// Close releases the decoder.
func (u *Unpacker) Close() { u.dec.Close() }
