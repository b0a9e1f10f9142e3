package bubble

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// mailSink accepts every message by SMTP (RFC 5321), counts it and forgets it.
type mailSink struct{ count atomic.Int64 }

const (
	mailTimeout = time.Minute
	mostMail    = 64 << 20
)

func (m *mailSink) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(io.LimitReader(conn, mostMail), 4096)
	say := func(line string) bool {
		conn.SetDeadline(time.Now().Add(mailTimeout))
		_, err := io.WriteString(conn, line+"\r\n")
		return err == nil
	}
	if !say("220 drill ready; nothing is delivered") {
		return
	}
	for {
		line, err := readShort(in)
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
		reply := "250 OK"
		switch verb {
		case "DATA":
			if !say("354 go on") || skipData(in) != nil {
				return
			}
			m.count.Add(1)
		case "QUIT":
			say("221 bye")
			return
		case "STARTTLS", "AUTH", "BDAT", "EXPN", "VRFY":
			reply = "502 not here"
		}
		if !say(reply) {
			return
		}
	}
}

// readShort reads a line and keeps its beginning.
func readShort(in *bufio.Reader) (string, error) {
	line, more, err := in.ReadLine()
	kept := string(line)
	for more && err == nil {
		_, more, err = in.ReadLine()
	}
	return kept, err
}

// skipData reads until the line that is a dot.
func skipData(in *bufio.Reader) error {
	for {
		line, err := readShort(in)
		if err != nil {
			return err
		}
		if line == "." {
			return nil
		}
	}
}
