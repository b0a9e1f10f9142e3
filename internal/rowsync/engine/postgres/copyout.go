package postgres

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// maxReply bounds what the server may send that is not data.
const maxReply = 1 << 20

// copyOut runs COPY … TO STDOUT and writes what comes to w. The server sends each
// row as one message; the message is passed on while it is read, so that a row with
// a value of a hundred megabytes needs no more memory than any other. pgconn holds
// messages whole, so its connection is read beneath it.
func (c *conn) copyOut(ctx context.Context, sql string, w io.Writer) (int64, error) {
	c.Frontend().SendQuery(&pgproto3.Query{String: sql})
	if err := c.Frontend().Flush(); err != nil {
		c.drop()
		return 0, mend(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Conn().SetReadDeadline(time.Unix(1, 0)) })
	in := copyReader{r: bufio.NewReaderSize(c.Conn(), 1<<16), w: w}
	rows, err := in.run()
	if !stop() {
		<-ctx.Done()
		c.drop()
		return rows, context.Cause(ctx)
	}
	if !in.ready || in.r.Buffered() > 0 {
		c.drop()
	}
	return rows, mend(err)
}

// copyReader reads the server's messages up to ReadyForQuery.
type copyReader struct {
	r     *bufio.Reader
	w     io.Writer
	rows  int64
	ready bool
}

func (c *copyReader) run() (int64, error) {
	var failed error
	for {
		var head [5]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return c.rows, err
		}
		size := int64(binary.BigEndian.Uint32(head[1:])) - 4
		if size < 0 || size > 1<<31 {
			return c.rows, fmt.Errorf("read from server: a message of %d bytes", size)
		}
		if head[0] == 'd' && failed == nil {
			if _, err := io.CopyN(c.w, c.r, size); err != nil {
				return c.rows, err
			}
			continue
		}
		if head[0] == 'd' {
			if _, err := io.CopyN(io.Discard, c.r, size); err != nil {
				return c.rows, err
			}
			continue
		}
		if size > maxReply {
			return c.rows, fmt.Errorf("read from server: a message %q of %d bytes", head[0], size)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(c.r, body); err != nil {
			return c.rows, err
		}
		switch head[0] {
		case 'E':
			var e pgproto3.ErrorResponse
			if err := e.Decode(body); err != nil {
				return c.rows, err
			}
			failed = pgconn.ErrorResponseToPgError(&e)
		case 'C':
			tag := strings.TrimRight(string(body), "\x00")
			c.rows, _ = strconv.ParseInt(strings.TrimPrefix(tag, "COPY "), 10, 64)
		case 'Z':
			c.ready = true
			return c.rows, failed
		}
	}
}
