package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestStream(t *testing.T) {
	s := startSSHD(t)
	box := Target{Host: "box", SSHConfig: s.config}
	in := make([]byte, 3<<20)
	_, _ = rand.Read(in)
	var out bytes.Buffer
	if err := Stream(t.Context(), box, Options{}, `test "it's" != "a\b" && cat`, bytes.NewReader(in), &out); err != nil || !bytes.Equal(in, out.Bytes()) {
		t.Errorf("%d of %d bytes came back, %v", out.Len(), len(in), err)
	}
	err := Stream(t.Context(), box, Options{}, "echo why >&2; exit 7", nil, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "why") {
		t.Errorf("a command that fails gave %v", err)
	}
	// A command that ends before its input does.
	r, w := io.Pipe()
	defer w.Close()
	if err := Stream(t.Context(), box, Options{}, "exit 0", r, io.Discard); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := Stream(ctx, box, Options{}, "sleep 60", nil, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that was cut gave %v", err)
	}
}
