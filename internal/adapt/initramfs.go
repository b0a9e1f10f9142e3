package adapt

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// initramfs is what an image holds: the early archives, which are not
// compressed, and the main one.
type initramfs struct {
	names       map[string]uint32 // name → mode
	files       map[string][]byte // content of those that were asked for
	order       []string          // names in order
	compression string            // of the main archive: none, gzip, xz, zstd, lz4, lzma, bzip2
	early       int64             // where the main archive begins
	modules     map[string]bool   // canonical names of the kernel modules inside
	moduleDirs  map[string]bool   // directories named after kernel versions
}

const (
	maxInitramfs        = 1 << 30   // unpacked
	maxWindow           = 128 << 20 // of a decompressor; the kernel's own limit for zstd
	maxInitramfsEntries = 1 << 20
)

// readInitramfs lists an image: any number of plain archives, then at most one
// compressed stream that may hold several. want names the files whose content is
// kept.
func readInitramfs(r io.Reader, want func(string) bool) (*initramfs, error) {
	im := &initramfs{names: map[string]uint32{}, files: map[string][]byte{}, compression: "none",
		modules: map[string]bool{}, moduleDirs: map[string]bool{}}
	in := &counter{r: bufio.NewReaderSize(r, 1<<16)}
	for {
		kind, err := in.peekKind()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if kind == "cpio" {
			if err := im.readArchive(in, want); err != nil {
				return nil, err
			}
			continue
		}
		im.compression, im.early = kind, in.n
		if err := im.readMain(in, want); err != nil {
			return nil, fmt.Errorf("read %s initramfs: %w", kind, err)
		}
		break
	}
	if len(im.order) == 0 {
		return nil, errNotCpio
	}
	return im, nil
}

// counter counts what is read through it.
type counter struct {
	r *bufio.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

var magics = [...]struct{ magic, kind string }{
	{"07070", "cpio"}, {"\x1f\x8b", "gzip"}, {"\xfd7zXZ\x00", "xz"}, {"\x28\xb5\x2f\xfd", "zstd"},
	{"\x02\x21\x4c\x18", "lz4"}, {"\x04\x22\x4d\x18", "lz4"}, {"\x5d\x00\x00", "lzma"}, {"BZh", "bzip2"},
}

// peekKind skips the zeros between archives and says what follows.
func (c *counter) peekKind() (string, error) {
	for {
		if _, err := c.r.Peek(1); err != nil {
			return "", err
		}
		b, _ := c.r.Peek(c.r.Buffered())
		zeros := len(b) - len(bytes.TrimLeft(b, "\x00"))
		c.r.Discard(zeros)
		c.n += int64(zeros)
		if zeros < len(b) {
			break
		}
	}
	head, _ := c.r.Peek(6)
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.kind, nil
		}
	}
	return "", fmt.Errorf("initramfs of unknown compression, it begins % x", head)
}

// decompress returns a reader of the main archive.
func decompress(kind string, r io.Reader) (io.Reader, error) {
	switch kind {
	case "gzip":
		return gzip.NewReader(r)
	case "xz":
		return xz.NewReader(r)
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case "lz4":
		return lz4.NewReader(r), nil
	case "lzma":
		return lzma.ReaderConfig{DictCap: maxWindow}.NewReader(r)
	case "bzip2":
		return bzip2.NewReader(r), nil
	}
	return nil, fmt.Errorf("compression %q is unknown", kind)
}

func (im *initramfs) readMain(r io.Reader, want func(string) bool) error {
	d, err := decompress(im.compression, r)
	if err != nil {
		return err
	}
	if c, ok := d.(io.Closer); ok {
		defer c.Close()
	}
	in := &counter{r: bufio.NewReaderSize(io.LimitReader(d, maxInitramfs), 1<<16)}
	for first := true; ; first = false {
		kind, err := in.peekKind()
		if errors.Is(err, io.EOF) && !first {
			return nil
		}
		if err != nil && first {
			return err
		}
		if err != nil || kind != "cpio" {
			return nil // padding, or what only the kernel would try
		}
		if err := im.readArchive(in, want); err != nil {
			return err
		}
	}
}

func (im *initramfs) readArchive(in io.Reader, want func(string) bool) error {
	c := &cpioReader{r: in}
	for {
		e, err := c.next(want)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(im.order) >= maxInitramfsEntries {
			return fmt.Errorf("more than %d files", maxInitramfsEntries)
		}
		im.add(e)
	}
}

func (im *initramfs) add(e *cpioEntry) {
	if _, ok := im.names[e.name]; !ok {
		im.order = append(im.order, e.name)
	}
	im.names[e.name] = e.mode
	if e.data != nil {
		im.files[e.name] = e.data
	}
	if name := moduleName(e.name); name != "" {
		im.modules[name] = true
	}
	if _, rest, ok := strings.Cut("/"+e.name, "/lib/modules/"); ok {
		version, _, _ := strings.Cut(rest, "/")
		im.moduleDirs[e.name[:len(e.name)-len(rest)]+version] = true
	}
}
