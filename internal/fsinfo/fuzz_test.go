package fsinfo

import (
	"bytes"
	"errors"
	"testing"
	"unicode/utf8"
)

// FuzzDetect feeds foreign bytes to all parsers. Each superblock's magic is a
// seed, at its place.
func FuzzDetect(f *testing.F) {
	seed := func(size, at int, s string) {
		b := make([]byte, size)
		copy(b[at:], s)
		f.Add(b)
	}
	seed(2048, 1024+0x38, "\x53\xef")
	seed(512, 0, "XFSB\x00\x00\x10\x00")
	seed(68<<10, 64<<10+64, "_BHRfS_M")
	seed(4096, 4086, "SWAPSPACE2")
	fat := make([]byte, 4096)
	copy(fat, "\xeb\x3c\x90mkfs.fat\x00\x02\x04\x01\x00\x02\x00\x02\x00\x10\xf8\x02\x00")
	fat[510], fat[511] = 0x55, 0xaa
	f.Add(fat)
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := Detect(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrUnknown) || info != nil {
				t.Fatalf("got %+v, %v from memory, want ErrUnknown alone", info, err)
			}
			return
		}
		if info.Type == "" || !utf8.ValidString(info.Label) {
			t.Fatalf("got %+v", info)
		}
		for k, v := range info.Params {
			if !utf8.ValidString(v) {
				t.Fatalf("parameter %s is %q", k, v)
			}
		}
	})
}
