package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// Event is something QEMU reports unasked, such as SHUTDOWN.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// QMP is a client of one QEMU monitor. All methods may be called concurrently;
// replies are matched to commands by id, and a reply may be of any length.
type QMP struct {
	conn   net.Conn
	events chan Event
	done   chan struct{}
	write  sync.Mutex

	mu      sync.Mutex // guards what follows
	last    uint64
	waiting map[string]chan reply
	err     error
}

type reply struct {
	ID     string          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *qmpError       `json:"error"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
	QMP    json.RawMessage `json:"QMP"`
}

type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

var errMonitorClosed = errors.New("monitor closed")

// eventBacklog bounds the events kept for a slow reader; further ones are
// dropped, so that a reader can never stall the replies.
const eventBacklog = 1024

// NewQMP greets the monitor on conn and owns conn from then on. ctx bounds the
// greeting only.
func NewQMP(ctx context.Context, conn net.Conn) (*QMP, error) {
	q := &QMP{conn: conn, events: make(chan Event, eventBacklog), done: make(chan struct{}),
		waiting: map[string]chan reply{}}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	dec := json.NewDecoder(bufio.NewReaderSize(conn, 1<<16))
	var hello reply
	err := dec.Decode(&hello)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil && hello.QMP == nil {
		err = errors.New("no QMP greeting")
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet monitor: %w", err)
	}
	go q.read(dec)
	if err := q.Run(ctx, "qmp_capabilities", nil, nil); err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

func (q *QMP) read(dec *json.Decoder) {
	var err error
	for {
		var r reply
		if err = dec.Decode(&r); err != nil {
			break
		}
		if r.Event != "" {
			select {
			case q.events <- Event{r.Event, r.Data}:
			default:
			}
			continue
		}
		q.mu.Lock()
		w := q.waiting[r.ID]
		delete(q.waiting, r.ID)
		q.mu.Unlock()
		if w != nil {
			w <- r
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = errMonitorClosed
	}
	q.mu.Lock()
	q.err = err
	q.mu.Unlock()
	close(q.events)
	close(q.done)
}

// Events delivers what QEMU reports; it is closed with the monitor.
func (q *QMP) Events() <-chan Event { return q.events }

// Run executes one command and decodes its answer into result, which may be
// nil. When ctx ends first the command may still take effect.
func (q *QMP) Run(ctx context.Context, command string, arguments, result any) error {
	r, err := q.roundTrip(ctx, command, arguments)
	if err == nil && r.Error != nil {
		err = fmt.Errorf("%s: %s", r.Error.Class, r.Error.Desc)
	}
	if err == nil && result != nil {
		err = json.Unmarshal(r.Return, result)
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", command, err)
	}
	return nil
}

func (q *QMP) roundTrip(ctx context.Context, command string, arguments any) (reply, error) {
	w := make(chan reply, 1)
	q.mu.Lock()
	if q.err != nil {
		q.mu.Unlock()
		return reply{}, q.err
	}
	q.last++
	id := strconv.FormatUint(q.last, 10)
	q.waiting[id] = w
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
	}()
	if err := q.send(ctx, id, command, arguments); err != nil {
		return reply{}, err
	}
	select {
	case r := <-w:
		return r, nil
	case <-ctx.Done():
		return reply{}, ctx.Err()
	case <-q.done:
		select { // the reply may have come just before the end
		case r := <-w:
			return r, nil
		default:
			return reply{}, q.err
		}
	}
}

func (q *QMP) send(ctx context.Context, id, command string, arguments any) error {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        string `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return err
	}
	q.write.Lock()
	defer q.write.Unlock()
	deadline, _ := ctx.Deadline() // the zero time is no deadline
	q.conn.SetWriteDeadline(deadline)
	_, err = q.conn.Write(append(b, '\n'))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.DeadlineExceeded // the same to the caller, whichever way it passed
	}
	return err
}

// Close ends the connection; commands under way return an error.
func (q *QMP) Close() error {
	err := q.conn.Close()
	<-q.done
	return err
}
