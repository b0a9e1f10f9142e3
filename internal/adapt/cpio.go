package adapt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// cpioEntry is one member of an archive in the "newc" format.
type cpioEntry struct {
	name string
	mode uint32
	data []byte // content, or a link's target; only of entries that were asked for
}

const (
	cpioHeader  = 110
	cpioTrailer = "TRAILER!!!"
	maxCpioName = 4096

	modeDir  = 0o040755
	modeFile = 0o100644
	modeLink = 0o120777
)

var errNotCpio = errors.New("not a cpio archive in newc format")

// cpioReader reads concatenated archives from one stream.
type cpioReader struct {
	r io.Reader
}

func (c *cpioReader) full(b []byte) error {
	_, err := io.ReadFull(c.r, b)
	return err
}

func (c *cpioReader) skip(n int64) error {
	_, err := io.CopyN(io.Discard, c.r, n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// next returns the next member, or io.EOF where an archive ends. Its content is
// kept only if want says so of its name and it is at most a megabyte.
func (c *cpioReader) next(want func(string) bool) (*cpioEntry, error) {
	var h [cpioHeader]byte
	if err := c.full(h[:]); err != nil {
		return nil, err
	}
	if m := string(h[:6]); m != "070701" && m != "070702" {
		return nil, errNotCpio
	}
	mode, err1 := hexField(h[:], 1)
	size, err2 := hexField(h[:], 6)
	nameSize, err3 := hexField(h[:], 11)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	if nameSize == 0 || nameSize > maxCpioName {
		return nil, fmt.Errorf("cpio: name of %d bytes", nameSize)
	}
	name := make([]byte, pad4(cpioHeader+int64(nameSize))-cpioHeader)
	if err := c.full(name); err != nil {
		return nil, err
	}
	text, _, _ := strings.Cut(string(name[:nameSize]), "\x00")
	e := &cpioEntry{name: strings.TrimPrefix(strings.TrimPrefix(text, "./"), "/"), mode: mode}
	if text == cpioTrailer {
		return nil, io.EOF
	}
	rest := pad4(int64(size))
	if size <= 1<<20 && want(e.name) {
		e.data = make([]byte, size)
		if err := c.full(e.data); err != nil {
			return nil, err
		}
		rest -= int64(size)
	}
	return e, c.skip(rest)
}

func hexField(h []byte, i int) (uint32, error) {
	v, err := strconv.ParseUint(string(h[6+8*i:14+8*i]), 16, 32)
	return uint32(v), err
}

func pad4(n int64) int64 { return (n + 3) &^ 3 }

// writeCpio writes the entries as an archive.
func writeCpio(w io.Writer, entries []cpioEntry) error {
	for i, e := range append(entries[:len(entries):len(entries)], cpioEntry{name: cpioTrailer}) {
		var b bytes.Buffer
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			i+1, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, 0, 0, len(e.name)+1, 0)
		b.WriteString(e.name)
		b.Write(make([]byte, pad4(int64(b.Len())+1)-int64(b.Len())))
		b.Write(e.data)
		b.Write(make([]byte, pad4(int64(len(e.data)))-int64(len(e.data))))
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}
