package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeMonitor answers each command by answer; a false second value is silence.
func fakeMonitor(t *testing.T, answer func(cmd string) (string, bool)) *QMP {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		fmt.Fprintln(theirs, `{"QMP": {"version": {}, "capabilities": []}}`)
		in := bufio.NewScanner(theirs)
		for in.Scan() {
			var c struct{ Execute, ID string }
			if json.Unmarshal(in.Bytes(), &c) != nil {
				return
			}
			if c.Execute == "qmp_capabilities" {
				fmt.Fprintf(theirs, `{"return": {}, "id": %q}`+"\n", c.ID)
				continue
			}
			if a, ok := answer(c.Execute); ok {
				go fmt.Fprintf(theirs, a+"\n", c.ID)
			}
		}
	}()
	q, err := NewQMP(context.Background(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

func TestQMPConcurrentCommandsGetTheirOwnReplies(t *testing.T) {
	q := fakeMonitor(t, func(cmd string) (string, bool) {
		return `{"return": "` + cmd + `", "id": %q}`, true
	})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			var got string
			want := fmt.Sprintf("command-%d", i)
			if err := q.Run(context.Background(), want, nil, &got); err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
	wg.Wait()
}

func TestQMPLongReplyAndError(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	q := fakeMonitor(t, func(cmd string) (string, bool) {
		if cmd == "bad" {
			return `{"error": {"class": "GenericError", "desc": "no such thing"}, "id": %q}`, true
		}
		return `{"return": "` + long + `", "id": %q}`, true
	})
	var got string
	if err := q.Run(context.Background(), "schema", nil, &got); err != nil || got != long {
		t.Fatalf("long reply: %d bytes, %v", len(got), err)
	}
	err := q.Run(context.Background(), "bad", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Fatalf("error reply: %v", err)
	}
}

func TestQMPDeadlineAndClose(t *testing.T) {
	q := fakeMonitor(t, func(string) (string, bool) { return "", false })
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := q.Run(ctx, "quiet", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("silent monitor: %v", err)
	}
	failed := make(chan error)
	go func() { failed <- q.Run(context.Background(), "quiet", nil, nil) }()
	q.Close()
	if err := <-failed; err == nil {
		t.Fatal("a command under way survived Close")
	}
	if err := q.Run(context.Background(), "late", nil, nil); err == nil {
		t.Fatalf("after Close: %v", err)
	}
}

func TestQMPUnreadEventsDoNotStallReplies(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		fmt.Fprintln(theirs, `{"QMP": {}}`)
		in := bufio.NewScanner(theirs)
		for in.Scan() {
			var c struct{ ID string }
			json.Unmarshal(in.Bytes(), &c)
			for range 2 * eventBacklog {
				fmt.Fprintln(theirs, `{"event": "RTC_CHANGE", "data": {"offset": 1}}`)
			}
			fmt.Fprintf(theirs, `{"return": {}, "id": %q}`+"\n", c.ID)
		}
	}()
	q, err := NewQMP(context.Background(), ours)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := q.Run(context.Background(), "query-status", nil, nil); err != nil {
		t.Fatal(err)
	}
	if e := <-q.Events(); e.Name != "RTC_CHANGE" {
		t.Fatalf("event %q", e.Name)
	}
}

func TestQMPGreeting(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() { fmt.Fprintln(theirs, `{"hello": 1}`); theirs.Close() }()
	if _, err := NewQMP(context.Background(), ours); err == nil {
		t.Fatal("a peer that is no monitor was accepted")
	}
	quiet, silent := net.Pipe()
	defer silent.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := NewQMP(ctx, quiet); err == nil {
		t.Fatal("a silent peer was accepted")
	}
}
