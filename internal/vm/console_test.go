package vm

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestConsoleSigns(t *testing.T) {
	for _, test := range []struct {
		text string
		want []Sign
	}{
		{"\x1b[2JSeaBIOS (version 1.16)\r\n", []Sign{SignFirmware}},
		{"[    0.000000] Linux version 6.1.0\nweb1 login: ", []Sign{SignKernel, SignLogin}},
		{"\x1b[0;1;31mKernel panic - not\x1b[0m syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
			[]Sign{SignNoRoot, SignPanic}},
		{"ALERT!  UUID=1234 does not exist.  Dropping to a shell!\n(initramfs) ", []Sign{SignNoRoot, SignInitramfs}},
		{"You are in emergency mode. After logging in", []Sign{SignEmergency}},
		{"error: no such device: 1234.\ngrub rescue> ", []Sign{SignLoaderError}},
		{"\x1b]0;title login:\x07prompt", nil},
		{"the catalogin: done", nil},
	} {
		for _, step := range []int{1, 7, len(test.text)} {
			c := NewConsole(nil)
			for rest := []byte(test.text); len(rest) > 0; {
				n := min(step, len(rest))
				c.Write(rest[:n])
				rest = rest[n:]
			}
			got := map[Sign]bool{}
			for _, s := range c.Sightings() {
				got[s.Sign] = true
			}
			if len(got) != len(test.want) {
				t.Errorf("%q in steps of %d: got %v, want %v", test.text, step, got, test.want)
			}
			for _, s := range test.want {
				if !got[s] {
					t.Errorf("%q in steps of %d: no sign of %s", test.text, step, s)
				}
			}
		}
	}
}

func TestConsoleWaitForAndTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := NewConsole(&log)
		go func() {
			time.Sleep(time.Second)
			c.Write([]byte("one\ntwo\nweb1 login: "))
		}()
		s, err := c.WaitFor(t.Context(), SignPanic, SignLogin)
		if err != nil || s.Sign != SignLogin || s.Line != "web1 login:" {
			t.Fatalf("got %+v, %v", s, err)
		}
		if got := strings.Join(c.Tail(), "|"); got != "one|two|web1 login:" {
			t.Fatalf("tail %q", got)
		}
		if log.String() != "one\ntwo\nweb1 login: " || c.Bytes() != int64(log.Len()) {
			t.Fatalf("log %q", log.String())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.WaitFor(ctx, SignEmergency); err == nil {
			t.Fatal("saw what was not there")
		}
	})
}

func TestConsoleMemoryIsBounded(t *testing.T) {
	c := NewConsole(nil)
	c.Write(bytes.Repeat([]byte("x"), 1<<20))
	for range 1000 {
		c.Write([]byte("line\n"))
	}
	if n := len(c.Tail()); n != tailKept {
		t.Fatalf("%d lines kept", n)
	}
	if cap(c.line) > 2*maxLine {
		t.Fatalf("%d bytes of line kept", cap(c.line))
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("\x1b[2J\x1b]0;t\x07Linux version 1\r\nlogin: "), 3)
	f.Fuzz(func(t *testing.T, text []byte, step int) {
		whole, parts := NewConsole(nil), NewConsole(nil)
		whole.Write(text)
		step = max(1, step%(len(text)+1))
		for rest := text; len(rest) > 0; {
			n := min(step, len(rest))
			parts.Write(rest[:n])
			rest = rest[n:]
		}
		if a, b := strings.Join(whole.Tail(), "\n"), strings.Join(parts.Tail(), "\n"); a != b {
			t.Fatalf("whole %q, in parts %q", a, b)
		}
	})
}
