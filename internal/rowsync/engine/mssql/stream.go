package mssql

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// The row stream is what Export writes and Import reads:
//
//	"LWMS" 1  version
//	uvarint   number of columns
//	rows:     'R', then for each carried column one value
//	end:      'E', uvarint number of rows
//
// A value is 0 (NULL), or 1 + uvarint length + bytes, or 2 + pieces, each uvarint
// length + bytes, ended by a length of 0. Values of over largeValue bytes come in
// pieces, so that neither end holds one whole. The stream ends at 'E': one that stops
// before was cut, and is an error.

const (
	streamMagic = "LWMS\x01"
	rowMark     = 'R'
	endMark     = 'E'

	valueNull   = 0
	valueWhole  = 1
	valuePieces = 2

	largeValue = 1 << 20  // values above are read in pieces
	pieceBytes = 4 << 20  // of the server's bytes, in one read
	maxWhole   = 16 << 20 // what a reader of the stream takes in one piece
)

// streamWriter writes a row stream.
type streamWriter struct {
	w    *bufio.Writer
	rows uint64
	tmp  [binary.MaxVarintLen64]byte
}

func newStreamWriter(w io.Writer, columns int) (*streamWriter, error) {
	s := &streamWriter{w: bufio.NewWriterSize(w, 64<<10)}
	if _, err := s.w.WriteString(streamMagic); err != nil {
		return nil, err
	}
	return s, s.uvarint(uint64(columns))
}

func (s *streamWriter) uvarint(n uint64) error {
	_, err := s.w.Write(s.tmp[:binary.PutUvarint(s.tmp[:], n)])
	return err
}

// begin starts a row; the caller then writes each value.
func (s *streamWriter) begin() error {
	s.rows++
	return s.w.WriteByte(rowMark)
}

func (s *streamWriter) value(b []byte) error {
	if b == nil {
		return s.w.WriteByte(valueNull)
	}
	if err := s.w.WriteByte(valueWhole); err != nil {
		return err
	}
	return s.piece(b)
}

func (s *streamWriter) piece(b []byte) error {
	if err := s.uvarint(uint64(len(b))); err != nil {
		return err
	}
	_, err := s.w.Write(b)
	return err
}

// pieces starts a value in pieces; each call of piece adds one, piece(nil) ends it.
func (s *streamWriter) pieces() error { return s.w.WriteByte(valuePieces) }

func (s *streamWriter) row(r engine.Row) error {
	if err := s.begin(); err != nil {
		return err
	}
	for _, b := range r {
		if err := s.value(b); err != nil {
			return err
		}
	}
	return nil
}

func (s *streamWriter) end() error {
	if err := s.w.WriteByte(endMark); err != nil {
		return err
	}
	if err := s.uvarint(s.rows); err != nil {
		return err
	}
	return s.w.Flush()
}

// streamReader reads a row stream, which may come from anywhere.
type streamReader struct {
	r       *bufio.Reader
	columns int
	rows    uint64
}

var errStream = errors.New("the stream of rows is damaged")

func newStreamReader(r io.Reader, columns int) (*streamReader, error) {
	s := &streamReader{r: bufio.NewReaderSize(r, 64<<10), columns: columns}
	magic := make([]byte, len(streamMagic))
	if _, err := io.ReadFull(s.r, magic); err != nil {
		return nil, cut(err)
	}
	if string(magic) != streamMagic {
		return nil, fmt.Errorf("%w: it begins %q", errStream, magic)
	}
	n, err := binary.ReadUvarint(s.r)
	if err != nil {
		return nil, cut(err)
	}
	if n != uint64(columns) {
		return nil, fmt.Errorf("%w: it has %d columns, the table %d", errStream, n, columns)
	}
	return s, nil
}

// cut names the end of a stream before its end mark.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", errStream, io.ErrUnexpectedEOF)
	}
	return err
}

// next moves to the next row; false is the end of the stream.
func (s *streamReader) next() (bool, error) {
	mark, err := s.r.ReadByte()
	if err != nil {
		return false, cut(err)
	}
	switch mark {
	case rowMark:
		s.rows++
		return true, nil
	case endMark:
		n, err := binary.ReadUvarint(s.r)
		if err != nil {
			return false, cut(err)
		}
		if n != s.rows {
			return false, fmt.Errorf("%w: it has %d rows and says %d", errStream, s.rows, n)
		}
		return false, nil
	}
	return false, fmt.Errorf("%w: mark %#x", errStream, mark)
}

// value reads the next value of a row. Where it comes in pieces, pieces is true and
// the caller must read them all.
func (s *streamReader) value() (b []byte, pieces bool, err error) {
	form, err := s.r.ReadByte()
	if err != nil {
		return nil, false, cut(err)
	}
	switch form {
	case valueNull:
		return nil, false, nil
	case valuePieces:
		return nil, true, nil
	case valueWhole:
		b, err := s.piece()
		if err == nil && b == nil {
			b = []byte{}
		}
		return b, false, err
	}
	return nil, false, fmt.Errorf("%w: value form %#x", errStream, form)
}

// piece reads one piece; nil is the end of them. Memory grows only with what really
// arrives.
func (s *streamReader) piece() ([]byte, error) {
	n, err := binary.ReadUvarint(s.r)
	if err != nil {
		return nil, cut(err)
	}
	if n > maxWhole {
		return nil, fmt.Errorf("%w: a value of %d bytes in one piece", errStream, n)
	}
	if n == 0 {
		return nil, nil
	}
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, s.r, int64(n)); err != nil {
		return nil, cut(err)
	}
	return buf.Bytes(), nil
}
